"""The cut: the exact threshold of a global top fraction, in memory that does not grow with the scores.

The scores are read more than once and never held: each pass counts 16 further bits of the bit patterns of
those that may still be the threshold (two passes for float32, four for float64), in at most 65,536 counters.
Counts of parts add up, so that on a runner nothing but counts travels (`clip_transforms.transforms.cut`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError

Scores = npt.NDArray[Any]  # float32 or float64, NaN where a row has no score
_DIGIT = 16  # bits of a pass
_DIGITS = 1 << _DIGIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the cut lies: a row is kept if its score is `>= threshold` (`keep_above`)."""

    threshold: float
    rows: int  # all, those without a score too
    scored: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many rows have each value of the bits that a pass looks at; only values that occur."""

    digits: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.int64]

    def __add__(self, other: Counts) -> Counts:
        dense = np.zeros(_DIGITS, np.int64)
        dense[self.digits] = self.rows
        dense[other.digits] += other.rows
        return _sparse(dense)


NO_COUNTS = Counts(digits=np.empty(0, np.uint16), rows=np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is known of the threshold before a pass."""

    fraction: float
    bits: int = 32  # of a score: 32 or 64
    known: int = 0  # leading bits of the threshold's key that are known ...
    prefix: int = 0  # ... and their value
    above: int = 0  # rows whose known bits say that they are above
    rows: int = 0
    scored: int = 0
    place: int = 0  # of the threshold in all scores, best first, from 0
    kept: int = 0

    def __post_init__(self) -> None:
        """Refuse a fraction that is none."""
        if not 0 < self.fraction <= 1:
            raise RequestError(
                f"the fraction to keep is {self.fraction:g}: expected more than 0 and at most 1, as 0.3"
            )

    @property
    def done(self) -> bool:
        """Whether the threshold is known."""
        return self.known == self.bits


def top_fraction(chunks: Callable[[], Iterable[Scores]], fraction: float, *, bits: int = 32) -> Cut:
    """The cut that keeps the best `fraction` of all rows; the scores of `chunks()` are read two times.

    The rule is DataComp's (its `clip_score` baseline): the threshold is the score at place `int(rows *
    fraction)` from 0, best first, and all rows at or above it are kept; so the row at that place and all
    that tie with it are kept too. Rows without a score (NaN) count as rows and are worse than any with one.
    In two cases that baseline has no use: at `fraction` 1 it raises an IndexError, and where the place falls
    among rows without a score its threshold is NaN and it keeps none. Here all rows with a score are kept.

    chunks: called for each pass; the arrays may differ in size and order between calls, not in content.
    bits: 32 for float32 scores, 64 for float64 (read four times).

    Raises:
        RequestError: `fraction` is not in (0, 1].
        ValueError: a chunk is of another dtype, or the passes saw different scores.

    >>> top_fraction(lambda: [np.float32([0.1, 0.4]), np.float32([0.3, 0.2])], 0.5)
    Cut(threshold=0.20000000298023224, rows=4, scored=4, kept=3)
    """
    search = Search(fraction=fraction, bits=bits)
    while not search.done:
        dense = np.zeros(_DIGITS, np.int64)
        for scores in chunks():
            dense += _dense(scores, search)
        search = narrow(search, _sparse(dense))
    return found(search)


def keep_above(scores: Scores, threshold: float) -> npt.NDArray[np.bool_]:
    """Which rows score at or above `threshold`, compared in the scores' own precision; NaN never does.

    >>> keep_above(np.float32([0.7, 0.69, np.nan]), 0.7).tolist()
    [True, False, False]
    """
    kept: npt.NDArray[np.bool_] = scores >= scores.dtype.type(threshold)
    return kept


def count(scores: Scores, search: Search) -> Counts:
    """What a pass counts in one chunk of scores.

    >>> count(np.float32([0.5, 0.5, -1.0]), Search(fraction=0.5)).rows.tolist()
    [2, 1]
    """
    return _sparse(_dense(scores, search))


def narrow(search: Search, counts: Counts) -> Search:
    """The search after a pass, from the counts of all its chunks.

    Raises:
        ValueError: the counts are not of the rows that the pass before counted.
    """
    if not search.known:
        rows = int(counts.rows.sum())
        without = int(counts.rows[counts.digits == _DIGITS - 1].sum())  # keys of NaN are the largest
        search = replace(search, rows=rows, scored=rows - without, place=int(rows * search.fraction))
        if search.place >= search.scored:  # no such score: -inf keeps all that there are
            return replace(
                search, known=search.bits, prefix=_key_of(-np.inf, search.bits), kept=search.scored
            )
    ends = search.above + np.cumsum(counts.rows)
    if search.known and (not len(ends) or ends[-1] != search.kept):
        raise ValueError("the scores were not the same in each pass")
    at = int(np.searchsorted(ends, search.place, side="right"))
    return replace(
        search,
        known=search.known + _DIGIT,
        prefix=search.prefix << _DIGIT | int(counts.digits[at]),
        above=int(ends[at] - counts.rows[at]),
        kept=int(ends[at]),
    )


def found(search: Search) -> Cut:
    """The cut of a search that is done.

    Raises:
        ValueError: it is not.
    """
    if not search.done:
        raise ValueError(f"only {search.known} of {search.bits} bits of the threshold are known")
    return Cut(
        threshold=_score_of(search.prefix, search.bits),
        rows=search.rows,
        scored=search.scored,
        kept=search.kept,
    )


def _sparse(dense: npt.NDArray[np.int64]) -> Counts:
    digits = np.flatnonzero(dense)
    return Counts(digits=digits.astype(np.uint16), rows=dense[digits])


def _dense(scores: Scores, search: Search) -> npt.NDArray[np.int64]:
    keys = _keys(scores, search.bits)
    left = search.bits - search.known
    if search.known:
        keys = keys[keys >> keys.dtype.type(left) == search.prefix]
    digits = keys >> keys.dtype.type(left - _DIGIT) & keys.dtype.type(_DIGITS - 1)
    return np.bincount(digits.astype(np.intp), minlength=_DIGITS).astype(np.int64, copy=False)


def _keys(scores: Scores, bits: int) -> npt.NDArray[Any]:
    """Unsigned numbers in the opposite order of the scores: the best has the smallest, NaN the largest.

    >>> [hex(key) for key in _keys(np.float32([np.inf, 1, 0.0, -0.0, -1, -np.inf, np.nan]), 32)][1:5]
    ['0x407fffff', '0x7fffffff', '0x7fffffff', '0xbf800000']
    """
    if scores.dtype != np.dtype(f"f{bits // 8}"):
        raise ValueError(f"scores are {scores.dtype}, expected float{bits}")
    patterns = np.ascontiguousarray(scores).view(f"u{bits // 8}")
    sign = patterns.dtype.type(1 << bits - 1)
    keys = np.where(patterns < sign, ~(patterns | sign), patterns)
    keys[patterns == sign] = sign - patterns.dtype.type(1)  # -0.0 is 0.0
    keys[np.isnan(scores)] = ~patterns.dtype.type(0)
    return keys


def _key_of(score: float, bits: int) -> int:
    return int(_keys(np.array([score], f"f{bits // 8}"), bits)[0])


def _score_of(key: int, bits: int) -> float:
    sign = 1 << bits - 1
    pattern = key if key >= sign else key ^ (2 * sign - 1) ^ sign
    return float(np.array([pattern], f"u{bits // 8}").view(f"f{bits // 8}")[0])
