"""Cuts on the score from which on labels are accepted unseen, with a guarantee from a uniform random audit.

What is guaranteed: with the given confidence, of all rows of the set that have a label and score at or above
the cut, at least the target share are right. How: audited rows are ranked by the score that was stored before
the audit; cuts at fixed ranks are tested from the strictest down, each by the exact lower bound of a share
(Clopper and Pearson 1934), and the first that fails ends the walk (fixed-sequence testing; Angelopoulos et
al., "Learn then Test", arXiv 2110.01052). Which cut is the first that is not good enough does not depend on the
labels of the rows above it, so the chance that it passes, and with it that of any wrong claim, is at most
delta. The walk starts where two errors are allowed: stricter, even a perfect cut would need luck.

A cut lies just above a score of the audit, not at it: given that score, the audited rows above it are a
random sample of all rows above it, which is what the bound is for. Rows of equal score stand together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.probabilities import Float32, Float64, Int32

Bool = npt.NDArray[np.bool_]

ERRORS_AT_START = 2
_STEP = 1.03  # from one rank of the grid to the next: finer ones gain no coverage, coarser ones lose some


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One cut that was tested: rows with a label whose stored score is at least `cut` are accepted."""

    cut: float  # a float32
    accepted: int  # of the audit
    right: int  # of these
    lower: float  # what their precision is at least, at the confidence of the walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The walk over one ranking. points: of the whole grid, the strictest first; chosen: the last that passed.

    What lies beyond the first failure is there to be looked at, nothing is claimed of it.
    """

    points: tuple[Point, ...]
    chosen: Point | None
    labelled: int  # rows of the audit that have a label
    needed: int  # accepted rows at which two errors are allowed
    target: float
    delta: float

    @property
    def missing(self) -> int:
        """Rows with a label that the audit has too few of for any cut; 0 where it is large enough."""
        return max(0, self.needed - self.labelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is accepted. walks: by label, or one under None for all labels together.

    short: labels whose audited rows are too few for a walk, with how many they are.
    """

    walks: Mapping[str | None, Walk]
    short: Mapping[str, int] = field(default_factory=dict)

    @property
    def delta(self) -> float:
        """Of each walk."""
        return next((walk.delta for walk in self.walks.values()), math.nan)

    def accept(self, names: tuple[str, ...]) -> dict[str, float]:
        """The cut of each label that has one. names: all that a row's label may be."""
        if None in self.walks:
            chosen = self.walks[None].chosen
            return {} if chosen is None else dict.fromkeys(names, chosen.cut)
        found = {name: walk.chosen for name, walk in self.walks.items() if name is not None}
        return {name: point.cut for name, point in found.items() if point is not None}


def lower_bounds(right: Int32, of: Int32, *, delta: float) -> Float64:
    """The exact (Clopper-Pearson) lower bound of each share, at confidence 1 - delta. Needs scipy.

    >>> [round(float(x), 4) for x in lower_bounds(np.int32([59, 122, 0]), np.int32([59, 124, 5]), delta=0.05)]
    [0.9505, 0.9501, 0.0]
    """
    from scipy.stats import beta

    some = np.maximum(right, 1)
    return np.where(right > 0, beta.ppf(delta, some, of - some + 1), 0.0)


@functools.cache
def least_accepted(target: float, delta: float) -> int:
    """The least number of accepted rows at which `ERRORS_AT_START` of them may be wrong.

    >>> [least_accepted(target, 0.05) for target in (0.9, 0.95, 0.99)]
    [61, 124, 628]
    """

    def enough(count: int) -> bool:
        right, of = np.array([[count - ERRORS_AT_START], [count]], np.int32)
        return bool(lower_bounds(right, of, delta=delta)[0] >= target)

    high = ERRORS_AT_START + 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough, or too few to have errors at all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def walk(score: Float32, right: Bool, *, target: float, delta: float) -> Walk:
    """Walk down the ranking of audited rows that have a label: [N] stored scores, [N] whether it is right."""
    needed = least_accepted(target, delta)
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], np.cumsum(right[order], dtype=np.int64)
    points = _points(ranked, hits, start=needed, delta=delta)
    failed = next((place for place, point in enumerate(points) if point.lower < target), len(points))
    return Walk(
        points=points,
        chosen=points[failed - 1] if failed else None,
        labelled=len(score),
        needed=needed,
        target=target,
        delta=delta,
    )


def choose(score: Float32, right: Bool, *, target: float, delta: float) -> Choice:
    """One cut for all labels."""
    return Choice(walks={None: walk(score, right, target=target, delta=delta)})


def choose_per_class(
    score: Float32, right: Bool, label: Int32, names: tuple[str, ...], *, target: float, delta: float
) -> Choice:
    """A cut for each label that has enough audited rows; all claims hold together at confidence 1 - delta.

    label: [N] places in names. Each walk has delta / (number of walks). Which labels get one depends on how
    many audited rows have them, never on which of these are right. The more walks, the more rows each needs:
    as many labels are taken as can be, the most frequent first.
    """
    counts = np.bincount(label, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    walks = 0
    for number in range(1, len(names) + 1):
        if counts[order[number - 1]] < least_accepted(target, delta / number):
            break
        walks = number
    tested = sorted(order[:walks].tolist())
    found = {
        names[place]: walk(score[label == place], right[label == place], target=target, delta=delta / walks)
        for place in tested
    }
    short = {
        names[place]: int(counts[place]) for place in order[walks:].tolist() if counts[place] or walks == 0
    }
    return Choice(walks=found, short=short)


def check_claim(target: float, confidence: float) -> None:
    """Raise RequestError for what nobody can promise."""
    for name, value in (("target-precision", target), ("confidence", confidence)):
        if not 0.5 <= value <= 0.9999:
            raise RequestError(f"--{name} is {value:g}, expected a share from 0.5 to 0.9999")


def _points(ranked: Float32, hits: npt.NDArray[np.int64], *, start: int, delta: float) -> tuple[Point, ...]:
    """The cuts of the grid. ranked: falling scores; hits: how many are right down to each."""
    kept: list[tuple[float, int]] = []
    for rank in _ranks(start, len(ranked)):
        cut, accepted = 0.0, rank  # of all rows with a label
        if rank < len(ranked):
            below = ranked[rank]
            cut = float(np.nextafter(below, np.float32(np.inf)))
            accepted = int(np.searchsorted(-ranked, -below, side="left"))
        if accepted >= start and (not kept or accepted > kept[-1][1]):
            kept.append((cut, accepted))
    if not kept:
        return ()
    counts = np.array([accepted for _, accepted in kept], np.int32)
    right = hits[counts - 1].astype(np.int32)
    lower = lower_bounds(right, counts, delta=delta)
    return tuple(
        Point(cut=cut, accepted=accepted, right=good, lower=bound)
        for (cut, accepted), good, bound in zip(kept, right.tolist(), lower.tolist(), strict=True)
    )


def _ranks(start: int, total: int) -> Iterator[int]:
    """The fixed grid, from the strictest on; the last rank is that of all rows.

    >>> list(_ranks(124, 140))
    [124, 128, 132, 136, 140]
    """
    rank = start
    while rank < total:
        yield rank
        rank = math.ceil(rank * _STEP)
    if total >= start:
        yield total
