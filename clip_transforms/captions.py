"""Captions against images: texts encoded in bounded batches, and how near each is to its image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.encoders.base import Encoder, EncoderOutOfMemory, Float32

_TEXTS = 256  # a call of the encoder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredCaptions:
    """N captions held against N images.

    vectors: [N, D], of norm 1; rows without a caption are zeros. similarity: [N] cosines in -1..1, NaN without
    a caption. truncated: [N], whether the text was longer than the encoder's context. given: [N], whether there
    is a caption.
    """

    vectors: Float32
    similarity: Float32
    truncated: npt.NDArray[np.bool_]
    given: npt.NDArray[np.bool_]


def has_text(caption: str | None) -> bool:
    """Whether a caption says anything.

    >>> has_text("a cat"), has_text(" \\n"), has_text(""), has_text(None)
    (True, False, False, False)
    """
    return bool(caption and caption.strip())


def score_captions(captions: Sequence[str | None], images: Float32, encoder: Encoder) -> ScoredCaptions:
    """Encode captions and hold each against its image's embedding, images [N, D] of norm 1.

    What is longer than the context is cut by the encoder, and flagged. A missing or blank caption is no error.
    """
    given = np.array([has_text(caption) for caption in captions], np.bool_)
    texts = [caption for caption in captions if caption is not None and has_text(caption)]
    vectors = np.zeros((len(captions), encoder.dim), np.float32)
    truncated = np.zeros(len(captions), np.bool_)
    if texts:
        vectors[given] = encode_texts(texts, encoder)
        truncated[given] = np.array(encoder.token_counts(texts)) > encoder.context_length
    cosine = np.einsum("ij,ij->i", images.astype(np.float64), vectors.astype(np.float64))
    similarity = np.clip(cosine, -1, 1).astype(np.float32)
    similarity[~given] = np.nan
    return ScoredCaptions(vectors=vectors, similarity=similarity, truncated=truncated, given=given)


def encode_texts(texts: Sequence[str], encoder: Encoder) -> Float32:
    """[T, D] float32, rows of norm 1; in calls of at most 256 texts, of fewer where the device has no room."""
    if not texts:
        return np.zeros((0, encoder.dim), np.float32)
    half = (len(texts) + 1) // 2
    if len(texts) <= _TEXTS:
        try:
            return encoder.encode_texts(texts)
        except EncoderOutOfMemory:
            if len(texts) == 1:
                raise
    return np.concatenate([encode_texts(part, encoder) for part in (texts[:half], texts[half:])])
