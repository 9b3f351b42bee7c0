"""Reads embeddings, failures and duplicates of a run for its report, in bounded memory.

Every count is exact over all rows; what is shown one by one (tiles, examples) is kept in bounded lists, so
memory does not grow with the run. Labels are read in `report_labels`.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.review.report_values import (
    Duplicates,
    FailureExample,
    FailureGroup,
    ImageFacts,
    Images,
)

if TYPE_CHECKING:
    from clip_transforms.storage import Store

T = TypeVar("T")
Float64 = npt.NDArray[np.float64]

#: Rows decoded at a time.
BATCH_ROWS = 16_384


class Lowest(Generic[T]):
    """The `size` items with the lowest keys, whatever order they come in; ties go by name.

    >>> low = Lowest(2)
    >>> for key, name in [(3.0, "c"), (1.0, "a"), (2.0, "b")]:
    ...     low.offer(key, name, name.upper())
    >>> low.values(), low.bound
    (['A', 'B'], 2.0)
    """

    __slots__ = ("_entries", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: list[tuple[float, str, T]] = []

    @property
    def bound(self) -> float:
        """A key above this one cannot get in."""
        if self._size == 0:
            return -np.inf
        return self._entries[-1][0] if len(self._entries) == self._size else np.inf

    def offer(self, key: float, name: str, item: T) -> None:
        if key > self.bound:
            return
        bisect.insort(self._entries, (key, name, item), key=lambda entry: entry[:2])
        del self._entries[self._size :]

    def map(self, change: Callable[[T], T]) -> None:
        """Replace every item by `change(item)`."""
        self._entries = [(key, name, change(item)) for key, name, item in self._entries]

    def values(self) -> list[T]:
        return [item for _, _, item in self._entries]


def sample_keys(ids: Sequence[str], *, seed: int) -> Float64:
    """A number in [0, 1) for each id, fixed by id and seed: the lowest ones are a seeded random sample.

    Unlike a reservoir it does not depend on the order of rows or the names of parts.

    >>> bool((sample_keys(["a", "b"], seed=0) == sample_keys(["a", "b"], seed=0)).all())
    True
    """
    key = seed.to_bytes(8, "big", signed=True)
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids)
    return np.frombuffer(digests, ">u8").astype(np.float64) / 2.0**64


def part_names(store: Store, folder: str, parts: Sequence[str] | None) -> list[str]:
    """The Parquet parts directly in `folder`, in order of their names: listed ones if `parts` is given."""
    names = parts if parts is not None else (found.name for found in store.list(f"{folder}/"))
    depth = folder.count("/") + 1
    return sorted(
        n
        for n in names
        if n.startswith(f"{folder}/part-") and n.endswith(".parquet") and n.count("/") == depth
    )


def iter_batches(store: Store, names: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The named columns (those a file has) of the parts, BATCH_ROWS rows at a time, one file open at once."""
    for name in names:
        with store.open(name) as handle:
            file = pq.ParquetFile(handle)
            wanted = [column for column in columns if column in file.schema_arrow.names]
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, use_threads=False)


def read_images(
    store: Store, names: Sequence[str], *, wanted: Sequence[tuple[str, str]], sample: int, seed: int
) -> Images:
    """One pass over `embeddings/`: totals, the facts of the wanted (image id, uri), a sample of others.

    The embedding column is not read. sample: how many images to draw (their facts are kept too).
    """
    images = Images()
    keys, wanted_ids = set(wanted), pa.array(sorted({i for i, _ in wanted}), pa.string())
    drawn: Lowest[tuple[tuple[str, str], ImageFacts]] = Lowest(sample)
    columns = ("image_id", "uri", "width", "height", "format", "bytes", "caption", "sha256")
    for batch in iter_batches(store, names, columns):
        images.rows += batch.num_rows
        images.bytes += pc.sum(batch["bytes"]).as_py() or 0
        images.captions += batch.num_rows - batch["caption"].null_count
        for entry in pc.value_counts(batch["format"].cast(pa.string())).to_pylist():
            images.formats[entry["values"]] += entry["counts"]
        hits = batch.filter(pc.is_in(batch["image_id"], wanted_ids)) if keys else batch.slice(0, 0)
        for row in hits.to_pylist():
            if (row["image_id"], row["uri"]) in keys:
                images.facts[row["image_id"], row["uri"]] = _facts(row)
        if sample:
            order = sample_keys(batch["image_id"].to_pylist(), seed=seed)
            for index in np.argsort(order)[:sample]:
                if order[index] <= drawn.bound:
                    row = batch.slice(int(index), 1).to_pylist()[0]
                    drawn.offer(order[index], row["uri"], ((row["image_id"], row["uri"]), _facts(row)))
    images.sample = tuple(key for key, _ in drawn.values())
    images.facts.update(drawn.values())
    return images


def _facts(row: Mapping[str, Any]) -> ImageFacts:
    return ImageFacts(
        width=row["width"],
        height=row["height"],
        format=row["format"],
        bytes=row["bytes"],
        caption=row.get("caption"),
        sha256=row.get("sha256"),
    )


def read_failures(
    store: Store, names: Sequence[str], *, examples: int, seed: int
) -> tuple[FailureGroup, ...]:
    """The failures by reason, most frequent first, each with a seeded sample of at most `examples` rows."""
    counts: Counter[str] = Counter()
    kept: dict[str, Lowest[Any]] = {}
    for batch in iter_batches(store, names, ("image_id", "uri", "stage", "reason", "message", "attempts")):
        uris, reasons = batch["uri"].to_pylist(), batch["reason"].to_pylist()
        order = sample_keys(uris, seed=seed)
        counts.update(reasons)
        for index, reason in enumerate(reasons):
            kept.setdefault(reason, Lowest(examples)).offer(order[index], uris[index], index)
        for low in kept.values():
            low.map(partial(_example_of, batch))
    return tuple(
        FailureGroup(reason=reason, count=count, examples=tuple(kept[reason].values()))
        for reason, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    )


def _example_of(batch: pa.RecordBatch, item: int | FailureExample) -> FailureExample:
    """A place in this batch becomes the example; one of an earlier batch stays."""
    if not isinstance(item, int):
        return item
    row = batch.slice(item, 1).to_pylist()[0]
    return FailureExample(**{name: row[name] for name in ("image_id", "uri", "stage", "message", "attempts")})


def read_duplicates(store: Store) -> Duplicates | None:
    """The totals of `duplicates.parquet`, or None where the run has none yet."""
    if not store.exists("duplicates.parquet"):
        return None
    ids = rows = 0
    for batch in iter_batches(store, ["duplicates.parquet"], ("count",)):
        ids += batch.num_rows
        rows += pc.sum(batch["count"]).as_py() or 0
    return Duplicates(ids=ids, rows=rows)
