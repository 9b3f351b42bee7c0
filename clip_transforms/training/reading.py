"""Training pictures from any source that the main job reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice

from clip_transforms.elements import Failure, ImageError, RequestError
from clip_transforms.fetch import FetchOptions
from clip_transforms.input_images import bytes_of, input_images
from clip_transforms.sources.options import SourceOptions
from clip_transforms.training.examples import Examples, gather, with_captions
from clip_transforms.url_guard import schemes_of

logger = logging.getLogger(__name__)


def read_rows(
    inputs: Sequence[str],
    sources: SourceOptions,
    *,
    limit: int | None = None,
    allow_private_urls: bool = False,
) -> Iterator[tuple[bytes, str | None, str | None]]:
    """(encoded picture, caption, extra) of every input that can be read; what cannot is logged and left out.

    allow_private_urls: lifts the guard on what urls of pictures may reach (clip_transforms.url_guard).
    Raises RequestError where an input is not there or has nothing to read, StoreError where a store fails.
    """
    fetching = FetchOptions(
        max_bytes=sources.max_bytes,
        storage_options=sources.storage_options,
        allow_private_urls=allow_private_urls,
        schemes=schemes_of(inputs),
    )
    yield from islice(_rows(inputs, sources, fetching), limit)


def _rows(
    inputs: Sequence[str], sources: SourceOptions, fetching: FetchOptions
) -> Iterator[tuple[bytes, str | None, str | None]]:
    for image in input_images(inputs, sources):
        if isinstance(image, Failure):
            logger.warning("%s is left out: %s", image.uri, image.message)
            continue
        try:
            data = bytes_of(image, fetching)
        except ImageError as error:
            logger.warning("%s is left out: %s", image.uri, error)
            continue
        yield data, image.caption, image.extra


def read_examples(
    inputs: Sequence[str],
    sources: SourceOptions,
    *,
    side: int,
    limit: int | None = None,
    allow_private_urls: bool = False,
) -> Examples:
    """All pictures with a caption, decoded to `side` pixels and held in memory (4 * side * side bytes each).

    limit, allow_private_urls: as of `read_rows`.
    Raises RequestError where nothing has a caption, or fewer than two pictures can be used.
    """
    rows = read_rows(inputs, sources, limit=limit, allow_private_urls=allow_private_urls)
    examples = gather(with_captions(rows), side=side)
    if len(set(examples.captions)) < 2:
        raise RequestError(
            f"all {len(examples)} pictures have the caption {examples.captions[0][0]!r}: "
            "contrastive training needs different captions"
        )
    return examples
