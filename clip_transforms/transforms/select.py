"""The Beam wiring of a selection over stored pairs: rules, duplicates, the cut, and what is written.

What is shuffled are row numbers, scores and hashes in arrays, a chunk's at a time, and the ids of rows that
stand for duplicates; never images or vectors. Global steps, on one worker each: near and semantic duplicates,
which take 28 bytes a row that is left (the second reads the vectors where they are stored), and the end, which
takes the names of the parts.
"""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, TaggedOutput

from clip_transforms.pairs.chunks import Chunk, list_chunks
from clip_transforms.pairs.config import DUPLICATE_EXACT, DUPLICATE_NEAR, DUPLICATE_SEMANTIC, SelectConfig
from clip_transforms.pairs.cut import Cut, Scores
from clip_transforms.pairs.duplicates import (
    Candidates,
    Found,
    by_digest,
    by_nothing,
    find_exact,
    find_near,
    find_semantic,
)
from clip_transforms.pairs.finish import finish_selection
from clip_transforms.pairs.rows import Joins, PairRows, apply_joins, by_chunk, redirect
from clip_transforms.pairs.steps import Named, Written, add_written, judge_chunk, name_targets, write_chunk
from clip_transforms.transforms.cut import FindCut
from clip_transforms.transforms.metrics import count

_FOLLOWERS = "followers"


@dataclass(eq=False)
class SelectPairs(beam.PTransform[Any, Any]):
    """Chooses among a run's stored pairs and writes pairs/, kept/ and run.json.

    Input: one element, there once all units have their scores: what the job tells of them (a dict, which may
    be empty). Output: one element, the content of run.json.
    """

    config: SelectConfig

    def __post_init__(self) -> None:
        """Beam's own attributes."""
        super().__init__()

    def expand(self, ready: Any) -> Any:
        """Wire chunks -> verdicts of rules, of each search for duplicates, of the cut -> parts -> accounts."""
        config = self.config
        chunks = (
            ready | "ListChunks" >> beam.FlatMap(_list_chunks, config) | "ShuffleChunks" >> beam.Reshuffle()
        )
        rows = chunks | "Judge" >> beam.Map(_judge, config)
        followers = ready | "NoFollowers" >> beam.FlatMap(_nothing)
        facts = ready | "NoFacts" >> beam.FlatMap(_nothing)
        for label, search in _searches(config).items():
            settled = (rows, followers) | label >> search
            rows, followers = settled["rows"], settled["followers"]
            facts = (facts, settled["facts"]) | f"{label}Facts" >> beam.Flatten()
        top = config.selection.keep_top
        cut = rows | "Cut" >> FindCut(read=scores_left, fraction=top) if top is not None else None
        named = {"chunk": chunks, "followers": followers} | "MeetFollowers" >> beam.CoGroupByKey()
        named = named | "NameTargets" >> beam.FlatMap(_name, config)
        written = {"chunk": chunks, "rows": rows, "named": named} | "MeetVerdicts" >> beam.CoGroupByKey()
        threshold = AsSingleton(cut) if cut else None
        return (
            written
            | "WriteChunks" >> beam.Map(_write, config, threshold)
            | "Count" >> beam.CombineGlobally(add_written)
            | "FinishSelection"
            >> beam.Map(
                partial(finish_selection, config),
                threshold,
                AsSingleton(facts | "CountFacts" >> beam.CombineGlobally(add_facts)),
                AsSingleton(ready),
            )
        )


@dataclass(eq=False)
class FindDuplicates(beam.PTransform[Any, Any]):
    """Drops duplicates among rows.

    Input: rows (chunk number, PairRows), and the duplicates found before, (chunk number of the target, Joins).
    Output: a dict of the same two, `rows` and `followers`, and `facts`.
    """

    reason: str
    spread: Callable[[PairRows], Iterator[tuple[int, Candidates]]]
    find: Callable[[Iterable[Candidates]], Found]

    def __post_init__(self) -> None:
        """Beam's own attributes."""
        super().__init__()

    def expand(self, inputs: Any) -> Any:
        """Wire rows -> partitions -> joins -> rows without them."""
        rows, followers = inputs
        found = (
            rows
            | "Spread" >> beam.FlatMap(_spread, self.spread)
            | "Meet" >> beam.GroupByKey()
            | "Find" >> beam.Map(_find, self.find)
        )
        joins = found | "OfRows" >> beam.FlatMap(_joins, "rows")
        settled = (
            {"rows": rows, "joins": joins, "followers": followers}
            | "MeetRows" >> beam.CoGroupByKey()
            | "Settle" >> beam.ParDo(_Settle(self.reason)).with_outputs(_FOLLOWERS, main="rows")
        )
        new = found | "OfTargets" >> beam.FlatMap(_joins, "targets")
        return {
            "rows": settled["rows"],
            "followers": (settled[_FOLLOWERS], new) | "AllFollowers" >> beam.Flatten(),
            "facts": found | "Facts" >> beam.Map(_facts),
        }


