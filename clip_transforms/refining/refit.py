"""The refit of a label set: a probe from reviewed images, and whether it may take the place of zero-shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_transforms.elements import ContractError
from clip_transforms.evaluation.metrics import Interval, PairedDifference, paired
from clip_transforms.probabilities import Float32, Float64
from clip_transforms.probe import Probe
from clip_transforms.prompts.types import Task
from clip_transforms.refining.cross_validation import (
    FOLDS,
    Choice,
    OutOfFold,
    Sample,
    choose,
    fold_order,
    out_of_fold,
)
from clip_transforms.refining.fit import Regression, log_losses, one_thread
from clip_transforms.refining.reviewed import MOST_WEIGHT, Bool, Reviewed

LEAST = 5  # images of a class, and in a multi-label set as many without the label: below it stays zero-shot
FEW = 500  # images up to which the folds are dealt DEALINGS times: how they fall matters less
DEALINGS = 3
RESAMPLES = 2000
_SEED = 0
_DRAWN = 4_000_000  # numbers drawn at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Weighted mean log-losses out of fold, in nats an image. gain: zero-shot - probe. interval: the paired
    bootstrap interval of the gain, 90 %: with 95 % confidence the gain is above its lower end.
    """

    zero_shot: float
    probe: float
    gain: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refit:
    """What came of a refit, adopted or not.

    counts: reviewed images by class, of those trained on. right: images trained on whose best class (multi:
    labels at 0.5) is the answer, out of fold, by both, by the probe alone, by zero-shot alone. predicted: their
    logits [N, C] out of fold.
    """

    probe: Probe
    choice: Choice
    loss: Loss
    right: PairedDifference
    counts: Mapping[str, int]
    predicted: Float64

    @property
    def adopted(self) -> bool:
        """Whether the probe beats zero-shot: the interval of the gain is above 0."""
        return self.choice.blend > 0 and self.loss.interval[0] > 0

    @property
    def stays_zero_shot(self) -> tuple[str, ...]:
        """Classes with too few reviews."""
        return tuple(name for name in self.counts if name not in self.probe.classes)


def refit(reviewed: Reviewed, zero_shot: Float32, *, base: str) -> Refit:
    """Fit a probe to reviewed images [N] and hold it against their zero-shot logits [N, C].

    reviewed: all of them may be trained on. base: the zero-shot tag. C of the penalty, the blend and the
    temperature have the least log-loss in stratified folds, and what is held against zero-shot is nested: of
    each fold, all three come of the others. Does not depend on the order of the run's rows. Raises
    ContractError where there are too few reviews.
    """
    counts = _counts(reviewed)
    places = enough(reviewed)
    sample = Sample(
        task=reviewed.task,
        rows=reviewed.embeddings.astype(np.float64),
        zero_shot=zero_shot.astype(np.float64),
        targets=reviewed.targets,
        weights=reviewed.weights,
        places=places,
        order=fold_order(reviewed.ids),
    )
    dealings = DEALINGS if len(reviewed.ids) < FEW else 1
    with one_thread():
        predicted = [out_of_fold(sample, dealing=dealing) for dealing in range(dealings)]
        choice = choose(sample, folds=FOLDS)
        fitted = _regression(sample).fit(choice.c)
    probe = Probe(
        task=reviewed.task,
        classes=tuple(reviewed.classes[place] for place in places),
        weights=fitted.weights.astype(np.float32),
        bias=fitted.bias.astype(np.float32),
        blend=choice.blend,
        temperature=choice.temperature,
        base=base,
    )
    return Refit(
        probe=probe,
        choice=choice,
        loss=_compared(sample, predicted),
        right=_right(sample, predicted[0]),
        counts=counts,
        predicted=np.mean([one.blended for one in predicted], axis=0),
    )


def figures(found: Refit, reviewed: Reviewed) -> dict[str, Any]:
    """What the probe's object says of how it was found. reviewed: what it was trained on."""
    weights = reviewed.weights
    return {
        "trained_on": list(reviewed.ids),
        "reviews": dict(found.counts),
        "stays_zero_shot": list(found.stays_zero_shot),
        "left_out": dict(reviewed.left_out),
        "c": found.choice.c,
        "folds": FOLDS,
        "log_loss": {
            "zero_shot": found.loss.zero_shot,
            "probe": found.loss.probe,
            "gain": found.loss.gain,
            "interval": list(found.loss.interval),
        },
        "out_of_fold": difference_figures(found.right),
        "weights": {
            "greatest": float(weights.max()),
            "least": float(weights.min()),
            "limit": MOST_WEIGHT,
            "effective_images": effective(weights),
        },
    }


