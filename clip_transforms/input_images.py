"""The images of inputs one after another, in one process: for jobs that need no plan and no workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pyarrow as pa

from clip_transforms.elements import Failure, ImageRef
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.sources.options import PlanItem, SourceOptions
from clip_transforms.sources.reading import read_unit
from clip_transforms.sources.scanning import scan
from schemas.plan import PLAN


def input_images(inputs: Sequence[str], sources: SourceOptions) -> Iterator[ImageRef | Failure]:
    """Every image that the inputs name, in their order; what cannot be read as failures.

    Raises RequestError where an input is not there or has nothing to read, StoreError where a store fails.
    """
    for item in scan(inputs, sources):
        with closing(read_unit(item.kind, _rows_of(item), sources)) as found:  # type: ignore[type-var]
            yield from found


def bytes_of(image: ImageRef, options: FetchOptions) -> bytes:
    """The encoded image: what the source had at hand, or fetched. Raises ImageError."""
    return image.payload if image.payload is not None else fetch(image.url, options)


def _rows_of(item: PlanItem) -> pa.Table:
    row = {name: getattr(item, name) for name in PLAN.names if name != "unit"}
    return pa.Table.from_pylist([{"unit": 0, **row, "kind": item.kind.value}], schema=PLAN)