class _Settle(beam.DoFn):
    """Marks the duplicates among a chunk's rows, and moves those that had joined one of them on."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def process(self, met: tuple[int, Mapping[str, Iterable[Any]]]) -> Iterable[Any]:
        number, found = met
        joins = list(found["joins"])
        for rows in found["rows"]:
            yield number, apply_joins(rows, joins, self._reason)
        for followers in found["followers"]:
            for chunk, moved in by_chunk(redirect(followers, joins), of="targets"):
                yield TaggedOutput(_FOLLOWERS, (chunk, moved))


def _searches(config: SelectConfig) -> dict[str, FindDuplicates]:
    selection = config.selection
    found: dict[str, FindDuplicates] = {}
    if selection.dedup != "none":
        found["Exact"] = FindDuplicates(DUPLICATE_EXACT, by_digest, find_exact)
    if selection.dedup in ("near", "semantic"):
        near = partial(find_near, distance=selection.near_distance)
        found["Near"] = FindDuplicates(DUPLICATE_NEAR, by_nothing, near)
    if selection.dedup == "semantic":
        semantic = partial(find_semantic, config=config)
        found["Semantic"] = FindDuplicates(DUPLICATE_SEMANTIC, by_nothing, semantic)
    return found


def _list_chunks(_: object, config: SelectConfig) -> Iterator[tuple[int, Chunk]]:
    yield from ((chunk.number, chunk) for chunk in list_chunks(config))


def _judge(chunk: tuple[int, Chunk], config: SelectConfig) -> tuple[int, PairRows]:
    return chunk[0], judge_chunk(config, chunk[1])


def _spread(
    rows: tuple[int, PairRows], spread: Callable[[PairRows], Iterator[tuple[int, Candidates]]]
) -> Iterator[tuple[int, Candidates]]:
    return spread(rows[1])


def _find(pieces: tuple[int, Iterable[Candidates]], find: Callable[[Iterable[Candidates]], Found]) -> Found:
    return find(pieces[1])


def _facts(found: Found) -> dict[str, int]:
    return dict(found.facts)


def _nothing(_: object) -> list[Any]:
    return []


def _joins(found: Found, of: str) -> Iterator[tuple[int, Joins]]:
    return by_chunk(found.joins, of=of)


def scores_left(rows: tuple[int, PairRows]) -> list[Scores]:
    """The scores of rows that nothing has dropped."""
    return [rows[1].scores[rows[1].left]]


def add_facts(facts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """All facts, added up by name.

    >>> add_facts([{"a": 1}, {"a": 2, "b": 0}])
    {'a': 3, 'b': 0}
    """
    total: Counter[str] = Counter()
    for each in facts:
        total.update(each)
    return dict(total)


def _name(met: tuple[int, Mapping[str, Iterable[Any]]], config: SelectConfig) -> Iterator[tuple[int, Named]]:
    for chunk in met[1]["chunk"]:
        for named in name_targets(config, chunk, met[1]["followers"]):
            yield from named.by_chunk()


def _write(met: tuple[int, Mapping[str, Iterable[Any]]], config: SelectConfig, cut: Cut | None) -> Written:
    threshold = cut.threshold if cut else config.selection.keep_above
    (chunk,), (rows,) = met[1]["chunk"], met[1]["rows"]
    written = write_chunk(config, chunk, rows, list(met[1]["named"]), threshold)
    reasons = {f"dropped_{name}" if name != "kept" else name: n for name, n in written.counts.items()}
    count(reasons)
    return written
