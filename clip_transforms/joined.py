"""Rows of a run's data sets side by side: the embedding parts, and the rows of each view that are of them.

Rows of a view lie in the order of the embedding parts that its commit names, so they are joined by place.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.commits import EMBEDDINGS
from clip_transforms.elements import ContractError
from clip_transforms.live import live_commits
from clip_transforms.sink import Part
from clip_transforms.storage import Store
from clip_transforms.views import View

#: What the rows of every data set have in common.
KEYS = ("image_id", "uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows of a view: `rows` of them from place `first` on in these parts, one after the other."""

    parts: tuple[Part, ...]
    first: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One embedding part, and the rows of each view that are of it."""

    unit: str
    embeddings: Part
    views: tuple[Slice, ...]


def list_blocks(embeddings: Store, views: Sequence[tuple[View, Store]]) -> list[Block]:
    """All live embedding parts of a run by unit and name, each with its rows of these views, in their order.

    views: each with the store that has it. Raises ContractError where a part has no rows of a view. Memory:
    the names of the parts.
    """
    parts: list[tuple[str, Part]] = []
    for live in live_commits(embeddings):
        parts.extend((live.commit.unit, part) for part in live.parts.get(EMBEDDINGS, ()))
    rows = {part.name: part.rows for _, part in parts}
    slices = [_slices(store, view, rows) for view, store in views]
    blocks = []
    for unit, part in sorted(parts, key=lambda found: (found[0], found[1].name)):
        for (view, store), found in zip(views, slices, strict=True):
            if part.name not in found:
                told = f"{part.name} has no rows in {view.folder}/: the run is not complete"
                raise ContractError(f"{told}{_mend(view, store, embeddings)}")
        blocks.append(Block(unit=unit, embeddings=part, views=tuple(found[part.name] for found in slices)))
    return blocks


def is_joined(embeddings: Store, view: View, store: Store) -> bool:
    """Whether every embedded image has its row of the view: counts alone do not tell rows of earlier embeddings."""
    try:
        list_blocks(embeddings, [(view, store)])
    except ContractError:
        return False
    return True


def _mend(view: View, store: Store, embeddings: Store) -> str:
    """What makes the rest."""
    labels = view.folder.startswith("labels/")
    if not labels and store.root == embeddings.root:
        return ""
    source = "" if store.root == embeddings.root else f"--from-run {shlex.quote(embeddings.root)} "
    command, does = ("label", "labels") if labels else ("filter", "scores")
    return f"; `beamclip {command} {source}--output {shlex.quote(store.root)} --resume` {does} the rest"


def _slices(store: Store, view: View, rows: Mapping[str, int]) -> dict[str, Slice]:
    """By embedding part, its rows of the view."""
    found: dict[str, Slice] = {}
    for live in live_commits(store):
        parts = live.parts.get(view.folder, ())
        if not parts:
            continue
        sources = live.commit.sources or tuple(part.name for part in live.parts.get(EMBEDDINGS, ()))
        named, sources = sources, tuple(name for name in sources if name in rows)
        if named and not sources:
            continue  # of embeddings in another run, which were made anew since
        expected = sum(rows[name] for name in sources)
        written = sum(part.rows for part in parts)
        if written != expected:
            raise ContractError(f"{live.commit.name}: {written} rows in {view.folder}/ for {expected} images")
        first = 0
        for name in sources:
            found[name] = Slice(parts=parts, first=first, rows=rows[name])
            first += rows[name]
    return found


def read_embeddings(store: Store, block: Block, columns: Sequence[str]) -> pa.Table:
    """These columns of a block's embedding part, with image_id and uri."""
    whole = Slice(parts=(block.embeddings,), first=0, rows=block.embeddings.rows)
    return _read(store, whole, list(dict.fromkeys((*KEYS, *columns))))


def read_view(store: Store, where: Slice, columns: Sequence[str], *, beside: pa.Table) -> pa.Table:
    """These columns of some rows of a view, with image_id and uri.

    beside: the rows that they are of. Raises ContractError where these are other images.
    """
    found = _read(store, where, list(dict.fromkeys((*KEYS, *columns))))
    if any(not found.column(key).equals(beside.column(key)) for key in KEYS):
        raise ContractError(f"{where.parts[0].name} has not the images of the embeddings that it is of")
    return found


def side_by_side(
    embeddings: Store, views: Sequence[tuple[View, Store]], columns: Sequence[str]
) -> Iterator[list[pa.Table]]:
    """These columns of the views, with image_id and uri, an embedding part at a time: the same rows of each."""
    for block in list_blocks(embeddings, views):
        keys = read_embeddings(embeddings, block, ())
        yield [
            read_view(store, where, columns, beside=keys)
            for (_, store), where in zip(views, block.views, strict=True)
        ]


def vectors_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """A column of vectors, none of them null, as an array [rows, D]."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _read(store: Store, where: Slice, columns: Sequence[str]) -> pa.Table:
    return pa.concat_tables(list(_tables(store, where, columns))).combine_chunks()


def _tables(store: Store, where: Slice, columns: Sequence[str]) -> Iterator[pa.Table]:
    first, left = where.first, where.rows
    for part in where.parts:
        if first >= part.rows:
            first -= part.rows
            continue
        with store.open(part.name) as handle:
            table = pq.ParquetFile(handle).read(columns=list(columns), use_threads=False)
        table = table.slice(first, left)
        yield table.select(list(columns))
        left -= table.num_rows
        first = 0
        if not left:
            return
