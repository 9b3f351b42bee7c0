"""The steps of a selection on one chunk: read and judge, name the duplicates' targets, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clip_transforms.captions import has_text
from clip_transforms.labelsets import LabelSet
from clip_transforms.pairs.chunks import Chunk, read_chunk
from clip_transforms.pairs.config import BELOW_CUT, NO_CAPTION, SelectConfig
from clip_transforms.pairs.cut import keep_above
from clip_transforms.pairs.layouts import write_clip_retrieval
from clip_transforms.pairs.rows import (
    PLACE_BITS,
    Int64,
    Joins,
    PairRows,
    count_reasons,
    make_rows,
    places_of,
    reason_column,
)
from clip_transforms.pairs.rules import RuleSet, judge, label_column
from clip_transforms.pairs.shards import write_shards
from clip_transforms.sink import Part, PartWriter
from clip_transforms.views import PAIRS, label_view

PAIRS_FOLDER = "pairs"
KEPT_FOLDER = "kept"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named:
    """Duplicates, by number, and the image ids of the rows that stand for them."""

    rows: Int64
    ids: tuple[str, ...]

    def by_chunk(self) -> Iterator[tuple[int, Named]]:
        """The same by the chunk of the rows."""
        chunks = self.rows >> PLACE_BITS
        for number in np.unique(chunks).tolist():
            places = np.flatnonzero(chunks == number)
            yield number, Named(rows=self.rows[places], ids=tuple(self.ids[place] for place in places))


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written of some chunks: rows by reason and `kept`, and the names of the objects."""

    counts: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    unread: int = 0  # kept images that could not be read again for the shards


def add_written(found: Iterable[Written]) -> Written:
    """What was written of all these chunks.

    >>> add_written([Written(counts={"kept": 1}, names=("a",)), Written(counts={"kept": 2}, names=("b",))])
    Written(counts={'kept': 3}, names=('a', 'b'), unread=0)
    """
    counts: Counter[str] = Counter()
    names: list[str] = []
    unread = 0
    for each in found:
        counts.update(each.counts)
        names.extend(each.names)
        unread += each.unread
    return Written(counts=dict(counts), names=tuple(names), unread=unread)


def judge_chunk(config: SelectConfig, chunk: Chunk) -> PairRows:
    """The rows of a chunk, those dropped that have no caption or that a rule drops."""
    rules = config.rules
    views = {PAIRS: {"similarity": "similarity"}} | {
        label_view(LabelSet(prompt_set=prompts).tag): {"top_k": label_column(name)}
        for name, prompts in (rules.prompt_sets if rules else {}).items()
    }
    columns = ["caption", "sha256", "phash"]
    if rules:
        columns += [
            name for name in rules.columns(config.source_columns()) if name in config.source_columns()
        ]
    table = read_chunk(config, chunk, columns, views)
    rows = make_rows(chunk.number, table)
    silent = [not has_text(caption) for caption in table.column("caption").to_pylist()]
    rows = rows.dropped(np.flatnonzero(silent).astype(np.int64), NO_CAPTION)
    return rows if rules is None else apply_rules(rows, table, rules)


def apply_rules(rows: PairRows, table: pa.Table, rules: RuleSet) -> PairRows:
    """Drop of what is left the rows that a rule drops, for the reason of the first that does."""
    left = rows.left
    verdicts = judge(table.take(pa.array(left)), rules)
    for place, reason in enumerate(rules.reasons):
        rows = rows.dropped(left[verdicts == place], reason)
    return rows


def name_targets(config: SelectConfig, chunk: Chunk, followers: Iterable[Joins]) -> list[Named]:
    """The ids of this chunk's rows that duplicates elsewhere joined."""
    joins = [each for each in followers if len(each.rows)]
    if not joins:
        return []
    ids = read_chunk(config, chunk, [], {}).column("image_id").combine_chunks()
    return [
        Named(rows=each.rows, ids=tuple(ids.take(pa.array(places_of(each.targets))).to_pylist()))
        for each in joins
    ]


def write_chunk(
    config: SelectConfig, chunk: Chunk, rows: PairRows, named: Sequence[Named], threshold: float | None
) -> Written:
    """Apply the cut and write the chunk's rows to pairs/, kept/, and the other layouts that were asked for.

    The same bytes at every attempt.
    """
    rows = apply_cut(rows, threshold)
    table = pairs_table(config, chunk, rows, named)
    parts = [
        *_write(config, PAIRS_FOLDER, chunk, table),
        *_write(config, KEPT_FOLDER, chunk, table.filter(table.column("kept"))),
    ]
    names, unread = [part.name for part in parts], 0
    if {"clip-retrieval", "faiss"} & {*config.selection.outputs}:
        names += write_clip_retrieval(config, chunk, table)
    if "webdataset" in config.selection.outputs:
        shards, unread = write_shards(config, chunk, table)
        names += shards
    return Written(counts=dict(count_reasons(rows)), names=tuple(names), unread=unread)


def apply_cut(rows: PairRows, threshold: float | None) -> PairRows:
    """Drop what is left and scores less; with no threshold nothing."""
    if threshold is None:
        return rows
    left = rows.left
    return rows.dropped(left[~keep_above(rows.scores[left], threshold)], BELOW_CUT)


def pairs_table(config: SelectConfig, chunk: Chunk, rows: PairRows, named: Sequence[Named]) -> pa.Table:
    """The chunk's rows of pairs/."""
    schema = config.schema()
    ours = {"kept", "drop_reason", "duplicate_of", schema.names[3], "text_truncated"}
    columns = [name for name in schema.names if name not in ours]
    table = read_chunk(
        config, chunk, columns, {PAIRS: {name: name for name in ("similarity", "text_truncated")}}
    )
    made = {
        schema.names[3]: table.column("similarity"),
        "kept": pa.array(rows.reasons < 0),
        "drop_reason": reason_column(rows),
        "duplicate_of": _duplicate_of(len(rows.reasons), named),
    }
    found = [made[name] if name in made else table.column(name) for name in schema.names]
    return pa.Table.from_arrays(found, schema=schema)


def _duplicate_of(count: int, named: Sequence[Named]) -> pa.Array:
    ids: list[str | None] = [None] * count
    for each in named:
        for place, image_id in zip(places_of(each.rows).tolist(), each.ids, strict=True):
            ids[place] = image_id
    return pa.array(ids, pa.string())


def _write(config: SelectConfig, folder: str, chunk: Chunk, table: pa.Table) -> tuple[Part, ...]:
    about = {"fingerprint": config.fingerprint, "encoder": config.encoder_name, "selection": chunk.selection}
    writer = PartWriter(
        config.store(), folder=folder, schema=config.schema(), stem=chunk.stem, metadata=about
    )
    writer.write(table)
    return writer.close()
