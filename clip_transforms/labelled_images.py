"""Embeddings of images whose true label is known, from a folder a class or a column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from clip_transforms.elements import Failure, ImageError, ImageRef, RequestError
from clip_transforms.encoders.base import Encoder, Float32, UInt8
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions, decode_to_pixels
from clip_transforms.input_images import bytes_of, input_images
from clip_transforms.sources.options import SourceOptions

FOLDER = "folder"


@dataclass(slots=True)
class LabelledImages:
    """Embeddings [N, D] of norm 1, each image's uri and label as the input has it; what could not be used."""

    embeddings: Float32
    uris: list[str]
    labels: list[str]
    failures: list[Failure] = field(default_factory=list)
    unlabelled: int = 0


def label_of(image: ImageRef, labels_from: str) -> str | None:
    """The true label of an image: its folder's name, or the text in a column; None where it has none.

    >>> ref = ImageRef(image_id="1", uri="/data/cat/1.jpg", url="/data/cat/1.jpg", extra='{"kind": "pet"}')
    >>> label_of(ref, "folder"), label_of(ref, "kind")
    ('cat', 'pet')
    """
    if labels_from == FOLDER:
        parts = image.uri.partition("#")[2] or image.uri
        folders = parts.rstrip("/").split("/")[:-1]
        return folders[-1] if folders and folders[-1] else None
    if labels_from == "caption":
        return image.caption
    value = (json.loads(image.extra) if image.extra else {}).get(labels_from)
    return str(value) if value is not None and str(value).strip() else None


def embed_labelled(
    inputs: Sequence[str],
    encoder: Encoder,
    *,
    labels_from: str,
    sources: SourceOptions,
    limit: int | None = None,
    batch_size: int = 64,
    threads: int = 2,
) -> LabelledImages:
    """Reads, decodes and embeds every image that has a label.

    labels_from: `folder`, `caption`, or the name of a column. Raises RequestError where no image has a label
    or none can be decoded.
    """
    found = LabelledImages(embeddings=np.zeros((0, encoder.dim), np.float32), uris=[], labels=[])
    prepare = partial(
        _pixels,
        fetching=FetchOptions(max_bytes=sources.max_bytes, storage_options=sources.storage_options),
        decoding=DecodeOptions(max_bytes=sources.max_bytes),
        encoder=encoder,
    )
    images = islice(_labelled(inputs, sources, labels_from, found), limit)
    parts = [found.embeddings]
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(images, batch_size)):
            pixels = list(pool.map(prepare, (ref for ref, _ in batch)))
            good = [k for k, one in enumerate(pixels) if not isinstance(one, Failure)]
            found.failures += [one for one in pixels if isinstance(one, Failure)]
            found.uris += [batch[k][0].uri for k in good]
            found.labels += [batch[k][1] for k in good]
            if good:
                parts.append(encoder.encode_images(np.stack([np.asarray(pixels[k]) for k in good])))
    found.embeddings = np.concatenate(parts)
    if not found.labels:
        raise RequestError(
            f"no image has a label that can be used (--labels-from {labels_from}): {found.unlabelled} have no "
            f"label, {len(found.failures)} cannot be decoded"
        )
    return found


def _pixels(
    ref: ImageRef, *, fetching: FetchOptions, decoding: DecodeOptions, encoder: Encoder
) -> UInt8 | Failure:
    try:
        return decode_to_pixels(bytes_of(ref, fetching), decoding, encoder.preprocess)[0]
    except ImageError as error:
        return Failure(
            image_id=ref.image_id, uri=ref.uri, stage=error.stage, reason=error.reason, message=error.message
        )


def _labelled(
    inputs: Sequence[str], sources: SourceOptions, labels_from: str, found: LabelledImages
) -> Iterator[tuple[ImageRef, str]]:
    """Images with their labels; the others are counted in `found`."""
    for image in input_images(inputs, sources):
        if isinstance(image, Failure):
            found.failures.append(image)
        elif (label := label_of(image, labels_from)) is None:
            found.unlabelled += 1
        else:
            yield image, label
