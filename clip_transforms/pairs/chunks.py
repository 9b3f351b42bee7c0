"""The stored rows that a selection goes over: chunks of whole units, each image beside its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_transforms.joined import Block, list_blocks, read_embeddings, read_view, vectors_of
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.sink import MAX_ROWS
from clip_transforms.views import View


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
    blocks = list_blocks(
        config.source(config.embeddings_run), [(view, config.source(run)) for view, run in config.views]
    )
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
        table = read_embeddings(source, block, columns)
        for (view, run), where in zip(config.views, block.views, strict=True):
            if view not in views:
                continue
            found = read_view(config.source(run), where, list(views[view]), beside=table)
            for name, shown in views[view].items():
                table = table.append_column(shown, found.column(name))
        tables.append(table)
    return pa.concat_tables(tables)


def read_vectors(config: SelectConfig, chunk: Chunk) -> npt.NDArray[np.float32]:
    """The embeddings of a chunk's rows, [rows, D], in its order."""
    return vectors_of(read_chunk(config, chunk, ["embedding"], {}).column("embedding"))
