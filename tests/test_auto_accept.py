"""Auto-accept: hand-made rankings, what a cut accepts to the last row, ties, classes, and the promise in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from benchmarks.auto_accept import Truth, by_seen_precision, flat, softmax_population
from benchmarks.auto_accept import main as simulate
from clip_transforms.auto_accept import (
    check_claim,
    choose,
    choose_per_class,
    least_accepted,
    lower_bounds,
    walk,
)
from clip_transforms.elements import RequestError

CLAIM = {"target": 0.95, "delta": 0.05}


def falling(count: int) -> np.ndarray:
    """Scores 0.99.. downwards, all different."""
    return np.linspace(0.99, 0.4, count).astype(np.float32)


def with_errors(count: int, *places: int) -> np.ndarray:
    right = np.ones(count, bool)
    right[list(places)] = False
    return right


def test_the_walk_starts_at_the_smallest_size_that_allows_two_errors() -> None:
    assert [least_accepted(target, 0.05) for target in (0.9, 0.95, 0.99)] == [61, 124, 628]
    for target, delta in ((0.9, 0.05), (0.95, 0.05), (0.95, 0.01), (0.5, 0.2)):
        size = least_accepted(target, delta)
        assert beta.ppf(delta, size - 2, 3) >= target
        assert not beta.ppf(delta, size - 3, 3) >= target


@pytest.mark.parametrize(("errors", "passes"), [((), True), ((3, 90), True), ((3, 90, 123), False)])
def test_124_rows_may_have_two_errors_and_not_three(errors: tuple[int, ...], passes: bool) -> None:
    found = walk(falling(124), with_errors(124, *errors), **CLAIM)
    assert (found.chosen is not None) is passes
    assert len(found.points) == 1 and found.points[0].accepted == 124 and found.points[0].cut == 0.0
    assert found.points[0].lower == pytest.approx(float(beta.ppf(0.05, 124 - len(errors), len(errors) + 1)))


def test_one_row_less_is_no_walk_and_says_what_is_missing() -> None:
    found = walk(falling(123), with_errors(123), **CLAIM)
    assert (found.points, found.chosen, found.missing, found.needed) == ((), None, 1, 124)
    assert walk(falling(0), with_errors(0), **CLAIM).missing == 124


def test_the_cut_accepts_exactly_the_rows_that_were_counted() -> None:
    rng = np.random.default_rng(5)
    score = rng.random(700).astype(np.float32)
    for point in walk(score, np.ones(700, bool), **CLAIM).points:
        assert int((score >= np.float32(point.cut)).sum()) == point.accepted
        assert float(np.float32(point.cut)) == point.cut  # survives JSON and float32


def test_what_lies_beyond_the_first_failure_is_not_accepted_however_good() -> None:
    right = with_errors(1000, 125, 126, 127)  # the second cut has three errors among 128
    found = walk(falling(1000), right, **CLAIM)
    assert found.chosen == found.points[0] and found.chosen.accepted == 124
    assert found.points[-1].lower > 0.99
    first_is_bad = walk(falling(1000), with_errors(1000, 0, 1, 2), **CLAIM)
    assert first_is_bad.chosen is None and first_is_bad.points[-1].lower > 0.99 and not first_is_bad.missing


def test_rows_of_one_score_stand_together() -> None:
    score = np.float32([1.0] * 200 + [0.5] * 200)
    found = walk(score, with_errors(400, *range(250, 400)), **CLAIM)
    assert [point.accepted for point in found.points] == [200, 400]
    assert found.chosen is not None and found.chosen.accepted == 200 and 0.5 < found.chosen.cut < 0.500001
    alike = walk(np.full(400, 1.0, np.float32), np.ones(400, bool), **CLAIM)
    assert [(point.accepted, point.cut) for point in alike.points] == [(400, 0.0)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_passed_with_all_before_it_and_does_not_depend_on_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = np.round(rng.random(600), int(rng.integers(2, 7))).astype(np.float32)
    right = rng.random(600) < 0.9 + 0.1 * score
    found = walk(score, right, **CLAIM)
    order = rng.permutation(600)
    assert walk(score[order], right[order], **CLAIM) == found
    passed = [point.lower >= 0.95 for point in found.points]
    if found.chosen is None:
        assert not passed[0]
    else:
        place = found.points.index(found.chosen)
        assert all(passed[: place + 1]) and not any(passed[place + 1 : place + 2])
    counts = [point.accepted for point in found.points]
    assert counts == sorted(set(counts)) and counts[-1] == 600
    for point in found.points:
        assert point.right == int(right[score >= np.float32(point.cut)].sum())


def test_one_cut_is_for_all_names_and_none_where_nothing_passed() -> None:
    names = ("cat", "dog", "__none__", "pets")
    found = choose(falling(200), with_errors(200), **CLAIM)
    assert found.accept(names) == dict.fromkeys(names, 0.0)
    assert choose(falling(200), with_errors(200, 0, 1, 2), **CLAIM).accept(names) == {}


def test_each_class_is_tested_at_its_part_of_delta_and_rare_ones_are_not_accepted() -> None:
    names = ("cat", "dog", "owl", "never")
    label = np.repeat(np.int32([0, 1, 2]), (300, 200, 20))
    score = np.concatenate([falling(300), falling(200), falling(20)])
    right = np.ones(520, bool)
    right[300:] = [False] * 200 + [True] * 20  # all dogs are wrong
    found = choose_per_class(score, right, label, names, **CLAIM)
    assert set(found.walks) == {"cat", "dog"} and found.short == {"owl": 20}
    assert found.delta == 0.025 and found.walks["cat"].needed == least_accepted(0.95, 0.025)
    assert found.accept(names) == {"cat": 0.0}
    by_hand = walk(falling(300), right[:300], target=0.95, delta=0.025)
    assert found.walks["cat"] == by_hand


def test_as_many_classes_are_tested_as_their_sizes_allow_whatever_is_right() -> None:
    names = tuple("abc")
    one, two = least_accepted(0.95, 0.05), least_accepted(0.95, 0.025)
    for sizes, tested in (
        ((one, one - 1, 0), ["a"]),
        ((two, two, 0), ["a", "b"]),
        ((two, two - 1, 0), ["a"]),
    ):
        label = np.repeat(np.int32([0, 1, 2]), sizes)
        score = falling(sum(sizes))
        for right in (np.ones(sum(sizes), bool), np.zeros(sum(sizes), bool)):
            assert list(choose_per_class(score, right, label, names, **CLAIM).walks) == tested
    nobody = choose_per_class(falling(9), np.ones(9, bool), np.zeros(9, np.int32), names, **CLAIM)
    assert nobody.walks == {} and nobody.short == {"a": 9, "b": 0, "c": 0}


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    right, of = np.int32([0, 1, 50, 99, 100]), np.int32([100] * 5)
    found = lower_bounds(right, of, delta=0.05)
    assert found[0] == 0.0
    assert found[4] == pytest.approx(0.05 ** (1 / 100))  # all right: delta = bound ** n
    assert found[1:].tolist() == pytest.approx([beta.ppf(0.05, c, 100 - c + 1) for c in (1, 50, 99, 100)])


@pytest.mark.parametrize(
    ("target", "confidence"), [(1.0, 0.95), (0.3, 0.95), (0.95, 1.0), (float("nan"), 0.95)]
)
def test_what_nobody_can_promise_is_refused(target: float, confidence: float) -> None:
    with pytest.raises(RequestError, match=r"expected a share from 0\.5 to 0\.9999"):
        check_claim(target, confidence)


def test_the_promise_is_broken_no_oftener_than_it_says_where_no_cut_is_good() -> None:
    population = flat(0.945, 3)
    truth = Truth(population.score, population.right, rows=len(population.score))
    rng = np.random.default_rng(1)
    broken = seen = 0
    for _ in range(400):
        rows = rng.choice(len(population.score), 500, replace=False)
        score, right = population.score[rows], population.right[rows]
        chosen = choose(score, right, **CLAIM).walks[None].chosen
        broken += chosen is not None and truth.of(chosen.cut)[0] < 0.95
        rival = by_seen_precision(score, right, target=0.95, least=124)
        seen += rival is not None and truth.of(rival)[0] < 0.95
    assert broken <= 33  # of 400 at 5 %, 33 has a chance of 1 in 500
    assert seen > 200  # as choosing by what was seen does


def test_most_of_what_an_oracle_accepts_is_accepted() -> None:
    population = softmax_population(5, signal=1.5, confidence=5.0, seed=3)
    truth = Truth(population.score, population.right, rows=len(population.score))
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        rows = rng.choice(len(population.score), 1000, replace=False)
        chosen = choose(population.score[rows], population.right[rows], **CLAIM).walks[None].chosen
        found.append(truth.of(chosen.cut)[1] if chosen else 0.0)
    assert np.median(found) >= 0.85 * truth.oracle(0.95)


def test_the_oracle_of_the_benchmark_knows_the_truth() -> None:
    score, right = np.float32([0.9, 0.8, 0.8, 0.7]), np.array([True, True, False, True])
    truth = Truth(score, right, rows=5)
    assert truth.of(0.8) == (pytest.approx(2 / 3), 0.6) and truth.of(0.95) == (1.0, 0.0)
    assert truth.oracle(0.75) == 0.8 and truth.oracle(0.9) == 0.2 and truth.oracle(0.7) == 0.8


@pytest.mark.slow
def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(["--repeats", "3"]) == 1  # three audits bound nothing
    told = capsys.readouterr().out
    assert "2 classes, calibrated" in told and "a cut a class" in told and "A LIMIT IS BROKEN" in told
