"""Near duplicates: pictures whose perceptual hashes differ in few bits, as stars by descending score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.pairs.hamming import LIMITS, Hashes, Index, Limits, ones, pairs_within
from clip_transforms.pairs.stars import Rows, best_first, stars

#: Bits that may differ, an even number nearly always (half of the bits of a hash are set). By measurement
#: (`python -m benchmarks.pairs`) the largest at which no distinct picture is dropped for another, and none of
#: 1,000,000 unrelated hashes joins another; at 8, 300 do.
DEFAULT_DISTANCE = 4
#: More make no sense: from here on many unrelated hashes are as near as that.
MAX_DISTANCE = 12
#: A hash with fewer bits set is of a picture of one colour, a plain gradient or one that mirrors itself: most
#: of its frequencies are exactly 0, and pictures with little in common have it too.
MIN_BITS_SET = 24
_BYTES = 8  # of a hash
_FIRST = 1 << 10  # rows of the first block, after which each has as many as came before
_PAIRS = 1 << 22  # pairs within a block that are held at once; with more the block is halved


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """What `near_duplicates` found."""

    joins: Rows  # for each row the row that it joins: itself if it is kept
    plain: int  # rows whose hash says too little to compare: always kept
    approximate: int  # hashes that were compared only with the best of those in a crowded bucket


def hash_numbers(texts: Sequence[str]) -> Hashes:
    """The `phash` column, 16 hex digits each, as numbers.

    Raises:
        ValueError: a text is not 16 hex digits.

    >>> hash_numbers(["00000000000000ff"]).tolist()
    [255]
    """
    if not all(len(text) == 2 * _BYTES for text in texts):
        raise ValueError("a perceptual hash is not of 16 hex digits")
    data = bytes.fromhex("".join(texts))
    return np.frombuffer(data, ">u8").astype(np.uint64)


def near_duplicates(
    hashes: Hashes,
    scores: npt.NDArray[Any],
    ids: npt.NDArray[Any],
    *,
    distance: int = DEFAULT_DISTANCE,
    limits: Limits = LIMITS,
) -> NearDuplicates:
    """Which rows are near duplicates of which, by hashes that differ in at most `distance` bits.

    By descending score (NaN last, ties by ascending id) a row joins the best kept row within the distance,
    else it is kept (`clip_transforms.pairs.stars`). Rows with few bits set (`MIN_BITS_SET`) take no part and
    are kept: all blank pictures have one hash. The result depends on the rows alone, not on their order.

    Equal hashes are collapsed first. The rest is taken in blocks, best first, each as large as all before it:
    a block's rows are looked up among the hashes that are kept already, and those that are left are compared
    with one another. So only kept hashes and one block's pairs are held, however alike the pictures are.

    Raises:
        RequestError: `distance` is not within 0 to `MAX_DISTANCE`.

    >>> hashes = np.array([0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0FF0, 0x0F0F0F0F0F0F0F0E], np.uint64)
    >>> near_duplicates(hashes, np.float32([0.2, 0.3, 0.1]), np.arange(3)).joins.tolist()
    [0, 1, 0]
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise RequestError(
            f"near duplicates within {distance} bits: expected a number from 0 to {MAX_DISTANCE}"
        )
    order = best_first(scores, ids)
    order = order[ones(hashes[order]) >= MIN_BITS_SET]
    values, first, inverse = np.unique(hashes[order], return_index=True, return_inverse=True)
    rank = np.argsort(first)  # distinct hashes, best first
    values, first = values[rank], first[rank]
    partly = np.zeros(len(values), np.bool_)
    star = _stars(values, distance, partly, limits) if distance else np.arange(len(values), dtype=np.int64)
    back = np.empty(len(rank), np.int64)
    back[rank] = np.arange(len(rank))
    joins = np.arange(len(hashes), dtype=np.int64)
    joins[order] = order[first[star[back[inverse.reshape(-1)]]]]
    return NearDuplicates(joins=joins, plain=len(hashes) - len(order), approximate=int(partly.sum()))


def _stars(values: Hashes, distance: int, partly: npt.NDArray[np.bool_], limits: Limits) -> Index:
    """For each of the distinct hashes, best first, the one that it joins."""
    joins = np.arange(len(values), dtype=np.int64)
    kept = np.empty(0, np.int64)
    start, size = 0, _FIRST
    while start < len(values):
        block = np.arange(start, min(start + size, len(values)), dtype=np.int64)
        best = _best_kept(values[kept], values[block], distance, partly[block[0] : block[-1] + 1], limits)
        joined = best < len(kept)
        left = block[~joined]
        unsure = np.zeros(len(left), np.bool_)
        pairs = _pairs_among(values[left], distance, unsure, limits, most=_PAIRS if size > _FIRST else None)
        if pairs is None:
            size = max(_FIRST, len(block) // 2)
            continue
        joins[block[joined]] = kept[best[joined]]
        joins[left] = left[stars(len(left), *pairs)]
        partly[left] |= unsure
        kept = np.concatenate([kept, left[joins[left] == left]])
        start, size = start + len(block), max(_FIRST, min(2 * size, start + len(block)))
    return joins


def _best_kept(
    kept: Hashes, block: Hashes, distance: int, partly: npt.NDArray[np.bool_], limits: Limits
) -> Index:
    """For each hash of a block the place of the best kept one within the distance; len(kept) if none is."""
    best = np.full(len(block), len(kept), np.int64)
    for better, worse in pairs_within(kept, block, distance, partly=partly, limits=limits):
        np.minimum.at(best, worse, better)
    return best


def _pairs_among(
    values: Hashes, distance: int, partly: npt.NDArray[np.bool_], limits: Limits, *, most: int | None
) -> tuple[Index, Index] | None:
    """The pairs (better, worse) among hashes that are best first; None if there are more than `most`."""
    codes: list[Index] = []
    held = 0
    for better, worse in pairs_within(values, values, distance, partly=partly, limits=limits):
        earlier = better < worse
        codes.append(better[earlier] * len(values) + worse[earlier])
        held += len(codes[-1])
        if most is not None and held > most:
            return None
    both = np.unique(np.concatenate([*codes, np.empty(0, np.int64)]))
    return both // max(1, len(values)), both % max(1, len(values))