def difference_figures(found: PairedDifference) -> dict[str, Any]:
    """A paired difference as JSON: how many of the images the probe and zero-shot get right."""
    return {
        "images": found.images,
        "probe": found.both + found.only_first,
        "zero_shot": found.both + found.only_second,
        "difference": found.difference,
        "interval": list(found.interval) if found.interval else None,
    }


def effective(weights: Float64) -> float:
    """How many images of equal weight tell as much (Kish's effective sample size).

    >>> effective(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    return float(weights.sum() ** 2 / (weights**2).sum())


def compare_right(probe: Bool, zero_shot: Bool) -> PairedDifference:
    """By whether the labels of each image [N] are right."""
    return paired(
        int((probe & zero_shot).sum()),
        int((probe & ~zero_shot).sum()),
        int((~probe & zero_shot).sum()),
        neither=int((~probe & ~zero_shot).sum()),
        resamples=RESAMPLES,
        seed=_SEED,
    )


def enough(reviewed: Reviewed) -> tuple[int, ...]:
    """The places of the classes that get a probe: those with LEAST images to learn from.

    Raises ContractError where they are too few, naming what is missing.
    """
    counts = _counts(reviewed)
    images = len(reviewed.ids)
    if reviewed.task == "multi":
        places = [k for k, count in enumerate(counts.values()) if LEAST <= count <= images - LEAST]
        if places:
            return tuple(places)
        short = [(name, LEAST - n) for name, n in counts.items() if n < LEAST]
        least = f"a label with {LEAST} images that have it and {LEAST} that have it not"
        if not short:
            raise ContractError(
                f"too few reviews to learn from: {images} images, and hardly one without each label; needed is {least}"
            )
    else:
        places = [k for k, count in enumerate(counts.values()) if count >= LEAST]
        if len(places) > 1:
            return tuple(places)
        short = [(name, LEAST - n) for name, n in counts.items() if n < LEAST]
        least = f"two classes with {LEAST} images each"
    raise ContractError(
        f"too few reviews to learn from: {images} images, needed is at least {least}; missing: {_missing(short)}"
    )


def _counts(reviewed: Reviewed) -> dict[str, int]:
    """How many reviewed images each class has."""
    return dict(zip(reviewed.classes, reviewed.targets.sum(axis=0).tolist(), strict=True))


def _missing(short: Sequence[tuple[str, int]]) -> str:
    """Which classes lack how many, the nearest to enough first."""
    ranked = sorted(short, key=lambda entry: (entry[1], entry[0]))
    told = [f"{count} of '{name}'" for name, count in ranked[:8]]
    return ", ".join(told) + (f" (and {len(ranked) - 8} more classes)" if len(ranked) > 8 else "")


def _regression(sample: Sample) -> Regression:
    return Regression(sample.rows, sample.targets, sample.weights, sample.places, sample.task, exact=True)


def _compared(sample: Sample, predicted: Sequence[OutOfFold]) -> Loss:
    """The losses are averaged over the dealings, never the predictions: those of several fits are better than one's."""
    old = np.mean([log_losses(one.zero_shot, sample.targets, sample.task) for one in predicted], axis=0)
    new = np.mean([log_losses(one.blended, sample.targets, sample.task) for one in predicted], axis=0)
    weights = sample.weights
    total = float(weights.sum())
    gains = weights * (old - new)
    return Loss(
        zero_shot=float(weights @ old) / total,
        probe=float(weights @ new) / total,
        gain=float(gains.sum()) / total,
        interval=_weighted_interval(gains, weights),
    )


def _weighted_interval(gains: Float64, weights: Float64) -> Interval:
    """The 90 % bootstrap interval of sum(gains) / sum(weights) over rows drawn with replacement."""
    rng, count = np.random.default_rng(_SEED), len(weights)
    step = max(1, _DRAWN // count)
    found = []
    for start in range(0, RESAMPLES, step):
        drawn = rng.integers(0, count, (min(step, RESAMPLES - start), count))
        found.append(gains[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(found), [0.05, 0.95])
    return float(low), float(high)


def _right(sample: Sample, predicted: OutOfFold) -> PairedDifference:
    return compare_right(
        _hits(predicted.blended, sample.targets, sample.task),
        _hits(predicted.zero_shot, sample.targets, sample.task),
    )


def _hits(logits: Float64, targets: Bool, task: Task) -> Bool:
    if task == "multi":
        every: Bool = ((logits >= 0) == targets).all(axis=1)
        return every
    hits: Bool = targets[np.arange(len(logits)), logits.argmax(axis=1)]
    return hits
