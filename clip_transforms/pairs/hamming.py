"""Pairs of 64-bit hashes within a Hamming distance: bands, by the pigeonhole principle, and popcounts.

Two hashes that differ in at most d bits are equal in at least one of d + 1 bands of their bits; so only hashes
that share a band are compared, and none within the distance is missed. Where many share one, the rest of
their bits is cut into d + 1 bands again: nothing is missed by that either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]
Pairs = tuple[Index, Index]

BITS = 64
_MATRIX = 1 << 11  # from so many pairs on, a bucket is compared as a matrix

_TABLE = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


def ones_by_table(values: Hashes) -> npt.NDArray[np.uint8]:
    """As `ones`, without NumPy 2."""
    words = np.ascontiguousarray(values)[..., None].view(np.uint16)
    counts: npt.NDArray[np.uint8] = _TABLE[words].sum(axis=-1, dtype=np.uint8)
    return counts


_ones = getattr(np, "bitwise_count", ones_by_table)


def ones(values: Hashes) -> npt.NDArray[np.uint8]:
    """The number of bits that are set in each value.

    >>> ones(np.array([0, 255], np.uint64)).tolist()
    [0, 8]
    """
    counts: npt.NDArray[np.uint8] = _ones(values)
    return counts


def bands(bits: int, distance: int) -> list[tuple[int, int]]:
    """`distance` + 1 bands of `bits` bits, as (lowest bit, width): as even as can be, without gaps.

    >>> bands(64, 4)
    [(0, 13), (13, 13), (26, 13), (39, 13), (52, 12)]
    """
    count = distance + 1
    starts = [-(-bits * number // count) for number in range(count + 1)]
    return [(low, high - low) for low, high in pairwise(starts)]


def band_keys(hashes: Hashes, distance: int) -> npt.NDArray[np.uint64]:
    """For each hash its `distance` + 1 keys: two hashes within the distance share at least one.

    Of shape (hashes, distance + 1), for a GroupByKey: what it shuffles is a row's number, score and hash.

    >>> [hex(key) for key in band_keys(np.array([0xFFFF_0000_0000_0001], np.uint64), 1)[0]]
    ['0x1', '0x1ffff0000']
    """
    keys = np.empty((len(hashes), distance + 1), np.uint64)
    for number, (low, width) in enumerate(bands(BITS, distance)):  # at most 32 bits wide, or one of 64
        keys[:, number] = _band(hashes, low, width) | np.uint64(number << 32)
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a bucket of hashes that share a band is compared, in pairs; the defaults are by measurement."""

    compare: int = 1 << 20  # compared at once; a bucket with more is split
    splits: int = 3  # bands within bands within bands
    crowded: int = 1 << 24  # of a bucket that cannot be split further: with more it is not compared in full


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Side:
    """Hashes (what is left of their bits) and where they were."""

    places: Index
    values: Hashes

    def by_band(self, low: int, width: int) -> tuple[_Side, Hashes, Index, Index]:
        """Sorted by a band, the order within it kept; the band's values, where each starts, how many have it."""
        band = _band(self.values, low, width)
        order = np.argsort(band.astype(np.uint16) if width <= 16 else band, kind="stable")  # 16: a radix sort
        values, starts, lengths = np.unique(band[order], return_index=True, return_counts=True)
        return _Side(self.places[order], self.values[order]), values, starts, lengths

    def cut(self, start: int, length: int) -> _Side:
        return _Side(self.places[start : start + length], self.values[start : start + length])

    def without(self, low: int, width: int) -> _Side:
        """Without the bits of a band."""
        below = self.values & np.uint64((1 << low) - 1)
        return _Side(self.places, (self.values >> np.uint64(low + width) << np.uint64(low)) | below)


def pairs_within(
    better: Hashes, worse: Hashes, distance: int, *, partly: npt.NDArray[np.bool_], limits: Limits = LIMITS
) -> Iterator[Pairs]:
    """Positions (in `better`, in `worse`) of the pairs within `distance` (at least 1), some several times.

    better, worse: each best first. partly: set to True, in place, for those of `worse` that were not compared
    with all that they share a band with but with the best of them only, because a bucket was crowded.
    """
    left, right = _Side(_numbers(better), better), _Side(_numbers(worse), worse)
    return _match(left, right, BITS, distance, partly, limits)


def _match(
    left: _Side, right: _Side, bits: int, distance: int, partly: npt.NDArray[np.bool_], limits: Limits
) -> Iterator[Pairs]:
    for low, width in bands(bits, distance):
        a, a_values, a_starts, a_lengths = left.by_band(low, width)
        b, b_values, b_starts, b_lengths = right.by_band(low, width)
        _, i, j = np.intersect1d(a_values, b_values, assume_unique=True, return_indices=True)
        buckets = np.stack([a_starts[i], a_lengths[i], b_starts[j], b_lengths[j]])
        small = buckets[1] * buckets[3] < _MATRIX
        yield from _compare_small(a, b, buckets[:, small], distance, limits)
        rest = bits - width
        for start, length, other, others in buckets[:, ~small].T.tolist():
            one, two = a.cut(start, length), b.cut(other, others)
            if length * others > limits.compare and limits.splits > 0 and rest > distance:
                fewer = replace(limits, splits=limits.splits - 1)
                inner = one.without(low, width), two.without(low, width)
                yield from _match(*inner, rest, distance, partly, fewer)
                continue
            if length * others > limits.crowded:
                partly[two.places] = True
                one = one.cut(0, max(1, limits.crowded // others))
            yield from _compare_all(one, two, distance, limits)


def _compare_small(
    a: _Side, b: _Side, buckets: npt.NDArray[np.int64], distance: int, limits: Limits
) -> Iterator[Pairs]:
    """The pairs of many small buckets, about `limits.compare` at once."""
    ends = np.cumsum(buckets[1] * buckets[3])
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(limits.compare, total, limits.compare))
    for some in np.split(buckets, np.unique(cuts), axis=1):
        starts, lengths, others_starts, others = some
        others = np.repeat(others, lengths)
        i = np.repeat(_ranges(starts, lengths), others)
        j = _ranges(np.repeat(others_starts, lengths), others)
        near = np.flatnonzero(ones(a.values[i] ^ b.values[j]) <= distance)
        yield a.places[i[near]], b.places[j[near]]


def _compare_all(a: _Side, b: _Side, distance: int, limits: Limits) -> Iterator[Pairs]:
    """The pairs of one bucket, as matrices of about `limits.compare`."""
    step = max(1, limits.compare // len(b.values))
    for start in range(0, len(a.values), step):
        some = a.cut(start, step)
        near = np.flatnonzero(ones(some.values[:, None] ^ b.values[None, :]) <= distance)
        i, j = np.divmod(near, len(b.values))
        yield some.places[i], b.places[j]


def _numbers(values: Hashes) -> Index:
    return np.arange(len(values), dtype=np.int64)


def _band(values: Hashes, low: int, width: int) -> Hashes:
    return values >> np.uint64(low) & np.uint64((1 << width) - 1)


def _ranges(starts: Index, lengths: Index) -> Index:
    """Ranges one after the other.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(
        starts - np.cumsum(lengths) + lengths, lengths
    )
