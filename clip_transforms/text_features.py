"""Text features: one unit vector per class of a prompt set, keyed by class, and their file form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clip_transforms.elements import ContractError
from clip_transforms.encoders.base import Encoder, EncoderOutOfMemory, Float32
from clip_transforms.prompts.types import PromptSet

_FORMAT = "beamclip text features 1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextFeatures:
    """Unit vectors of texts. keys [C] name the rows of matrix [C, D], float32; texts counts what each is the
    mean of. fingerprint is `text_fingerprint` of what made them.
    """

    keys: tuple[str, ...]
    matrix: Float32
    texts: tuple[int, ...]
    fingerprint: str
    encoder: str

    def rows(self, keys: tuple[str, ...]) -> Float32:
        """The rows of these keys, in their order. Raises ContractError when one is missing."""
        places = {key: place for place, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in places]
        if missing:
            told = f"{len(missing)} classes, such as '{missing[0]}', have no text features"
            raise ContractError(f"{told}: these features are of another prompt set (encoder {self.encoder})")
        return np.ascontiguousarray(self.matrix[[places[key] for key in keys]])


def text_fingerprint(prompts: PromptSet, encoder: Encoder) -> str:
    """sha256 hex over all that text features depend on: the texts of each class and the encoder.

    Two sets that differ only in thresholds share their features.
    """
    content = [
        _FORMAT,
        encoder.name,
        encoder.weights_id,
        encoder.precision,
        encoder.dim,
        encoder.context_length,
        prompts.prompts_by_class(),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def text_features(prompts: PromptSet, encoder: Encoder, *, batch_size: int = 256) -> TextFeatures:
    """Encode a prompt set: each class is the mean of its texts' unit vectors, scaled to norm 1.

    batch_size: texts a call; halved where the device has no room. Memory is [C, D] whatever the number of
    templates. Source: the prompt ensembles of CLIP, arXiv 2103.00020, section 3.1.4.
    """
    by_class = prompts.prompts_by_class()
    sums = np.zeros((len(by_class), encoder.dim), np.float64)
    texts = [(row, text) for row, found in enumerate(by_class.values()) for text in found]
    for rows, vectors in _encoded(texts, encoder, batch_size):
        np.add.at(sums, rows, vectors)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    bad = [
        key for key, norm in zip(by_class, norms[:, 0], strict=True) if not (np.isfinite(norm) and norm > 0)
    ]
    if bad:
        cause = "the encoder gave vectors that are not finite, or that cancel out"
        raise ContractError(f"no text feature for the class '{bad[0]}': {cause} ({encoder.name})")
    return TextFeatures(
        keys=tuple(by_class),
        matrix=(sums / norms).astype(np.float32),
        texts=tuple(len(found) for found in by_class.values()),
        fingerprint=text_fingerprint(prompts, encoder),
        encoder=encoder.name,
    )


def _encoded(
    texts: list[tuple[int, str]], encoder: Encoder, batch_size: int
) -> Iterator[tuple[list[int], Float32]]:
    """Row numbers and unit vectors, a batch at a time."""
    start = 0
    while start < len(texts):
        batch = texts[start : start + batch_size]
        try:
            vectors = encoder.encode_texts([text for _, text in batch])
        except EncoderOutOfMemory:
            if batch_size == 1:
                raise
            batch_size = max(1, min(batch_size, len(batch)) // 2)
            continue
        yield [row for row, _ in batch], vectors
        start += len(batch)


def dump_text_features(features: TextFeatures) -> bytes:
    """The features as an Arrow IPC file: columns key, texts and vector, the rest in the schema's metadata."""
    dim = features.matrix.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.matrix.reshape(-1), pa.float32()), dim)
    table = pa.table(
        {
            "key": pa.array(features.keys, pa.string()),
            "texts": pa.array(features.texts, pa.int32()),
            "vector": vectors,
        }
    ).replace_schema_metadata(
        {"format": _FORMAT, "fingerprint": features.fingerprint, "encoder": features.encoder}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def load_text_features(data: bytes, *, fingerprint: str | None = None) -> TextFeatures:
    """The features of `dump_text_features`. Raises ContractError when the bytes are no such file, or when
    they are not those of `fingerprint`.
    """
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    except pa.ArrowInvalid as error:
        raise ContractError(f"not a file of text features: {error}")
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if about.get("format") != _FORMAT:
        raise ContractError(
            f"not a file of text features: expected '{_FORMAT}', found {about.get('format')!r}"
        )
    if fingerprint is not None and about["fingerprint"] != fingerprint:
        found = f"{about['fingerprint'][:8]} (encoder {about['encoder']})"
        raise ContractError(
            f"text features of another set or encoder: expected {fingerprint[:8]}, found {found}"
        )
    vectors = table["vector"].combine_chunks()
    matrix = vectors.flatten().to_numpy().reshape(len(table), vectors.type.list_size)
    return TextFeatures(
        keys=tuple(table["key"].to_pylist()),
        matrix=np.array(matrix, np.float32),
        texts=tuple(table["texts"].to_pylist()),
        fingerprint=about["fingerprint"],
        encoder=about["encoder"],
    )
