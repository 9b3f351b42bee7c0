"""The cut and the list of uids: equal to DataComp's rule, written out here, to the byte."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.pairs.cut import (
    NO_COUNTS,
    Counts,
    Search,
    count,
    found,
    keep_above,
    narrow,
    top_fraction,
)
from clip_transforms.pairs.uids import uid_array, uid_bytes


def datacomp_threshold(scores: npt.NDArray[Any], fraction: float) -> Any:
    """The rule in one line: all scores in memory, sorted."""
    return -np.sort(-scores)[int(len(scores) * fraction)]


def chunked(scores: npt.NDArray[Any], seed: int) -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(scores) + 1, 5))
    parts = np.split(scores, cuts)
    return [parts[number] for number in rng.permutation(len(parts))]


def drawn(seed: int, dtype: str) -> npt.NDArray[Any]:
    """Scores of one of several kinds: cosines, few values, both zeros, extremes."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 400))
    kinds = (
        lambda: rng.normal(0.22, 0.06, size),
        lambda: rng.choice([0.25, 0.3, 0.2], size),
        lambda: rng.choice([0.0, -0.0, -1e-45, 1e-45, 1e-30], size),
        lambda: rng.choice([np.inf, -np.inf, 3e38, -3e38, 1.0, -1.0], size),
        lambda: rng.uniform(-1, 1, size).round(2),
    )
    with np.errstate(under="ignore"):
        return kinds[seed % len(kinds)]().astype(dtype)


@pytest.mark.parametrize(("dtype", "bits"), [("f4", 32), ("f8", 64)])
def test_the_threshold_is_datacomps(dtype: str, bits: int) -> None:
    for seed in range(60):
        scores = drawn(seed, dtype)
        for fraction in (0.001, 0.1, 0.29, 0.3, 0.5, 0.7, 0.999):
            cut = top_fraction(lambda scores=scores, seed=seed: chunked(scores, seed), fraction, bits=bits)
            expected = datacomp_threshold(scores, fraction)
            assert cut.threshold == expected, (seed, fraction)
            kept = keep_above(scores, cut.threshold)
            assert kept.tolist() == (scores >= expected).tolist()
            assert (cut.kept, cut.rows, cut.scored) == (kept.sum(), len(scores), len(scores))


def test_rows_without_a_score_count_as_rows() -> None:
    for seed in range(100):
        scores = drawn(seed, "f4")
        scores[np.random.default_rng(seed).random(len(scores)) < 0.3] = np.nan
        for fraction in (0.1, 0.5, 0.9):
            cut = top_fraction(lambda scores=scores, seed=seed: chunked(scores, seed), fraction)
            expected = datacomp_threshold(scores, fraction)
            scored = int((~np.isnan(scores)).sum())
            assert (cut.rows, cut.scored) == (len(scores), scored)
            if np.isnan(expected):  # DataComp keeps none then: nothing is >= NaN
                assert cut.threshold == -np.inf and cut.kept == scored
                assert keep_above(scores, cut.threshold).tolist() == (~np.isnan(scores)).tolist()
            else:
                assert keep_above(scores, cut.threshold).tolist() == (scores >= expected).tolist()
                assert cut.kept == (scores >= expected).sum()


def test_every_bit_pattern_of_nan_is_no_score() -> None:
    patterns = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x3E800000], np.uint32)
    cut = top_fraction(lambda: [patterns.view(np.float32)], 0.1)
    assert (cut.threshold, cut.rows, cut.scored, cut.kept) == (0.25, 5, 1, 1)


def test_a_whole_product_keeps_one_more() -> None:
    scores = np.arange(10, dtype=np.float32)
    cut = top_fraction(lambda: [scores], 0.3)
    assert (cut.threshold, cut.kept) == (6.0, 4)
    assert top_fraction(lambda: [scores], 0.29).kept == 3


