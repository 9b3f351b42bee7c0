"""The figures of an evaluation on numbers worked out by hand, and the few-shot probe on known clusters."""

from __future__ import annotations

import numpy as np
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.evaluation import bootstrap, calibration_error, evaluate, wilson
from clip_transforms.evaluation_report import plot_shots, render_report
from clip_transforms.few_shot import ShotResult, equal_shots, few_shot_curve, fit_probe

CLASSES = ("a", "b", "c", "d", "e", "f")


def _probabilities() -> tuple[np.ndarray, np.ndarray]:
    rows = [  # true class, then the probabilities
        (0, [0.9, 0.02, 0.02, 0.02, 0.02, 0.02]),
        (0, [0.3, 0.5, 0.1, 0.05, 0.03, 0.02]),
        (1, [0.1, 0.6, 0.1, 0.1, 0.05, 0.05]),
        (2, [0.5, 0.2, 0.01, 0.1, 0.1, 0.09]),  # the true class comes last
    ]
    return np.array([p for _, p in rows], np.float32), np.array([label for label, _ in rows])


def test_accuracy_confusion_and_each_class() -> None:
    chances, truth = _probabilities()
    result = evaluate(chances, truth, CLASSES)
    assert (result.images, result.top1.value, result.top5.value) == (4, 0.5, 0.75)
    assert result.confusion[0] == (1, 1, 0, 0, 0, 0)
    assert result.confusion[2] == (1, 0, 0, 0, 0, 0)
    a, b, c, d = result.per_class[:4]
    assert (a.images, a.top1, a.top5, a.precision) == (2, 0.5, 1.0, 0.5)
    assert (b.images, b.top1, b.precision) == (1, 1.0, 0.5)
    assert (c.images, c.top1, c.top5, c.precision) == (1, 0.0, 0.0, None)
    assert (d.images, d.precision) == (0, None)
    assert result.mean_class_top1 == pytest.approx((0.5 + 1 + 0) / 3)
    assert result.top1.low <= 0.5 <= result.top1.high
    assert result.to_json()["top1"]["value"] == 0.5


def test_no_images_is_an_error() -> None:
    with pytest.raises(RequestError, match="no image with a known label"):
        evaluate(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))


def test_calibration_error_by_hand() -> None:
    # Bins of 0.5: two images at 0.4 of which one is right, two at 0.8 of which both are.
    error = calibration_error([0.4, 0.4, 0.8, 0.8], [1, 0, 1, 1], bins=2)
    assert error == pytest.approx((2 * 0.1 + 2 * 0.2) / 4)
    assert calibration_error([1.0, 1.0], [1, 1]) == 0.0


def test_wilson_has_the_published_ends() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_bootstrap_is_seeded_and_covers_the_normal_interval() -> None:
    values = np.r_[np.ones(70), np.zeros(30)]
    low, high = bootstrap(values, seed=3)
    assert (low, high) == bootstrap(values, seed=3)
    spread = 1.96 * np.sqrt(0.7 * 0.3 / 100)
    assert low == pytest.approx(0.7 - spread, abs=0.02)
    assert high == pytest.approx(0.7 + spread, abs=0.02)


def _clusters(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), count)
    x = np.eye(16)[truth] + noise * rng.standard_normal((len(truth), 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), truth


def test_the_probe_is_at_the_minimum_of_its_loss() -> None:
    x, truth = _clusters(12, 0.3)
    probe = fit_probe(x, truth, 4, steps=4000)
    padded = np.c_[x.astype(np.float64), np.ones(len(x))]
    logits = padded @ probe.T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (p - np.eye(4)[truth]).T @ padded / len(x)
    gradient[:, :-1] += probe[:, :-1] / (10.0 * len(x))
    assert np.abs(gradient).max() < 1e-4


def test_the_curve_rises_with_the_shots() -> None:
    x, truth = _clusters(30, 0.35)
    curve = few_shot_curve(x, truth, np.ones(len(truth), bool), shots=(1, 4, 16, 64), draws=5)
    assert [one.shots for one in curve] == [1, 4, 16]  # no class has more than 64 images
    assert curve[0].accuracy < curve[1].accuracy < curve[2].accuracy
    assert curve[2].accuracy > 0.8
    assert all(one.low <= one.accuracy <= one.high and one.zero_shot == 1.0 for one in curve)


def _shot(shots: int, accuracy: float, zero: float = 0.7) -> ShotResult:
    return ShotResult(shots=shots, classes=4, accuracy=accuracy, low=accuracy, high=accuracy, zero_shot=zero)


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ((0.8, 0.9), "a probe on 1 labelled image(s) a class is already as good as zero-shot"),
        ((0.6, 0.65), "better than a probe on 2 labelled images a class, the most"),
        ((0.6, 0.75), "between a probe on 1 and one on 2 labelled images"),
    ],
)
def test_how_many_shots_zero_shot_is_worth(accuracies: tuple[float, float], sentence: str) -> None:
    curve = [_shot(shots, accuracy) for shots, accuracy in zip((1, 2), accuracies, strict=True)]
    assert sentence in equal_shots(curve)
    assert plot_shots(curve).count("<polyline") == 2


def test_the_report_escapes_what_comes_from_outside() -> None:
    chances, truth = _probabilities()
    result = evaluate(chances, truth, ("<b>a</b>", *CLASSES[1:]))
    page = render_report(
        result, title="<t>", facts={"x<": "<script>"}, curve=[_shot(1, 0.5)], verdicts=["a & b"]
    )
    assert "<script>" not in page
    assert "<b>a</b>" not in page
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "a &amp; b" in page
