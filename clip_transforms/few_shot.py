"""The few-shot curve: a linear probe on stored embeddings, trained on 1, 2, 4, ... images a class. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.encoders.base import Float32

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
SHOTS = (1, 2, 4, 8, 16)
STRENGTH = 10.0  # 1 / L2 penalty, on features of norm 1; fixed, as one shot leaves nothing to choose it by


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotResult:
    """A probe trained on `shots` images a class: its accuracy on the others, mean and range over the draws.

    zero_shot is the accuracy of the text labels on the same held-back images, for a fair comparison.
    """

    shots: int
    classes: int  # that have enough images: more than `shots`
    accuracy: float
    low: float
    high: float
    zero_shot: float


def fit_probe(features: Float32, labels: Int64, classes: int, *, steps: int = 300) -> Float64:
    """[classes, D + 1] weights of a multinomial logistic regression with an L2 penalty, bias last.

    Nesterov's accelerated gradient on a convex loss, from zero, with the step that its curvature allows: the
    same input gives the same weights, and no seed is involved.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    >>> probe = fit_probe(x, np.array([0, 1]), 2)
    >>> (x @ probe[:, :-1].T + probe[:, -1]).argmax(axis=1).tolist()
    [0, 1]
    """
    x = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
    target = np.eye(classes)[labels]
    penalty = 1.0 / (STRENGTH * len(x))
    rate = 1.0 / (0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + penalty)
    weights = np.zeros((classes, x.shape[1]))
    ahead = weights
    for step in range(steps):
        logits = x @ ahead.T
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        shrink = penalty * ahead
        shrink[:, -1] = 0.0  # the bias is free
        new = ahead - rate * ((p - target).T @ x / len(x) + shrink)
        ahead = new + step / (step + 3) * (new - weights)
        weights = new
    return weights


def few_shot_curve(
    features: Float32,
    truth: Int64,
    zero_shot_right: npt.NDArray[np.bool_],
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 10,
    seed: int = 0,
) -> tuple[ShotResult, ...]:
    """A probe for each number of shots, over `draws` random choices of the training images.

    features [N, D] have rows of norm 1; truth [N]. A class takes part where it has more images than shots;
    numbers of shots that leave fewer than two classes are left out. Source: CLIP, figure 6.
    """
    rng = np.random.default_rng(seed)
    results = []
    for count in shots:
        sizes = np.bincount(truth)
        kept = np.flatnonzero(sizes > count)
        if len(kept) < 2:
            continue
        found = [_one_draw(features, truth, zero_shot_right, kept, count, rng) for _ in range(draws)]
        accuracies = [accuracy for accuracy, _ in found]
        results.append(
            ShotResult(
                shots=count,
                classes=len(kept),
                accuracy=float(np.mean(accuracies)),
                low=float(np.min(accuracies)),
                high=float(np.max(accuracies)),
                zero_shot=float(np.mean([zero for _, zero in found])),
            )
        )
    return tuple(results)


def _one_draw(
    features: Float32,
    truth: Int64,
    zero_shot_right: npt.NDArray[np.bool_],
    kept: Int64,
    count: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    train, test = [], []
    for place in kept:
        rows = rng.permutation(np.flatnonzero(truth == place))
        train.append(rows[:count])
        test.append(rows[count:])
    fit, held = np.concatenate(train), np.concatenate(test)
    numbers = {int(place): number for number, place in enumerate(kept)}
    labels = np.array([numbers[int(place)] for place in truth[fit]])
    probe = fit_probe(features[fit], labels, len(kept))
    said = (features[held] @ probe[:, :-1].T + probe[:, -1]).argmax(axis=1)
    return float((kept[said] == truth[held]).mean()), float(zero_shot_right[held].mean())


def equal_shots(curve: Sequence[ShotResult]) -> str:
    """One sentence: how many labelled images a class the text labels are worth.

    >>> one = ShotResult(shots=1, classes=3, accuracy=0.5, low=0.4, high=0.6, zero_shot=0.7)
    >>> two = ShotResult(shots=2, classes=3, accuracy=0.8, low=0.7, high=0.9, zero_shot=0.7)
    >>> equal_shots([one, two])
    'zero-shot lies between a probe on 1 and one on 2 labelled images a class'
    """
    if not curve:
        return "no class has more than one image: a few-shot probe cannot be compared"
    beaten = [one.shots for one in curve if one.accuracy < one.zero_shot]
    if not beaten:
        return f"a probe on {curve[0].shots} labelled image(s) a class is already as good as zero-shot"
    last = max(beaten)
    above = [one.shots for one in curve if one.shots > last]
    if not above:
        return f"zero-shot is better than a probe on {last} labelled images a class, the most that could be tried"
    return f"zero-shot lies between a probe on {last} and one on {above[0]} labelled images a class"