def test_all_and_none() -> None:
    scores = np.float32([0.5, np.nan, 0.1])
    cut = top_fraction(lambda: [scores], 1.0)
    assert (cut.threshold, cut.kept) == (-np.inf, 2)
    with pytest.raises(IndexError):
        datacomp_threshold(scores, 1.0)
    for chunks in ([], [scores[:0]]):
        empty = top_fraction(lambda chunks=chunks: chunks, 0.3)
        assert (empty.threshold, empty.rows, empty.kept) == (-np.inf, 0, 0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(RequestError, match="expected more than 0 and at most 1"):
        top_fraction(list, fraction)


def test_scores_that_change_between_passes_are_an_error() -> None:
    passes = iter([np.float32([0.1, 0.2]), np.float32([0.3, 0.9])])
    with pytest.raises(ValueError, match="not the same in each pass"):
        top_fraction(lambda: [next(passes)], 0.6)
    with pytest.raises(ValueError, match="scores are float64, expected float32"):
        top_fraction(lambda: [np.array([0.1])], 0.5)
    with pytest.raises(ValueError, match="only 0 of 32 bits"):
        found(Search(fraction=0.5))


def test_counts_of_parts_add_up_in_any_order() -> None:
    scores = np.random.default_rng(1).normal(0.2, 0.1, 5000).astype(np.float32)
    search = Search(fraction=0.3)
    while not search.done:
        parts = [count(part, search) for part in np.array_split(scores, 37)]
        total: Counts = sum(reversed(parts), start=NO_COUNTS)
        whole = count(scores, search)
        assert total.digits.tolist() == whole.digits.tolist() and total.rows.tolist() == whole.rows.tolist()
        search = narrow(search, total)
    assert found(search).threshold == datacomp_threshold(scores, 0.3)


def test_memory_does_not_grow_with_the_scores() -> None:
    def chunks() -> Any:
        for seed in range(200):
            yield np.random.default_rng(seed).random(10_000, np.float32)

    tracemalloc.start()
    cut = top_fraction(chunks, 0.3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cut.rows == 2_000_000
    assert peak < 4 << 20  # all scores are 8 MB


def test_above_is_compared_in_the_scores_own_precision() -> None:
    assert keep_above(np.float32([0.7]), 0.7).tolist() == [True]  # float32(0.7) < 0.7
    assert keep_above(np.array([np.float32(0.7)], np.float64), 0.7).tolist() == [False]


def test_uids_are_the_bytes_that_datacomp_saves() -> None:
    rng = np.random.default_rng(2)
    uids = [rng.bytes(16).hex() for _ in range(3000)]
    uids += ["f" * 32, "0" * 32, "0" * 16 + "f" * 16, "8" + "0" * 31, uids[0]]
    scores = rng.choice(rng.normal(0.2, 0.05, 300).astype(np.float32), len(uids))
    threshold = datacomp_threshold(scores, 0.3)
    kept = [
        (int(uid[:16], 16), int(uid[16:], 16)) for uid, s in zip(uids, scores, strict=True) if s >= threshold
    ]
    expected = np.array(kept, np.dtype("u8,u8"))
    expected.sort()
    file = io.BytesIO()
    np.save(file, expected)
    cut = top_fraction(lambda: np.array_split(scores, 7), 0.3)
    ours = [uids[row] for row in np.flatnonzero(keep_above(scores, cut.threshold))]
    assert len(ours) > 900
    assert uid_bytes(uid_array(ours)) == file.getvalue()
    assert uid_bytes(uid_array(reversed(ours))) == file.getvalue()


def test_an_empty_list_of_uids() -> None:
    file = io.BytesIO()
    np.save(file, np.array([], np.dtype("u8,u8")))
    assert uid_bytes(uid_array([])) == file.getvalue()


@pytest.mark.parametrize(
    "uid", ["", "0" * 31, "0" * 33, "g" * 32, "0x" + "0" * 30, "0" * 32 + "\n", "é" * 32]
)
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(RequestError, match="is not 32 hex digits"):
        uid_array([uid])
