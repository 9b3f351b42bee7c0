"""The few-shot comparison: the split, the draws, the probes against scikit-learn, and the sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.plots import alone, few_shot_svg
from clip_transforms.evaluation.probe import fit_probe, require_scikit_learn
from clip_transforms.evaluation.shots import FewShot, equal_shots, few_shot
from clip_transforms.evaluation.split import Gathered, ShotOptions, Split, draw_shots, split_rows
from clip_transforms.evaluation.text import few_shot_notes
from tests.evaluate_kit import MODEL, axes, noisy, prompt_set, unit

SHOTS = ShotOptions(shots=(1, 2, 4, 8, 16), draws=3)


def gathered(truth: np.ndarray, keys: np.ndarray | None = None) -> Gathered:
    found = Gathered()
    keys = np.arange(len(truth), dtype=np.uint64) * 977 if keys is None else keys.astype(np.uint64)
    for start in range(0, len(truth), 13):
        found.add(truth[start : start + 13].astype(np.int32), keys[start : start + 13])
    return found


def compared(embeddings: np.ndarray, truth: np.ndarray, options: ShotOptions = SHOTS) -> FewShot:
    names = tuple(f"c{k}" for k in range(int(truth.max()) + 1))
    prompts = prompt_set(*names)
    split = split_rows(gathered(truth), options, classes=len(names))

    def batches() -> Iterator[np.ndarray]:
        yield from (embeddings[start : start + 13] for start in range(0, len(embeddings), 13))

    def rank(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scored = MODEL.score(rows, axes(prompts, embeddings.shape[1]), prompts, top_k=len(names))
        best = scored.top_index[:, 0].astype(np.int64)
        return best, best

    return few_shot(split, batches, rank, options, names=names)


def images_of(split: Split, truth_keys: np.ndarray) -> tuple[set[int], set[int]]:
    test = set(truth_keys[split.test].tolist())
    return test, {int(truth_keys[row]) for pool in split.pools for row in pool}


def test_half_of_each_class_is_kept_to_test_on() -> None:
    truth = np.repeat([0, 1, 2], [40, 10, 3])
    split = split_rows(gathered(truth), SHOTS, classes=3)
    assert np.bincount(truth[split.test]).tolist() == [20, 5, 1]
    assert [len(pool) for pool in split.pools] == [20, 5, 2]
    test, train = images_of(split, np.arange(53))
    assert not test & train
    assert len(test | train) == 53


def test_the_split_and_the_draws_do_not_depend_on_the_order_of_rows() -> None:
    truth = np.repeat([0, 1, 2], 20)
    keys = np.arange(60, dtype=np.uint64) * 977
    order = np.random.default_rng(0).permutation(60)
    first = split_rows(gathered(truth, keys), SHOTS, classes=3)
    other = split_rows(gathered(truth[order], keys[order]), SHOTS, classes=3)
    assert images_of(first, keys) == images_of(other, keys[order])
    for draw in range(3):
        ours = [keys[rows].tolist() for rows in draw_shots(first, SHOTS, draw=draw)]
        theirs = [keys[order][rows].tolist() for rows in draw_shots(other, SHOTS, draw=draw)]
        assert ours == theirs
    assert draw_shots(first, SHOTS, draw=0)[0].tolist() != draw_shots(first, SHOTS, draw=1)[0].tolist()
    seeded = split_rows(gathered(truth, keys), ShotOptions(shots=(1,), seed=1), classes=3)
    assert images_of(seeded, keys) != images_of(first, keys)


def test_copies_of_an_image_stay_on_one_side() -> None:
    truth = np.repeat([0, 1], 12)
    keys = np.r_[np.repeat([5, 6, 7], 4), np.arange(100, 112)]
    split = split_rows(gathered(truth, keys), SHOTS, classes=2)
    test, train = images_of(split, keys)
    assert not test & train
    assert len(test & {5, 6, 7}) in (1, 2)


def test_a_class_with_one_image_is_left_out_and_two_classes_are_needed() -> None:
    split = split_rows(gathered(np.array([0, 0, 1, 1, 2, -1, -1])), SHOTS, classes=4)
    assert (split.classes.tolist(), split.left_out.tolist()) == ([0, 1], [2])
    assert split.place.tolist()[4:] == [-1, -1, -1]
    with pytest.raises(RequestError, match="1 classes have two different images"):
        split_rows(gathered(np.array([0, 0, 1])), SHOTS, classes=2)
    with pytest.raises(RequestError, match="0 classes have two different images"):
        split_rows(gathered(np.array([0, 0]), np.array([3, 3])), SHOTS, classes=1)


def test_the_probe_is_scikit_learns_with_c_by_validation() -> None:
    vectors, truth = noisy(6, 120, seed=2, noise=0.3)
    tests, expected = noisy(6, 300, seed=3, noise=0.3)
    probe = fit_probe(vectors, truth.astype(np.int32), seed=0)
    model = LogisticRegression(C=probe.c, max_iter=1000).fit(vectors.astype(np.float64), truth)
    assert probe.predict(tests).tolist() == model.predict(tests.astype(np.float64)).tolist()
    assert probe.converged
    assert np.mean(probe.predict(tests) == expected) > 0.8


@pytest.mark.parametrize("classes", [2, 3])
def test_one_shot_and_two_classes(classes: int) -> None:
    vectors = np.eye(classes, 5, dtype=np.float32)
    probe = fit_probe(vectors, np.arange(classes, dtype=np.int32))
    assert probe.c == 100.0
    assert probe.weights.shape == (classes, 5)
    assert probe.predict(vectors).tolist() == list(range(classes))


def test_the_curve_rises_to_what_can_be_learnt() -> None:
    vectors, truth = noisy(5, 400, seed=4, noise=0.55)
    rotated = vectors @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)
    found = compared(unit(rotated), truth)  # zero-shot knows nothing of the rotation
    means = [point.mean for point in found.points]
    assert [point.shots for point in found.points] == [1, 2, 4, 8, 16]
    assert means[0] < means[2] < means[4]
    assert found.zero_shot.value < means[0]
    assert found.equal_shots is None
    assert "is below the 1-shot probe" in found.sentence
    assert found.test_images == found.zero_shot.of == pytest.approx(200, abs=3)
    assert all(point.interval[0] <= point.mean <= point.interval[1] for point in found.points)
    assert all(len(point.accuracies) == 3 for point in found.points)
    good = compared(vectors, truth)
    assert good.zero_shot.value > means[0]
    assert good.equal_shots is None or 1 <= good.equal_shots <= 16


def test_classes_with_too_few_images_are_said() -> None:
    truth = np.repeat([0, 1, 2, 3], [20, 20, 6, 1])
    vectors = unit(np.eye(4)[truth] + 0.1 * np.random.default_rng(0).normal(size=(47, 4)))
    found = compared(vectors, truth)
    assert [point.shots for point in found.points] == [1, 2, 4, 8]
    assert found.skipped == (16,)
    assert found.left_out == ("c3",)
    assert [point.short for point in found.points] == [(), (), ("c2",), ("c2",)]
    told = " ".join(few_shot_notes(found))
    assert "8 shots: 1 of 3 classes have fewer images to train on and gave all they have (c2)" in told
    assert "No class has 16 images to train on" in told
    assert "Left out, with one image only: c3" in told


def test_where_every_class_gives_all_there_is_one_draw() -> None:
    truth = np.repeat([0, 1], 8)
    vectors = unit(np.eye(2)[truth] + 0.1 * np.random.default_rng(0).normal(size=(16, 2)))
    found = compared(vectors, truth, ShotOptions(shots=(2, 4)))
    assert [len(point.accuracies) for point in found.points] == [5, 1]
    assert found.points[1].interval is None
    with pytest.raises(RequestError, match="no class has so many images"):
        compared(vectors, truth, ShotOptions(shots=(5,)))


@pytest.mark.parametrize(
    ("curve", "level", "equal"),
    [
        ([(1, 0.4), (2, 0.5), (4, 0.6)], 0.55, 2**1.5),
        ([(1, 0.4), (2, 0.5)], 0.5, 2.0),
        ([(1, 0.5), (2, 0.4), (4, 0.6)], 0.45, 2**0.5),  # the first crossing
        ([(8, 0.5)], 0.5, 8.0),
        ([(1, 0.4)], 0.3, None),
        ([(1, 0.4)], 0.5, None),
        ([(1, 0.4), (16, 0.6)], 0.61, None),
    ],
)
def test_how_many_shots_zero_shot_equals(
    curve: list[tuple[int, float]], level: float, equal: float | None
) -> None:
    found, told = equal_shots(curve, level)
    assert found == (None if equal is None else pytest.approx(equal))
    assert ("equals about" in told) == (equal is not None)


def test_the_plot_holds_each_point_and_is_a_file_of_its_own() -> None:
    truth = np.repeat([0, 1, 2], 40)
    vectors = unit(np.eye(3)[truth] + 0.4 * np.random.default_rng(1).normal(size=(120, 3)))
    drawn = few_shot_svg(compared(vectors, truth), title="<pets>")
    assert drawn.count("<circle") == 5
    assert "&lt;pets&gt;" in drawn and "<pets>" not in drawn
    assert "var(" in drawn and "var(" not in alone(drawn)


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_scikit_learn()
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(RequestError, match=r"pip install 'beamclip\[evaluate\]'"):
        require_scikit_learn()


def test_many_classes_with_one_image_each_warn_of_nothing() -> None:
    vectors, _ = noisy(40, 40, seed=8)
    assert len(fit_probe(vectors, np.arange(40, dtype=np.int32)).weights) == 40
