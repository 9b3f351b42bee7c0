"""The figures of single-label sets on synthetic embeddings, held against scikit-learn's, SciPy's and by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from clip_transforms.evaluation.compare import rival_of, sentence
from clip_transforms.evaluation.judges import EvaluationOptions, SingleJudge, Subject
from clip_transforms.evaluation.metrics import BINS, Reliability, paired, share, wilson
from clip_transforms.prompts import Label, PromptSet
from tests.evaluate_kit import MODEL, axes, judged, noisy, prompt_set, rows_of, unit

IDS = tuple(f"c{number}" for number in range(8))


def predicted(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(best class, its probability) by the plain formula."""
    powers = np.exp(20.0 * embeddings.astype(np.float64))
    chances = powers / powers.sum(axis=1, keepdims=True)
    return chances.argmax(axis=1), chances.max(axis=1)


def reference_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Guo et al., equation 3, image by image."""
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


def test_figures_equal_scikit_learns() -> None:
    embeddings, truth = noisy(8, 500, seed=1)
    truth[truth == 7] = 6  # a class without images, which is named nevertheless
    best, confidence = predicted(embeddings)
    found = judged(prompt_set(*IDS), embeddings, [IDS[k] for k in truth]).figures(failed=0)
    seen = sorted(set(truth.tolist()))
    assert found.top1.value == pytest.approx(metrics.accuracy_score(truth, best))
    assert found.top5 is not None
    assert found.top5.value == pytest.approx(
        metrics.top_k_accuracy_score(truth, embeddings, k=5, labels=range(8))
    )
    recalls = metrics.recall_score(truth, best, labels=seen, average="macro", zero_division=0)
    assert found.balanced_accuracy.value == pytest.approx(recalls)
    f1 = metrics.f1_score(truth, best, labels=seen, average="macro", zero_division=0)
    assert found.macro_f1.value == pytest.approx(f1)
    assert found.matrix_labels == IDS
    assert np.array_equal(found.matrix, metrics.confusion_matrix(truth, best, labels=range(8)))
    each = metrics.precision_recall_fscore_support(truth, best, labels=range(7), zero_division=0)
    for place, one in enumerate(found.per_class[:7]):
        assert one.precision == pytest.approx(each[0][place])
        assert one.recall == pytest.approx(each[1][place])
        assert one.f1 == pytest.approx(each[2][place])
        assert one.images == each[3][place]
    never = found.per_class[7]
    assert (never.label, never.images, never.recall, never.f1) == ("c7", 0, None, None)
    assert never.named == int((best == 7).sum()) > 0
    assert found.calibration_error.value == pytest.approx(
        reference_error(confidence, best == truth), abs=1e-5
    )


def test_batches_and_order_change_nothing() -> None:
    embeddings, truth = noisy(8, 300, seed=2)
    names = [IDS[k] for k in truth]
    order = np.random.default_rng(0).permutation(300)
    first = judged(prompt_set(*IDS), embeddings, names).figures(failed=3)
    other = judged(prompt_set(*reversed(IDS)), embeddings[order], [names[k] for k in order]).figures(failed=3)
    for name in ("top1", "top5", "balanced_accuracy", "macro_f1", "per_class", "confused", "matrix"):
        assert getattr(first, name) == getattr(other, name), name
    assert first.calibration_error.value == pytest.approx(other.calibration_error.value)


@pytest.mark.parametrize(("right", "of"), [(0, 9), (9, 9), (1, 2), (81, 263), (1, 1), (500, 1000)])
def test_wilson_equals_scipys(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(method="wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high))


def test_bootstrap_of_counts_equals_drawing_images() -> None:
    embeddings, truth = noisy(8, 200, seed=3)
    best, confidence = predicted(embeddings)
    found = judged(prompt_set(*IDS), embeddings, [IDS[k] for k in truth], resamples=4000).figures(failed=0)
    rng = np.random.default_rng(9)
    drawn = [rng.integers(0, 200, 200) for _ in range(1500)]
    pairs = {
        "top1": [np.mean(best[rows] == truth[rows]) for rows in drawn],
        "balanced_accuracy": [
            np.mean([np.mean(best[rows][truth[rows] == k] == k) for k in set(truth[rows])]) for rows in drawn
        ],
        "calibration_error": [
            reference_error(confidence[rows], (best == truth)[rows]) for rows in drawn[:400]
        ],
    }
    for name, values in pairs.items():
        expected = np.quantile(values, [0.025, 0.975])
        assert getattr(found, name).bootstrap == pytest.approx(expected, abs=0.012), name
    assert (
        found.top1.bootstrap
        == judged(prompt_set(*IDS), embeddings, [IDS[k] for k in truth], resamples=4000)
        .figures(failed=0)
        .top1.bootstrap
    )


def test_failures_are_counted_both_ways() -> None:
    found = judged(prompt_set("a", "b"), unit([[1, 0], [0, 1], [1, 0]]), ["a", "b", "b"]).figures(failed=2)
    assert (found.top1.right, found.top1.of) == (2, 3)
    assert (found.top1_failed_wrong.right, found.top1_failed_wrong.of) == (2, 5)
    assert found.top5 is None  # two classes


def test_one_class_and_one_image() -> None:
    found = judged(prompt_set("only"), unit([[1.0]]), ["only"]).figures(failed=0)
    assert (found.top1.value, found.balanced_accuracy.value, found.macro_f1.value) == (1, 1, 1)
    assert found.top1.wilson == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert found.calibration_error.value == 0
    assert found.confused == ()


def test_all_wrong() -> None:
    found = judged(prompt_set("a", "b"), unit([[1, 0.1], [0.1, 1]]), ["b", "a"]).figures(failed=0)
    assert (found.top1.value, found.macro_f1.value, found.balanced_accuracy.value) == (0, 0, 0)
    assert [(one.truth, one.named, one.images, one.of) for one in found.confused] == [
        ("a", "b", 1, 1),
        ("b", "a", 1, 1),
    ]


def test_of_tied_classes_the_first_by_id_wins() -> None:
    found = judged(prompt_set("b", "a"), unit([[1, 1], [1, 1]]), ["a", "b"]).figures(failed=0)
    assert found.matrix == ((1, 0), (1, 0))


def test_unknown_and_missing_truths_are_counted_and_left_out() -> None:
    judge = judged(prompt_set("a", "b"), unit([[1, 0]] * 4), ["a", "c", None, "c"])
    assert (judge.counts.judged, judge.counts.unknown, judge.counts.missing) == (1, 2, 1)
    assert judge.counts.names == {"c": 2}
    assert judge.figures(failed=0).top1.of == 1


def test_none_of_these_is_a_class() -> None:
    prompts = prompt_set("a", "b", none=("a wall",))
    vectors = unit([[0, 0, 1], [0, 0, 1], [1, 0, 0]])
    found = judged(prompts, vectors, ["__NONE__", "a", "a"]).figures(failed=0)
    by_label = {one.label: one for one in found.per_class}
    assert (by_label["__none__"].right, by_label["__none__"].named) == (1, 2)
    assert found.top1.right == 2


def test_a_hierarchy_is_judged_at_the_leaf_and_at_the_answer() -> None:
    labels = (
        Label(id="bird", group=True, threshold=0.5),
        Label(id="owl", parent="bird", threshold=0.9),
        Label(id="wren", parent="bird", threshold=0.9),
        Label(id="car", threshold=0.9),
    )
    prompts = PromptSet(name="birds", labels=labels)  # classes: car, owl, wren
    embeddings = unit([[0, 1, 0], [0, 1, 0.99], [0, 0.99, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    judge = judged(prompts, embeddings, ["owl", "owl", "owl", "car", "wren", "bird"])
    found = judge.figures(failed=0)
    assert (found.top1.right, found.top1.of) == (3, 5)  # the image whose truth is a group has no leaf
    answers = found.answers
    assert answers is not None
    assert (answers.leaf, answers.right_leaf) == (3, 2)  # owl; wren named car; a bird named owl
    assert (answers.group, answers.right_group) == (2, 2)  # both owls between owl and wren
    assert answers.abstained == 1  # between car and owl
    assert (answers.accuracy.right, answers.accuracy.of, answers.of_all.of) == (4, 5, 6)
    assert judge.counts.groups == 1


def test_confidences_of_nought_and_one_are_in_the_end_bins() -> None:
    held = Reliability()
    held.add(np.float32([0.0, 1.0, 0.5, 1 / 3]), np.array([False, True, True, False]))
    counts = [one.images for one in held.bins()]
    assert (counts[0], counts[14], counts[7]) == (1, 1, 1)
    assert sum(counts) == 4
    assert held.figure(resamples=0, seed=0).bootstrap is None
    assert Reliability().error() is None


def test_a_paired_difference_has_the_known_interval() -> None:
    found = paired(50, 30, 10, neither=10, resamples=20_000, seed=1)
    assert found.difference == pytest.approx(0.2)
    spread = 1.96 * np.sqrt((0.4 - 0.2**2) / 100)
    assert found.interval == pytest.approx((0.2 - spread, 0.2 + spread), abs=0.015)
    assert found.verdict == "better"
    assert paired(50, 10, 30, resamples=2000, seed=1).verdict == "worse"
    assert paired(50, 0, 0, resamples=100, seed=1).verdict == "not shown to differ"
    assert share(0, 0, resamples=10).value is None


def test_a_set_is_held_against_its_bare_names_on_the_same_images() -> None:
    prompts = PromptSet(
        name="known",
        labels=(Label(id="a", synonyms=("alpha",)), Label(id="b")),
        templates=("a photo of a {}.",),
    )
    rival = rival_of(prompts, "bare")
    assert rival.prompts.prompts_by_class() == {"a": ("a",), "b": ("b",)}
    theirs = axes(rival.prompts)
    swapped = replace(theirs, matrix=theirs.matrix[::-1].copy())
    subject = Subject(
        tag="known@0",
        prompts=prompts,
        features=axes(prompts),
        rivals=((rival, swapped),),
    )
    judge = SingleJudge(subject, MODEL, EvaluationOptions())
    judge.add(rows_of(unit([[1, 0.1]] * 20 + [[0.1, 1]] * 10), ["alpha"] * 20 + ["b"] * 10))
    (found,) = judge.comparisons()
    assert (found.images, found.top1.value, found.rival_top1.value) == (30, 1, 0)
    assert found.top5_difference is None
    assert (found.texts, found.rival_texts) == (1.5, 1)
    assert sentence("known", found) == (
        "known is better than the bare class name: +100.0 points of top-1 [+100.0, +100.0], 30 images."
    )
