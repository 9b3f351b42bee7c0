"""The rows of the Beam YAML transforms, and elements from and to them."""

# ruff: noqa: UP045  `X | None` is no optional type to Beam's schemas before Python 3.14
# No `from __future__ import annotations`: Beam makes schemas of the rows' annotations.

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Optional

import numpy as np

from clip_transforms.elements import Failure, ImageRef, RequestError
from clip_transforms.transforms.elements import EmbeddedImage, EncodedBy, ImageLabel, as_row


class ImageRow(NamedTuple):
    """One image that was found; image bytes only where the source had them at hand."""

    image_id: str
    uri: str
    url: str
    caption: Optional[str]
    extra: Optional[str]
    payload: Optional[bytes]


class FailureRow(NamedTuple):
    """One input that could not be embedded."""

    image_id: str
    uri: str
    stage: str
    reason: str
    message: str
    attempts: int


class EmbeddingRow(NamedTuple):
    """One embedded image."""

    image_id: str
    uri: str
    embedding: Sequence[np.float32]
    width: int
    height: int
    format: str
    bytes: int
    sha256: str
    phash: str
    caption: Optional[str]
    extra: Optional[str]
    encoder: str
    weights_id: str
    fingerprint: str


class TopLabelRow(NamedTuple):
    """One of the best classes of an image."""

    label: str
    score: float
    cosine: float


class LabelRow(NamedTuple):
    """What one prompt set says of one image."""

    image_id: str
    uri: str
    label: Optional[str]
    score: float
    cosine: float
    margin: float
    entropy: float
    top_k: Sequence[TopLabelRow]
    labels: Optional[Sequence[str]]
    path: Optional[Sequence[str]]
    decision: str
    decision_reason: str
    prompt_set: str
    fingerprint: Optional[str]
    encoder: str


def image_rows(image: ImageRef | Failure) -> list[ImageRow]:
    """The row of a reference; nothing for a failure."""
    if isinstance(image, Failure):
        return []
    return [ImageRow(*(getattr(image, name) for name in ImageRow._fields))]


def image_of(row: Any, column: str, id_column: Optional[str]) -> ImageRef | str | tuple[str, Any]:
    """What EmbedImages is to embed: an ImageRow, or a row with a column of urls or bytes. Raises RequestError."""
    found = row._asdict()
    if set(ImageRow._fields) <= set(found):
        return ImageRef(**{name: found[name] for name in ImageRow._fields})
    missing = [name for name in (column, id_column) if name is not None and name not in found]
    if missing:
        raise RequestError(f"rows have no column {', '.join(missing)}; they have {', '.join(found)}")
    value = found[column]
    if id_column is not None:
        return str(found[id_column]), value
    if isinstance(value, bytes):
        raise RequestError(
            f"the column {column} has image bytes; say with id_column what the images are called"
        )
    return str(value or "")


def failure_rows(image: ImageRef | Failure) -> list[FailureRow]:
    """The row of a failure; nothing for a reference."""
    return [FailureRow(**as_row(image))] if isinstance(image, Failure) else []


def embedding_row(image: EmbeddedImage) -> EmbeddingRow:
    """The row of an embedded image."""
    return EmbeddingRow(**as_row(image), weights_id=image.encoded_by.weights_id)


def embedded_of(row: Any) -> EmbeddedImage | tuple[str, Any]:
    """What LabelEmbeddings is to label: an EmbeddingRow, or a row with image_id and embedding."""
    found = row._asdict()
    vector = np.asarray(found["embedding"], np.float32)
    if not set(EmbeddingRow._fields) <= set(found):
        return str(found["image_id"]), vector
    by = EncodedBy(**{field.name: found[field.name] for field in fields(EncodedBy)})
    plain = {field.name for field in fields(EmbeddedImage)} & set(found) - {"embedding"}
    return EmbeddedImage(embedding=vector, encoded_by=by, **{name: found[name] for name in plain})


def label_row(label: ImageLabel) -> LabelRow:
    """The row of a label."""
    row = as_row(label)
    return LabelRow(**{**row, "top_k": [TopLabelRow(**found) for found in row["top_k"]]})
