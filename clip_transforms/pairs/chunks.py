"""The stored rows that a selection goes over: chunks of whole units, each image beside its scores.

Rows of a view lie in the order of the embedding parts that its commit names, so they are joined by place; that
the ids agree is checked row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.commits import EMBEDDINGS
from clip_transforms.elements import ContractError
from clip_transforms.live import live_commits
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.sink import MAX_ROWS, Part
from clip_transforms.storage import Store
from clip_transforms.views import View

_KEYS = ("image_id", "uri")


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
    views: tuple[Slice, ...]  # in the config's order


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some whole units, about as many rows as a part has: what one element of the selection's graph stands for."""

    number: int
    selection: str  # its name
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """Of all blocks."""
        return sum(block.embeddings.rows for block in self.blocks)

    @property
    def stem(self) -> str:
        """The common beginning of the names of the parts that are written of it: the same at every attempt."""
        return f"part-{self.selection}-{self.number:06d}"


def list_chunks(config: SelectConfig, *, rows: int = MAX_ROWS) -> list[Chunk]:
    """All stored rows of a run in chunks of about so many rows, each unit whole, in the order of their names.

    Raises ContractError where an embedding part has no scores. Memory: the names of the parts.
    """
    blocks = _blocks(config)
    name = config.selection.name([[block.embeddings.name, block.views[0].parts[0].name] for block in blocks])
    chunks: list[list[Block]] = []
    count = 0
    for position, block in enumerate(blocks):
        new_unit = position == 0 or blocks[position - 1].unit != block.unit
        if not chunks or (new_unit and count + block.embeddings.rows > rows):
            chunks.append([])
            count = 0
        chunks[-1].append(block)
        count += block.embeddings.rows
    return [Chunk(number=number, selection=name, blocks=tuple(found)) for number, found in enumerate(chunks)]


def _blocks(config: SelectConfig) -> list[Block]:
    parts: list[tuple[str, Part]] = []
    for live in live_commits(config.source(config.embeddings_run)):
        parts.extend((live.commit.unit, part) for part in live.parts.get(EMBEDDINGS, ()))
    rows = {part.name: part.rows for _, part in parts}
    views = [_slices(config.source(run), view, rows) for view, run in config.views]
    blocks = []
    for unit, part in sorted(parts, key=lambda found: (found[0], found[1].name)):
        for (view, _), slices in zip(config.views, views, strict=True):
            if part.name not in slices:
                raise ContractError(f"{part.name} has no rows in {view.folder}/: the run is not complete")
        blocks.append(Block(unit=unit, embeddings=part, views=tuple(found[part.name] for found in views)))
    return blocks


def _slices(store: Store, view: View, rows: Mapping[str, int]) -> dict[str, Slice]:
    """By embedding part, its rows of the view."""
    found: dict[str, Slice] = {}
    for live in live_commits(store):
        parts = live.parts.get(view.folder, ())
        if not parts:
            continue
        sources = live.commit.sources or tuple(part.name for part in live.parts.get(EMBEDDINGS, ()))
        sources = tuple(name for name in sources if name in rows)
        expected = sum(rows[name] for name in sources)
        written = sum(part.rows for part in parts)
        if written != expected:
            raise ContractError(f"{live.commit.name}: {written} rows in {view.folder}/ for {expected} images")
        first = 0
        for name in sources:
            found[name] = Slice(parts=parts, first=first, rows=rows[name])
            first += rows[name]
    return found


def read_chunk(
    config: SelectConfig, chunk: Chunk, columns: Sequence[str], views: Mapping[View, Mapping[str, str]]
) -> pa.Table:
    """These columns of the embeddings and of the views, row beside row, in the chunk's order.

    views: of each its columns, and what they are called in the table. image_id and uri come along. Raises
    ContractError where two data sets do not have the same images.
    """
    source = config.source(config.embeddings_run)
    tables = []
    for block in chunk.blocks:
        wanted = list(dict.fromkeys((*_KEYS, *columns)))
        table = _read(source, Slice(parts=(block.embeddings,), first=0, rows=block.embeddings.rows), wanted)
        for (view, run), where in zip(config.views, block.views, strict=True):
            if view not in views:
                continue
            found = _read(config.source(run), where, [*_KEYS, *views[view]])
            if any(not found.column(key).equals(table.column(key)) for key in _KEYS):
                raise ContractError(f"{where.parts[0].name} has not the images of {block.embeddings.name}")
            for name, shown in views[view].items():
                table = table.append_column(shown, found.column(name))
        tables.append(table)
    return pa.concat_tables(tables)


def read_vectors(config: SelectConfig, chunk: Chunk) -> npt.NDArray[np.float32]:
    """The embeddings of a chunk's rows, [rows, D], in its order."""
    return vectors_of(read_chunk(config, chunk, ["embedding"], {}).column("embedding"))


def vectors_of(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """A column of vectors, none of them null, as an array [rows, D]."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _read(store: Store, where: Slice, columns: Sequence[str]) -> pa.Table:
    tables = list(_tables(store, where, columns))
    return pa.concat_tables(tables).combine_chunks()


def _tables(store: Store, where: Slice, columns: Sequence[str]) -> Iterator[pa.Table]:
    first, left = where.first, where.rows
    for part in where.parts:
        if first >= part.rows:
            first -= part.rows
            continue
        with store.open(part.name) as handle:
            table = pq.ParquetFile(handle).read(columns=list(columns))
        table = table.slice(first, left)
        yield table.select(list(columns))
        left -= table.num_rows
        first = 0
        if not left:
            return
