"""Exact and near duplicates: equal to the star rule written out, whatever the order, blocks and buckets."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.pairs import hamming, near
from clip_transforms.pairs.exact import DIGEST, digest_partition, exact_duplicates
from clip_transforms.pairs.hamming import Limits, band_keys, bands, ones, pairs_within
from clip_transforms.pairs.near import near_duplicates
from clip_transforms.pairs.stars import stars


def seeded(seed: int, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Hashes in families that differ in few bits, scores with ties and gaps, ids in no order."""
    rng = np.random.default_rng(seed)
    families = rng.integers(0, 2**64, max(1, count // 6), np.uint64)
    hashes = rng.choice(families, count)
    for _ in range(rng.integers(0, 7)):
        flip = rng.random(count) < 0.6
        hashes[flip] ^= np.uint64(1) << rng.integers(0, 64, int(flip.sum())).astype(np.uint64)
    hashes[rng.random(count) < 0.05] = rng.choice(np.array([0, 1 << 63, 0xFFFF], np.uint64))
    scores = rng.choice(np.array([0.1, 0.2, 0.25, -0.1, np.nan], np.float32), count)
    return hashes, scores, rng.permutation(count)


def star_rule(hashes: Any, scores: Any, ids: Any, distance: int) -> list[int]:
    """The rule, one row at a time in Python numbers."""
    numbers = [int(value) for value in hashes]
    order = sorted(
        range(len(numbers)),
        key=lambda row: (
            math.isnan(scores[row]),
            -scores[row] if scores[row] == scores[row] else 0,
            ids[row],
        ),
    )
    joins, kept = list(range(len(numbers))), []
    for row in order:
        if bin(numbers[row]).count("1") < 24:
            continue
        for other in kept:
            if bin(numbers[row] ^ numbers[other]).count("1") <= distance:
                joins[row] = other
                break
        else:
            kept.append(row)
    return joins


@pytest.mark.parametrize("distance", [0, 1, 2, 4, 7, 10, 12])
def test_equals_the_rule_written_out(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_FIRST", 16)
    for seed in range(12):
        hashes, scores, ids = seeded(seed, int(np.random.default_rng(seed).integers(0, 260)))
        found = near_duplicates(hashes, scores, ids, distance=distance)
        assert found.joins.tolist() == star_rule(hashes, scores, ids, distance), f"seed {seed}"
        assert found.plain == sum(bin(int(value)).count("1") < 24 for value in hashes)
        assert found.approximate == 0


@pytest.mark.parametrize("compare", [1, 7, 100])
def test_split_buckets_miss_nothing(compare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_FIRST", 16)
    monkeypatch.setattr(hamming, "_MATRIX", 2)
    for seed in range(6):
        hashes, scores, ids = seeded(seed, 150)
        found = near_duplicates(hashes, scores, ids, distance=3, limits=Limits(compare=compare))
        assert found.joins.tolist() == star_rule(hashes, scores, ids, 3)
        assert found.approximate == 0


def test_many_alike_halve_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_FIRST", 8)
    monkeypatch.setattr(near, "_PAIRS", 5)
    for seed in range(6):
        hashes, scores, ids = seeded(seed, 200)
        found = near_duplicates(hashes, scores, ids, distance=6)
        assert found.joins.tolist() == star_rule(hashes, scores, ids, 6)


def test_the_order_of_rows_changes_nothing() -> None:
    hashes, scores, ids = seeded(3, 400)
    joins = near_duplicates(hashes, scores, ids, distance=6).joins
    expected = {int(ids[row]): int(ids[join]) for row, join in enumerate(joins)}
    for seed in range(3):
        mix = np.random.default_rng(seed).permutation(400)
        mixed = near_duplicates(hashes[mix], scores[mix], ids[mix], distance=6).joins
        assert {int(ids[mix][row]): int(ids[mix][join]) for row, join in enumerate(mixed)} == expected


def test_crowded_buckets_are_counted_and_merge_nothing_wrong() -> None:
    rng = np.random.default_rng(5)
    low = rng.integers(0, 1 << 20, 3000, np.uint64)
    hashes = np.unique(
        np.uint64(0xFFFFFFFFFFF00000) | low
    )  # 44 bits in common: every band but two is crowded
    scores, ids = rng.random(len(hashes), np.float32), np.arange(len(hashes))
    limits = Limits(compare=100, splits=0, crowded=1000)
    found = near_duplicates(hashes, scores, ids, distance=2, limits=limits)
    full = near_duplicates(hashes, scores, ids, distance=2)
    assert full.approximate == 0 and full.joins.tolist() == star_rule(hashes, scores, ids, 2)
    assert 0 < found.approximate <= len(hashes)
    moved = np.flatnonzero(found.joins != ids)
    assert 0 < len(moved) <= np.count_nonzero(full.joins != ids)
    assert ones(hashes[moved] ^ hashes[found.joins[moved]]).max() <= 2
    assert (scores[found.joins] >= scores).all()
    assert (found.joins[found.joins] == found.joins).all()


def test_a_chain_is_no_group() -> None:
    base = np.uint64(0x0F0F0F0F0F0F0F0F)
    hashes = np.array([base, base ^ np.uint64(0b11), base ^ np.uint64(0b1111)], np.uint64)
    found = near_duplicates(hashes, np.float32([0.3, 0.2, 0.1]), np.arange(3), distance=2)
    assert found.joins.tolist() == [0, 0, 2]
    found = near_duplicates(hashes, np.float32([0.2, 0.3, 0.1]), np.arange(3), distance=2)
    assert found.joins.tolist() == [1, 1, 1]


def test_plain_pictures_stay_apart() -> None:
    hashes = near.hash_numbers(["8000000000000000"] * 3 + ["0000000000000000"] * 2)
    found = near_duplicates(hashes, np.ones(5, np.float32), np.arange(5), distance=12)
    assert found.joins.tolist() == [0, 1, 2, 3, 4]
    assert found.plain == 5


@pytest.mark.parametrize("distance", [-1, 13])
def test_a_distance_out_of_range_is_refused(distance: int) -> None:
    with pytest.raises(RequestError, match=f"within {distance} bits: expected a number from 0 to 12"):
        near_duplicates(np.empty(0, np.uint64), np.empty(0, np.float32), np.empty(0), distance=distance)


@pytest.mark.parametrize("distance", range(1, 17))
def test_bands_cover_all_bits_once(distance: int) -> None:
    found = bands(64, distance)
    assert len(found) == distance + 1
    assert [bit for low, width in found for bit in range(low, low + width)] == list(range(64))


def test_pairs_within_equal_a_full_comparison() -> None:
    for seed in range(8):
        hashes, _, _ = seeded(seed, 200)
        partly = np.zeros(120, np.bool_)
        pairs = pairs_within(hashes[:80], hashes[80:], 5, partly=partly)
        found = {(int(i), int(j)) for left, right in pairs for i, j in zip(left, right, strict=True)}
        differ = ones(hashes[:80, None] ^ hashes[None, 80:])
        assert found == {(int(i), int(j)) for i, j in zip(*np.nonzero(differ <= 5), strict=True)}
        assert not partly.any()


@pytest.mark.parametrize("distance", [0, 1, 4, 9])
def test_hashes_within_the_distance_share_a_key(distance: int) -> None:
    hashes, _, _ = seeded(1, 300)
    keys = band_keys(hashes, distance)
    differ = ones(hashes[:, None] ^ hashes[None])
    for i, j in zip(*np.nonzero(differ <= distance), strict=True):
        assert (keys[i] == keys[j]).any()
    if distance:  # bands have keys of their own
        assert not set(keys[:, 0].tolist()) & set(keys[:, 1].tolist())


def test_one_bits_by_table_as_by_numpy() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, (7, 5), np.uint64)
    expected = [[bin(int(value)).count("1") for value in row] for row in values]
    assert ones(values).tolist() == expected
    assert hamming.ones_by_table(values).tolist() == expected


def test_stars_with_repeated_pairs_in_any_order() -> None:
    better, worse = np.array([1, 0, 0, 1, 0]), np.array([3, 3, 1, 3, 1])
    assert stars(5, better, worse).tolist() == [0, 0, 2, 0, 4]


def test_exact_duplicates_equal_a_dictionary() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(0, 200))
        digests = np.array(
            [hashlib.sha256(bytes([value])).digest() for value in rng.integers(0, 50, count)], DIGEST
        )
        scores = rng.choice(np.array([0.5, 0.25, np.nan], np.float32), count)
        ids = np.array([f"{number:04d}" for number in rng.permutation(count)], "U4")
        groups: dict[bytes, list[int]] = {}
        for row in range(count):
            groups.setdefault(bytes(digests[row]), []).append(row)
        best = {
            digest: min(rows, key=lambda row: (-np.nan_to_num(scores[row], nan=-9), ids[row]))
            for digest, rows in groups.items()
        }
        expected = [best[bytes(digest)] for digest in digests]
        assert exact_duplicates(digests, scores, ids).tolist() == expected


def test_a_digest_that_ends_in_zeros() -> None:
    digests = np.array([b"a" * 31 + b"\0", b"a" * 31 + b"\1", b"a" * 31 + b"\0"], DIGEST)
    assert exact_duplicates(digests, np.zeros(3, np.float32), np.arange(3)).tolist() == [0, 1, 0]


def test_partitions_of_digests_are_in_range_and_even() -> None:
    numbers = [digest_partition(hashlib.sha256(str(n).encode()).digest(), 7) for n in range(7000)]
    counts = np.bincount(numbers)
    assert len(counts) == 7 and counts.min() > 900


@pytest.mark.parametrize("texts", [["00"], ["0" * 17, "0" * 15], ["g" * 16], ["00 00 00 00 00 0"]])
def test_what_is_no_hash_is_an_error(texts: list[str]) -> None:
    with pytest.raises(ValueError):
        near.hash_numbers(texts)
