"""What inputs name, in chunks that are small enough for a shuffle; listed in one place, read in many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pyarrow as pa

from clip_transforms.elements import Failure, ImageRef, UnitKind
from clip_transforms.plan import plan_table
from clip_transforms.sources import PlanItem, SourceOptions, limit_items, read_unit, scan

#: References that travel together: seconds of work, some tens of kilobytes.
CHUNK_ROWS = 256

Chunk = tuple[str, bytes]  # (kind of unit, rows of schemas.plan.PLAN as an Arrow IPC stream)


def list_chunks(
    inputs: Sequence[str], options: SourceOptions, *, limit: int | None = None
) -> Iterator[Chunk]:
    """All that the inputs name: references in chunks, each tar and each slice of a Parquet file by itself.

    Lazy, in bounded memory; raises as `sources.scan` and `limit_items` do.
    """
    items = scan(inputs, options)
    if limit is not None:
        items = limit_items(items, limit, options)
    waiting: list[PlanItem] = []
    for item in items:
        if item.kind is not UnitKind.REFS:
            yield _chunk([item])
            continue
        waiting.append(item)
        if len(waiting) >= CHUNK_ROWS:
            yield _chunk(waiting)
            waiting = []
    if waiting:
        yield _chunk(waiting)


def read_chunk(chunk: Chunk, options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The images of a chunk, one by one, as `sources.read_unit` gives them."""
    kind, data = chunk
    rows = pa.ipc.open_stream(data).read_all()
    with closing(read_unit(UnitKind(kind), rows, options)) as images:  # type: ignore[type-var]
        yield from images


def _chunk(items: Sequence[PlanItem]) -> Chunk:
    table = plan_table(items)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return items[0].kind.value, sink.getvalue().to_pybytes()
