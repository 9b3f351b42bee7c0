"""One temperature for a set's logits, fitted on reviewed images by their likelihood (Guo et al., arXiv 1706.04599).

Logits are divided by it. In a set whose classes share one probability (softmax) the loss is that of the right
class; elsewhere that of each question by itself (sigmoid): each label of a multi-label set, and in a
single-label set of a sigmoid model whether the best class is right. Both are convex in 1 / temperature, so
there is one best value. No label changes by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.evaluation.metrics import Bin, Reliability
from clip_transforms.probabilities import Float32, Float64
from clip_transforms.review.report_data import sample_keys

Bool = npt.NDArray[np.bool_]

LEAST_ROWS = 50  # below it a temperature says more of the sample than of the model
_LIMITS = (0.02, 50.0)
_FOLDS = 5
_CHUNK = 1 << 21  # logits at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Logits of reviewed images, and which of them are right.

    logits, right: [N, C]. shared: the classes share one probability; right then marks the classes that the
    truth allows (a group allows all that are below it). Else each column is a question of its own.
    """

    ids: tuple[str, ...]
    logits: Float32
    right: Bool
    shared: bool

    def take(self, rows: npt.NDArray[np.int64]) -> Answers:
        """Some of the rows."""
        return Answers(
            ids=tuple(self.ids[row] for row in rows.tolist()),
            logits=self.logits[rows],
            right=self.right[rows],
            shared=self.shared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well probabilities fit what was right: the mean negative log-likelihood and the calibration error."""

    nll: float
    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The temperature of all rows, and how the probabilities fit before and after.

    after: each row at the temperature of the other folds of five (cross-validated).
    """

    temperature: float
    rows: int
    before: Fit
    after: Fit

    @property
    def at_limit(self) -> bool:
        """Whether no sensible temperature fits."""
        return not _LIMITS[0] * 1.01 < self.temperature < _LIMITS[1] * 0.99


def fit_temperature(answers: Answers) -> Fitted:
    """The temperature of some reviewed images, to four digits; the same for the same images in any order."""
    order = np.argsort(sample_keys(answers.ids, seed=0), kind="stable")
    answers = answers.take(order)
    fold = np.arange(len(order)) % _FOLDS
    held = np.ones(len(order))
    for number in range(_FOLDS if len(order) >= _FOLDS else 0):
        held[fold == number] = _best(answers.take(np.flatnonzero(fold != number)))
    return Fitted(
        temperature=_best(answers),
        rows=len(order),
        before=_fit(answers, np.ones(len(order))),
        after=_fit(answers, held),
    )


def log_loss(answers: Answers, temperature: Float64) -> float:
    """The mean negative log-likelihood of the rows, each [N] at its temperature."""
    total, step = 0.0, max(1, _CHUNK // answers.logits.shape[1])
    for start in range(0, len(answers.logits), step):
        rows = slice(start, start + step)
        cooled = answers.logits[rows].astype(np.float64) / temperature[rows, None]
        right = answers.right[rows]
        if answers.shared:
            allowed = np.where(right, cooled, -np.inf)
            total += float((np.logaddexp.reduce(cooled, axis=1) - np.logaddexp.reduce(allowed, axis=1)).sum())
        else:
            total += float(np.logaddexp(0.0, np.where(right, -cooled, cooled)).sum())
    return total / (len(answers.logits) * (1 if answers.shared else answers.logits.shape[1]))


def _best(answers: Answers) -> float:
    from scipy.optimize import minimize_scalar

    rows = np.ones(len(answers.logits))
    found = minimize_scalar(
        lambda power: log_loss(answers, rows * math.exp(power)),
        bounds=(math.log(_LIMITS[0]), math.log(_LIMITS[1])),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(f"{math.exp(found.x):.4g}")


def _fit(answers: Answers, temperature: Float64) -> Fit:
    held = Reliability()
    step = max(1, _CHUNK // answers.logits.shape[1])
    for start in range(0, len(answers.logits), step):
        rows = slice(start, start + step)
        cooled = answers.logits[rows].astype(np.float64) / temperature[rows, None]
        right = answers.right[rows]
        if answers.shared:
            best = cooled.argmax(axis=1)
            sure = np.exp(cooled.max(axis=1) - np.logaddexp.reduce(cooled, axis=1))
            held.add(sure.astype(np.float32), right[np.arange(len(best)), best])
        else:
            sure = np.exp(-np.logaddexp(0.0, -cooled))
            held.add(sure.ravel().astype(np.float32), right.ravel())
    return Fit(nll=log_loss(answers, temperature), error=held.error() or 0.0, bins=held.bins())


def answers_of(ids: Sequence[str], logits: Float32, right: Bool, *, shared: bool, best_only: bool) -> Answers:
    """What a temperature is fitted on. best_only: only whether each row's best class is right is asked."""
    if best_only:
        best = logits.argmax(axis=1)[:, None]
        logits = np.take_along_axis(logits, best, axis=1)
        right = np.take_along_axis(right, best, axis=1)
    return Answers(ids=tuple(ids), logits=logits, right=right, shared=shared and not best_only)
