"""Multi-label figures on synthetic scores, held against scikit-learn's; ties, files and resamples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from clip_transforms.evaluation import multi as evaluation_multi
from clip_transforms.evaluation.judges import EvaluationOptions, MultiJudge, Subject
from clip_transforms.evaluation.multi import MultiFigures, Ranking, affordable
from clip_transforms.scoring import score
from tests.evaluate_kit import MODEL, axes, prompt_set, rows_of, unit

IDS = ("a", "b", "c", "d")


def images(count: int, *, seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(embeddings, truths as text, truths [N, C]); no image has the last label."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, 4)) < [0.5, 0.2, 0.1, 0.0]
    vectors = np.zeros((count, 5))
    vectors[:, :4] = truth + 0.7 * rng.normal(size=(count, 4))
    vectors[:, 4] = 0.5  # the negative's axis
    names = [",".join(name for name, has in zip(IDS, row, strict=True) if has) for row in truth]
    return unit(vectors), names, truth


def evaluated(vectors: np.ndarray, names: list[str], **options: object) -> MultiFigures:
    prompts = prompt_set(*IDS, task="multi")
    subject = Subject(tag="known@0", prompts=prompts, features=axes(prompts))
    judge = MultiJudge(subject, MODEL, EvaluationOptions(**options), images=len(vectors) + 3)
    for start in range(0, len(vectors), 11):
        rows = slice(start, start + 11)
        judge.add(rows_of(vectors[rows], names[rows], first_key=start))
    found = judge.figures(failed=2)
    judge.close()
    return found


def scores(vectors: np.ndarray) -> np.ndarray:
    """By the plain formula: each label against the negative."""
    return 1 / (1 + np.exp(-20.0 * (vectors[:, :4] - vectors[:, 4:])))


def test_figures_equal_scikit_learns() -> None:
    vectors, names, truth = images(400)
    chances = scores(vectors)
    hit = chances >= 0.5
    found = evaluated(vectors, names)
    expected = [metrics.average_precision_score(truth[:, k], chances[:, k]) for k in range(3)]
    assert [one.average_precision for one in found.per_label[:3]] == pytest.approx(expected)
    assert found.per_label[3].average_precision is None
    assert found.mean_average_precision.value == pytest.approx(np.mean(expected))
    assert found.micro_f1.value == pytest.approx(metrics.f1_score(truth, hit, average="micro"))
    macro = metrics.f1_score(truth[:, :3], hit[:, :3], average="macro")
    assert found.macro_f1.value == pytest.approx(macro)
    assert found.exact.value == pytest.approx((hit == truth).all(axis=1).mean())
    assert found.exact_failed_wrong.of == 402
    assert found.resamples == 1000


def test_intervals_equal_drawing_images() -> None:
    vectors, names, truth = images(120, seed=4)
    chances = scores(vectors)
    found = evaluated(vectors, names, resamples=2000)
    rng = np.random.default_rng(5)
    means, micros = [], []
    for _ in range(400):
        rows = rng.integers(0, 120, 120)
        there = [k for k in range(3) if truth[rows, k].any()]
        means.append(
            np.mean([metrics.average_precision_score(truth[rows, k], chances[rows, k]) for k in there])
        )
        micros.append(metrics.f1_score(truth[rows], chances[rows] >= 0.5, average="micro"))
    assert found.mean_average_precision.bootstrap == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.02
    )
    assert found.micro_f1.bootstrap == pytest.approx(np.quantile(micros, [0.025, 0.975]), abs=0.02)


def test_images_of_equal_score_are_taken_together() -> None:
    values = np.float32([0.5, 0.5, 0.5, 0.2])
    truth = np.array([True, False, True, True])
    expected = metrics.average_precision_score(truth, values)
    assert Ranking(values, truth).average_precision() == pytest.approx(expected)
    assert Ranking(values[::-1].copy(), truth[::-1].copy()).average_precision() == pytest.approx(expected)
    assert Ranking(values, np.zeros(4, bool)).average_precision() is None


def test_a_file_for_the_scores_and_the_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, names, _ = images(90, seed=6)
    in_memory = evaluated(vectors, names, resamples=200)
    monkeypatch.setattr(evaluation_multi, "_IN_MEMORY", 10)
    in_file = evaluated(vectors, names, resamples=200)
    for name in ("mean_average_precision", "micro_f1", "macro_f1", "exact", "per_label", "calibration_error"):
        assert getattr(in_memory, name) == getattr(in_file, name), name


def test_scores_go_back_to_their_labels() -> None:
    vectors, _, _ = images(30)
    prompts = prompt_set(*IDS, task="multi")
    scored = score(vectors, axes(prompts), prompts, family="softmax", logit_scale=20.0, top_k=4)
    assert evaluation_multi.all_scores(scored) == pytest.approx(scores(vectors), abs=1e-5)


def test_too_much_work_gives_fewer_resamples_or_none() -> None:
    assert affordable(1000, 4 * 10**6) == 500
    assert affordable(1000, 10**8) == 0
    assert affordable(0, 10) == 0
