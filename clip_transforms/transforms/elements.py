"""The elements of the public transforms, what they take as an image, and how they become rows of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa

from clip_transforms.elements import Failure, ImageInfo, ImageRef, Reason, RequestError, Stage
from clip_transforms.encoders.base import Float32
from clip_transforms.sources.urls import canonical_uri, has_credentials, image_id_of
from schemas.embeddings import embeddings_schema
from schemas.failures import FAILURES
from schemas.labels import LABELS

_OF_A_RUN = ("calibrated", "run_id", "created_at")  # columns that only a run's files have


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBy:
    """What made an embedding: two of them can be compared only if encoder and weights_id are the same."""

    encoder: str  # resolved name
    weights_id: str
    fingerprint: str  # as in the files of a run: encoder, weights, preprocessing, decoding, precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedImage:
    """One embedded image. embedding: [D] float32 of norm 1; width and height in pixels, after EXIF."""

    image_id: str
    uri: str
    embedding: Float32
    width: int
    height: int
    format: str  # Pillow's name, e.g. "JPEG"
    bytes: int  # of the encoded image
    sha256: str  # hex, of the encoded bytes
    phash: str  # 64-bit perceptual hash, 16 hex digits
    caption: str | None = None
    extra: str | None = None  # JSON object
    carry: tuple[object, ...] = ()  # values of SourceOptions.carry
    encoded_by: EncodedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabel:
    """One of the best classes of an image."""

    label: str
    score: float  # probability
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLabel:
    """What one prompt set says of one image: the columns of a run's `labels/`."""

    image_id: str
    uri: str
    label: str | None  # None: below every threshold, or a multi-label set
    score: float  # probability of the label (of the best class where there is none)
    cosine: float
    margin: float  # p1 - p2; multi: least distance to a threshold
    entropy: float  # 0..1
    top_k: tuple[ScoredLabel, ...]  # falling score
    labels: tuple[str, ...] | None  # multi-label sets only
    path: tuple[str, ...] | None  # hierarchies only, from the root
    decision: str  # review or abstain
    decision_reason: str
    prompt_set: str  # <set>@<hash8>
    fingerprint: str | None  # None where the embedding came without one
    encoder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPair:
    """How near an image is to its caption. similarity: raw cosine; None where there is no caption."""

    image_id: str
    uri: str
    caption: str | None
    similarity: float | None
    text_truncated: bool  # the encoder saw only the beginning of the caption
    encoder: str


def as_image(element: object) -> ImageRef | Failure:
    """What an element of a pipeline asks to be embedded; a Failure stays one.

    An ImageRef; a url or path; a (key, bytes) or (key, url) tuple, whose key becomes the image_id. What is no
    url, or None in its place, is bad data: a Failure. Raises RequestError for any other type.

    >>> as_image(("a7", b"...")).image_id, as_image("s3a://b/a.jpg").uri, as_image("").reason.value
    ('a7', 's3://b/a.jpg', 'bad_name')
    """
    if isinstance(element, (ImageRef, Failure)):
        return element
    if isinstance(element, str) or element is None:
        return _of_url(element or "", None)
    if isinstance(element, tuple) and len(element) == 2 and isinstance(element[0], str):
        key, value = element
        if isinstance(value, bytes):
            return ImageRef(image_id=key, uri=key, url="", payload=value)
        if isinstance(value, str) or value is None:
            return _of_url(value or "", key)
    found = type(element).__name__
    if isinstance(element, tuple):
        found = f"({', '.join(type(part).__name__ for part in element)})"
    raise RequestError(
        f"an image is an ImageRef, a url, (key, bytes) or (key, url) with a text as key; got {found}"
    )


def _of_url(url: str, key: str | None) -> ImageRef | Failure:
    try:
        url.encode()
        if not url.strip():
            raise ValueError("an empty url")
        uri = canonical_uri(url)
    except ValueError as error:  # lone surrogates too
        shown = url.encode("utf-8", "backslashreplace").decode()
        message = "not valid Unicode" if isinstance(error, UnicodeError) else "not a valid url"
        return Failure(
            image_id=key or image_id_of(shown),
            uri=shown,
            stage=Stage.LIST,
            reason=Reason.BAD_NAME,
            message=message,
        )
    opened = url if has_credentials(url) else uri
    return ImageRef(image_id=key or image_id_of(uri), uri=uri, url=opened)


def embedded_image(
    ref: ImageRef, info: ImageInfo, embedding: Float32, encoded_by: EncodedBy
) -> EmbeddedImage:
    """The element of one embedded image; embedding [D] is copied, as it is a row of a whole batch."""
    return EmbeddedImage(
        image_id=ref.image_id,
        uri=ref.uri,
        embedding=embedding.copy(),
        width=info.width,
        height=info.height,
        format=info.format,
        bytes=info.bytes,
        sha256=info.sha256,
        phash=info.phash,
        caption=ref.caption,
        extra=ref.extra,
        carry=ref.carry,
        encoded_by=encoded_by,
    )


def as_row(element: object) -> dict[str, Any]:
    """An element as plain values, with the columns of its schema here; for file, JSON and BigQuery sinks.

    >>> as_row(ScoredLabel(label="cat", score=0.5, cosine=0.25))
    {'label': 'cat', 'score': 0.5, 'cosine': 0.25}
    """
    row: dict[str, Any] = _plain(element)
    by = row.pop("encoded_by", None)
    if by is not None:
        del row["carry"]
        row |= {"encoder": by["encoder"], "fingerprint": by["fingerprint"]}
    return row


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _without_run(schema: pa.Schema) -> pa.Schema:
    """The columns that elements have, in plain strings: a row at a time, there is no dictionary to share."""
    kept = [field for field in schema if field.name not in _OF_A_RUN]
    plain = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in kept]
    return pa.schema([field.with_nullable(True) if field.name == "fingerprint" else field for field in plain])


#: The schema of `as_row(ImageLabel)`.
LABEL_ROWS = _without_run(LABELS)
#: The schema of `as_row(Failure)`.
FAILURE_ROWS = _without_run(FAILURES)


def embedded_rows(dim: int) -> pa.Schema:
    """The schema of `as_row(EmbeddedImage)`, for an encoder of `dim` dimensions.

    >>> embedded_rows(4).names[:3]
    ['image_id', 'uri', 'embedding']
    """
    return _without_run(embeddings_schema(dim))
