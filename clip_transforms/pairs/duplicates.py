"""Duplicates among pairs, partition by partition: what is shuffled for them, and who joins whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.pairs.chunks import list_chunks, read_vectors
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.pairs.exact import exact_duplicates
from clip_transforms.pairs.near import near_duplicates
from clip_transforms.pairs.rows import PLACE_BITS, Int64, Joins, PairRows, UInt64, places_of
from clip_transforms.pairs.semantic import semantic_duplicates

_PARTITIONS = 64  # of the sha256 values
_ARRAYS = ("numbers", "keys", "scores", "values")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Rows that may be duplicates, [n] each: what is shuffled, 52 bytes a row for sha256, 28 for hashes."""

    numbers: Int64
    keys: UInt64
    scores: npt.NDArray[np.float32]
    values: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The duplicates of one partition, and what is to be told of the search."""

    joins: Joins
    facts: Mapping[str, int] = field(default_factory=dict)


def by_digest(rows: PairRows) -> Iterator[tuple[int, Candidates]]:
    """The rows that are left, with their sha256, by partition: equal ones meet in one."""
    left = rows.left
    first = rows.digests.view(np.uint8).reshape(-1, 32)[left, 0]
    partitions = first.astype(np.int64) * _PARTITIONS >> 8
    for number in np.unique(partitions).tolist():
        yield number, _candidates(rows, left[partitions == number], rows.digests)


def by_nothing(rows: PairRows) -> Iterator[tuple[int, Candidates]]:
    """The rows that are left, with their perceptual hashes, all in one partition."""
    left = rows.left
    if len(left):
        yield 0, _candidates(rows, left, rows.hashes)


def find_exact(partition: Iterable[Candidates]) -> Found:
    """Rows of one sha256 join the best of them."""
    rows = _joined(partition)
    return Found(joins=_moved(rows, exact_duplicates(rows.values, rows.scores, rows.keys)))


def find_near(partition: Iterable[Candidates], *, distance: int) -> Found:
    """Rows join the best kept one whose perceptual hash is within so many bits."""
    rows = _joined(partition)
    found = near_duplicates(rows.values, rows.scores, rows.keys, distance=distance)
    facts = {"near_not_compared": found.plain, "near_approximate": found.approximate}
    return Found(joins=_moved(rows, found.joins), facts=facts)


def find_semantic(partition: Iterable[Candidates], *, config: SelectConfig) -> Found:
    """Rows join the best kept one of their cluster whose embedding is near enough; vectors are read, not shuffled."""
    rows = _joined(partition)
    order = np.argsort(rows.numbers)
    rows = Candidates(**{name: getattr(rows, name)[order] for name in _ARRAYS})
    chunks = list_chunks(config)
    bounds = np.searchsorted(rows.numbers, [chunk.number << PLACE_BITS for chunk in chunks])
    places = np.split(places_of(rows.numbers), bounds[1:]) if chunks else []

    def vectors() -> Iterator[npt.NDArray[np.float32]]:
        for chunk, mine in zip(chunks, places, strict=True):
            if len(mine):
                yield read_vectors(config, chunk)[mine]

    found = semantic_duplicates(vectors, rows.scores, rows.keys, cosine=config.selection.semantic_cosine)
    facts = {"semantic_clusters": found.clusters, "semantic_largest_cluster": found.largest}
    return Found(joins=_moved(rows, found.joins), facts=facts)


def _candidates(rows: PairRows, places: Int64, values: npt.NDArray[Any]) -> Candidates:
    return Candidates(
        numbers=rows.numbers(places),
        keys=rows.keys[places],
        scores=rows.scores[places],
        values=values[places],
    )


def _joined(pieces: Iterable[Candidates]) -> Candidates:
    found = list(pieces)
    return Candidates(**{name: np.concatenate([getattr(piece, name) for piece in found]) for name in _ARRAYS})


def _moved(rows: Candidates, joins: Int64) -> Joins:
    moved = np.flatnonzero(joins != np.arange(len(joins)))
    return Joins(rows=rows.numbers[moved], targets=rows.numbers[joins[moved]])
