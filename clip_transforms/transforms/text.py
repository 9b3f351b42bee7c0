"""The text side of labelling elements: a prompt set made ready for an encoder, and labels for embeddings."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_transforms.captions import score_captions
from clip_transforms.elements import ContractError, RequestError
from clip_transforms.encoders.base import Encoder, Family, Float32
from clip_transforms.fingerprint import labels_fingerprint
from clip_transforms.label_rows import labels_table
from clip_transforms.labelsets import DEFAULT_TOP_K, LabelSet
from clip_transforms.prompts import PromptSet
from clip_transforms.scoring import score
from clip_transforms.text_features import TextFeatures, text_features
from clip_transforms.transforms.elements import EmbeddedImage, ImageLabel, ScoredLabel, ScoredPair

_EPOCH = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A prompt set with its text features and the encoder's scale: labels embeddings without the encoder.

    Made by `classifier`; picklable, 4 * classes * D bytes.
    """

    prompt_set: PromptSet
    features: TextFeatures
    family: Family
    logit_scale: float
    logit_bias: float
    weights_id: str
    top_k: int = DEFAULT_TOP_K

    @property
    def tag(self) -> str:
        """`<set>@<hash8>`, as a run names the set's labels."""
        return LabelSet(prompt_set=self.prompt_set, top_k=self.top_k).tag


def classifier(prompt_set: PromptSet, encoder: Encoder, *, top_k: int = DEFAULT_TOP_K) -> Classifier:
    """Encode a prompt set. Raises RequestError for a top_k below 1."""
    if top_k < 1:
        raise RequestError(f"top_k is {top_k}, expected 1 or more")
    return Classifier(
        prompt_set=prompt_set,
        features=text_features(prompt_set, encoder),
        family=encoder.family,
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        weights_id=encoder.weights_id,
        top_k=top_k,
    )


Vector = tuple[str, Float32]  # (image_id, embedding [D] of norm 1)


def label_images(images: Sequence[EmbeddedImage | Vector], by: Classifier) -> list[ImageLabel]:
    """One label for each image, in their order; of a bare vector its id is the uri too.

    Raises ContractError for embeddings of another encoder, of other weights, or not of norm 1.
    """
    if not images:
        return []
    ids, uris, vectors = zip(*(_parts(image, by) for image in images), strict=True)
    scored = score(
        np.stack(vectors),
        by.features,
        by.prompt_set,
        family=by.family,
        logit_scale=by.logit_scale,
        logit_bias=by.logit_bias,
        top_k=by.top_k,
    )
    table = labels_table(
        scored,
        image_id=ids,
        uri=uris,
        prompt_set=by.tag,
        fingerprint="",
        encoder=by.features.encoder,
        run_id="",
        created_at=_EPOCH,
    ).drop_columns(["fingerprint", "run_id", "created_at", "calibrated"])
    prints = _fingerprints(images, by)
    return [_label(row, fingerprint) for row, fingerprint in zip(table.to_pylist(), prints, strict=True)]


def _parts(image: EmbeddedImage | Vector, by: Classifier) -> tuple[str, str, Float32]:
    if isinstance(image, tuple):
        key, vector = image
        return key, key, _checked(np.asarray(vector, np.float32), key, by)
    if image.encoded_by.weights_id != by.weights_id:
        theirs = f"{image.encoded_by.encoder} (weights {image.encoded_by.weights_id})"
        ours = f"{by.features.encoder} (weights {by.weights_id})"
        raise ContractError(f"{image.uri} was embedded by {theirs}, its labels are texts of {ours}")
    return image.image_id, image.uri, _checked(image.embedding, image.uri, by)


def _checked(vector: Float32, key: str, by: Classifier) -> Float32:
    expected = by.features.matrix.shape[1:]
    if vector.shape != expected:
        raise ContractError(
            f"the embedding of {key} has the shape {vector.shape}, expected {expected} for {by.features.encoder}"
        )
    return vector


def _fingerprints(images: Sequence[EmbeddedImage | Vector], by: Classifier) -> list[str | None]:
    made: dict[str, str] = {}
    found: list[str | None] = []
    for image in images:
        if isinstance(image, tuple):
            found.append(None)
            continue
        key = image.encoded_by.fingerprint
        if key not in made:
            made[key] = labels_fingerprint(key, prompt_set=by.prompt_set.hash)
        found.append(made[key])
    return found


def _label(row: dict[str, object], fingerprint: str | None) -> ImageLabel:
    top = tuple(ScoredLabel(**found) for found in row.pop("top_k"))  # type: ignore[attr-defined]
    lists = {name: _tuple(row.pop(name)) for name in ("labels", "path")}
    return ImageLabel(top_k=top, fingerprint=fingerprint, **lists, **row)  # type: ignore[arg-type]


def _tuple(values: object) -> tuple[str, ...] | None:
    return tuple(values) if isinstance(values, list) else None


def score_pairs(images: Sequence[EmbeddedImage], encoder: Encoder) -> list[ScoredPair]:
    """The cosine of each image and its caption, in their order.

    Raises ContractError for images of other weights than the encoder's.
    """
    for image in images:
        if image.encoded_by.weights_id != encoder.weights_id:
            told = f"{image.uri} was embedded by {image.encoded_by.encoder}"
            raise ContractError(
                f"{told} (weights {image.encoded_by.weights_id}), its caption by {encoder.name}"
            )
    if not images:
        return []
    scored = score_captions(
        [image.caption for image in images], np.stack([image.embedding for image in images]), encoder
    )
    return [
        ScoredPair(
            image_id=image.image_id,
            uri=image.uri,
            caption=image.caption,
            similarity=None if np.isnan(similarity) else float(similarity),
            text_truncated=bool(truncated),
            encoder=encoder.name,
        )
        for image, similarity, truncated in zip(images, scored.similarity, scored.truncated, strict=True)
    ]
