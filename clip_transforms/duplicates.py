"""Finds image ids that more than one input has, in bounded memory, and lists them in `duplicates.parquet`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.sink import Part
from clip_transforms.storage import Store
from schemas.duplicates import DUPLICATES

NAME = "duplicates.parquet"
_URIS = 10  # as the schema says
_PARTITION_IDS = 1 << 20  # ids (8 bytes each, sorted in place) of one partition
_MAX_PARTITIONS = 1 << 12
_HITS = 1 << 16  # rows of ids that come again, in memory at once
_MAX_HIT_PARTITIONS = 1 << 8
_BATCH = 1 << 14

UInt64 = npt.NDArray[np.uint64]


def find_duplicates(
    store: Store,
    parts: Iterable[Part],
    *,
    output: Store | None = None,
    partition_ids: int = _PARTITION_IDS,
    hit_rows: int = _HITS,
) -> int:
    """Write `duplicates.parquet` (schemas.duplicates) for the rows of `parts`; the number of ids in it.

    parts: of embeddings/ and failures/, as `live_parts` lists them: both kinds of rows count. With no id
    twice the file has no rows: that it is there says that it was looked for. output: where, if not `store`.

    Two passes. The first reads the image_id column and spreads 64-bit hashes of the ids over files on the
    local disk by their highest bits (8 bytes a row); each file then has about `partition_ids` of them, is
    sorted in memory, and shows the hashes that come again. Only if there are any, the second pass reads the
    columns again, keeps the rows with these hashes, spread out alike with at most `hit_rows` in memory, and
    compares the ids themselves, so that a hash collision is never reported. Memory: about 25 bytes an id of
    one partition, one batch of rows, and the resulting file.
    """
    wanted = sorted(parts, key=lambda part: part.name)
    total = sum(part.rows for part in wanted)
    with tempfile.TemporaryDirectory(prefix="beamclip-duplicates-") as folder:
        repeated, hits = _repeated_hashes(store, wanted, Path(folder), _power_of_two(total, partition_ids))
        tables = (
            _hit_tables(store, wanted, Path(folder), repeated, _power_of_two(hits, hit_rows), hit_rows)
            if hits
            else iter(())
        )
        data, found = _parquet(tables)
        del repeated  # a memory map: closed before its folder goes
    (output or store).write(NAME, data)
    return found


def _power_of_two(total: int, each: int) -> int:
    """How many bits spread `total` over partitions of about `each`.

    >>> [_power_of_two(n, 1000) for n in (0, 1000, 1001, 5000)]
    [0, 0, 1, 3]
    """
    return max(0, -(-total // each) - 1).bit_length()


def _hash(ids: Sequence[str]) -> UInt64:
    # Python's own hash of a text: keyed anew for each process, so nobody can make ids that all collide; it is
    # never kept. An id read as None cannot be: the column is not nullable.
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids)).view(np.uint64)


def _partition(hashes: UInt64, bits: int) -> npt.NDArray[np.intp]:
    if not bits:
        return np.zeros(len(hashes), np.intp)
    return (hashes >> np.uint64(64 - bits)).astype(np.intp)


def _batches(store: Store, parts: Sequence[Part], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with store.open(part.name) as handle:
            yield from pq.ParquetFile(handle).iter_batches(batch_size=_BATCH, columns=columns)


def _repeated_hashes(store: Store, parts: Sequence[Part], folder: Path, bits: int) -> tuple[UInt64, int]:
    """The hashes that come more than once, sorted, as a memory map, and the number of rows that have them."""
    bits = min(bits, _MAX_PARTITIONS.bit_length() - 1)
    _spread_hashes(store, parts, folder, bits)
    found, rows = folder / "repeated.u64", 0
    with found.open("wb") as out:
        for number in range(1 << bits):  # highest bits first: the whole file ends up sorted
            path = folder / f"hashes-{number}.u64"
            if not path.exists():
                continue
            hashes: UInt64 = np.fromfile(path, np.uint64)
            path.unlink()
            hashes.sort()
            again = hashes[1:] == hashes[:-1]
            last = np.append(again[1:] < again[:-1], again[-1:])  # of each run of equal ones, take one
            rows += int(np.count_nonzero(again) + np.count_nonzero(last))
            hashes[1:][last].tofile(out)
    if not rows:
        return np.empty(0, np.uint64), 0
    return np.memmap(found, np.uint64, "r"), rows


def _spread_hashes(store: Store, parts: Sequence[Part], folder: Path, bits: int) -> None:
    waiting: list[UInt64] = []
    for batch in _batches(store, parts, ["image_id"]):
        waiting.append(_hash(batch.column(0).to_pylist()))
        if len(waiting) == 32:  # files are opened once for many hashes
            _append_hashes(waiting, folder, bits)
            waiting = []
    _append_hashes(waiting, folder, bits)


def _append_hashes(waiting: list[UInt64], folder: Path, bits: int) -> None:
    if not waiting:
        return
    hashes = np.concatenate(waiting)
    if bits:
        hashes.sort()
    numbers, starts = np.unique(_partition(hashes, bits), return_index=True)
    for number, start, end in zip(numbers, starts, [*starts[1:], len(hashes)], strict=True):
        with (folder / f"hashes-{number}.u64").open("ab") as file:
            hashes[start:end].tofile(file)


def _hit_tables(
    store: Store, parts: Sequence[Part], folder: Path, repeated: UInt64, bits: int, hit_rows: int
) -> Iterator[pa.Table]:
    """The rows of `duplicates.parquet`, a table for each partition of the hashes."""
    bits = min(bits, _MAX_HIT_PARTITIONS.bit_length() - 1)
    waiting: list[pa.Table] = []
    rows = files = 0
    for batch in _batches(store, parts, ["image_id", "uri"]):
        hashes = _hash(batch.column("image_id").to_pylist())
        place = np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)
        hit = repeated[place] == hashes
        if not hit.any():
            continue
        table = pa.Table.from_batches([batch]).select(["image_id", "uri"])
        table = table.append_column("partition", pa.array(_partition(hashes, bits)))
        waiting.append(table.filter(pa.array(hit)))
        rows += waiting[-1].num_rows
        if rows >= hit_rows:
            _write_hits(waiting, folder, files)
            waiting, rows, files = [], 0, files + 1
    _write_hits(waiting, folder, files)
    for number in range(1 << bits):
        yield _count_ids(_read_hits(folder, number, hit_rows))


def _write_hits(waiting: list[pa.Table], folder: Path, file: int) -> None:
    if not waiting:
        return
    table = pa.concat_tables(waiting).sort_by("partition").combine_chunks()
    numbers, starts = np.unique(table.column("partition").to_numpy(), return_index=True)
    table = table.drop_columns(["partition"])
    for number, start, end in zip(numbers, starts, [*starts[1:], table.num_rows], strict=True):
        with pa.ipc.new_file(str(folder / f"hits-{number}-{file}.arrow"), table.schema) as writer:
            writer.write_table(table.slice(start, end - start))


def _read_hits(folder: Path, number: int, hit_rows: int) -> Iterator[pa.Table]:
    """The rows of one partition, about `hit_rows` at once."""
    tables: list[pa.Table] = []
    for path in folder.glob(f"hits-{number}-*.arrow"):
        with pa.OSFile(str(path), "rb") as file:
            tables.append(pa.ipc.open_file(file).read_all())
        path.unlink()
        if sum(table.num_rows for table in tables) >= hit_rows:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


def _count_ids(tables: Iterable[pa.Table]) -> pa.Table:
    """The ids of one partition that come more than once, with their count and first uris."""
    counts: pa.Table | None = None
    uris: pa.Table | None = None
    for rows in tables:
        new = rows.group_by("image_id").aggregate([("uri", "count")]).rename_columns(["image_id", "count"])
        both = new if counts is None else pa.concat_tables([counts, new])
        counts = both.group_by("image_id").aggregate([("count", "sum")]).rename_columns(["image_id", "count"])
        uris = _first_uris(rows if uris is None else pa.concat_tables([uris, rows]))
    if counts is None or uris is None:
        return DUPLICATES.empty_table()
    counts = counts.filter(pc.greater(counts.column("count"), 1)).sort_by("image_id")
    ids = counts.column("image_id")
    uris = uris.filter(pc.is_in(uris.column("image_id"), ids.combine_chunks())).combine_chunks()
    offsets = np.append(np.flatnonzero(_starts(uris)), uris.num_rows).astype(np.int32)
    values = uris.column("uri").combine_chunks()
    lists = pa.ListArray.from_arrays(pa.array(offsets), values, type=DUPLICATES.field("uris").type)
    return pa.Table.from_arrays([ids, counts.column("count"), lists], schema=DUPLICATES)


def _first_uris(rows: pa.Table) -> pa.Table:
    """Of each id the first ten uris in their order; rows of one id are together."""
    rows = rows.sort_by([("image_id", "ascending"), ("uri", "ascending")]).combine_chunks()
    position = np.arange(rows.num_rows)
    rank = position - np.maximum.accumulate(np.where(_starts(rows), position, 0))
    return rows.filter(pa.array(rank < _URIS))


def _starts(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Where, in rows sorted by image_id, another id begins."""
    ids = rows.column("image_id")
    starts = np.ones(rows.num_rows, np.bool_)
    starts[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return starts


def _parquet(tables: Iterator[pa.Table]) -> tuple[bytes, int]:
    buffer, found = io.BytesIO(), 0
    with pq.ParquetWriter(buffer, DUPLICATES, compression="zstd") as writer:
        for table in tables:
            found += table.num_rows
            if table.num_rows:
                writer.write_table(table)
    return buffer.getvalue(), found
