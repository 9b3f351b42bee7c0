"""Temperatures: known ones are found again, losses by hand, groups and sigmoids, and the same for any order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clip_transforms.temperature import Answers, answers_of, fit_temperature, log_loss


def drawn(rows: int, classes: int, *, temperature: float, seed: int = 0) -> Answers:
    """Logits whose softmax at a temperature is what the truth was drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 6, (rows, classes)).astype(np.float32)
    chance = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    truth = (chance.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    right = np.eye(classes, dtype=bool)[truth]
    return Answers(ids=tuple(f"id{n}" for n in range(rows)), logits=logits, right=right, shared=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_truth_is_found(temperature: float) -> None:
    found = fit_temperature(drawn(4000, 8, temperature=temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert found.after.nll <= found.before.nll + 1e-3
    assert found.after.error < 0.03 and (temperature == 1.0 or found.before.error > 2 * found.after.error)
    assert found.rows == 4000 and not found.at_limit
    assert sum(one.images for one in found.after.bins) == 4000


def test_it_is_the_best_of_all_temperatures() -> None:
    answers = drawn(300, 5, temperature=2.0, seed=3)
    rows = np.ones(300)
    best = log_loss(answers, rows * fit_temperature(answers).temperature)
    assert all(best <= log_loss(answers, rows * other) + 1e-7 for other in np.geomspace(0.05, 40, 300))


def test_losses_by_hand() -> None:
    logits = np.float32([[0.0, math.log(3)], [math.log(3), 0.0]])
    right = np.array([[False, True], [False, True]])
    shared = Answers(ids=("a", "b"), logits=logits, right=right, shared=True)
    assert log_loss(shared, np.ones(2)) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert log_loss(shared, np.full(2, 1e9)) == pytest.approx(math.log(2))
    each = Answers(ids=("a", "b"), logits=logits, right=right, shared=False)
    by_hand = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 4
    assert log_loss(each, np.ones(2)) == pytest.approx(by_hand)


def test_a_truth_that_is_a_group_allows_all_below_it() -> None:
    logits = np.log(np.float32([[0.2, 0.3, 0.5]]))
    group = Answers(ids=("a",), logits=logits, right=np.array([[True, True, False]]), shared=True)
    assert log_loss(group, np.ones(1)) == pytest.approx(-math.log(0.5), rel=1e-6)


def test_neither_order_nor_chunks_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = drawn(400, 6, temperature=1.7, seed=5)
    found = fit_temperature(answers)
    assert fit_temperature(answers.take(np.random.default_rng(0).permutation(400))) == found
    monkeypatch.setattr("clip_transforms.temperature._CHUNK", 50)
    chunked = fit_temperature(answers)
    assert chunked.temperature == found.temperature
    assert chunked.before.nll == pytest.approx(found.before.nll)


def test_a_sigmoid_model_is_asked_whether_its_best_class_is_right() -> None:
    logits = np.float32([[2.0, -1.0], [-3.0, 4.0]])
    right = np.array([[True, False], [True, False]])
    found = answers_of(["a", "b"], logits, right, shared=False, best_only=True)
    assert found.logits.tolist() == [[2.0], [4.0]] and found.right.tolist() == [[True], [False]]
    assert not found.shared


def test_labels_that_are_all_right_end_at_the_limit_and_say_so() -> None:
    sure = np.tile(np.float32([[0.1, 0.0]]), (60, 1))
    right = np.tile(np.array([[True, False]]), (60, 1))
    found = fit_temperature(Answers(ids=tuple(map(str, range(60))), logits=sure, right=right, shared=True))
    assert found.at_limit and found.temperature == pytest.approx(0.02, rel=0.01)
