"""What a refit chooses by cross-validation, and its out-of-fold predictions: no row is judged by what it taught."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.evaluation.probe import C_VALUES
from clip_transforms.probabilities import Float64
from clip_transforms.probe import mixed
from clip_transforms.prompts.types import Task
from clip_transforms.refining.fit import Regression, fit_temperature, log_losses
from clip_transforms.refining.reviewed import Bool
from clip_transforms.review.report_data import sample_keys

Int64 = npt.NDArray[np.int64]

#: How much of the probe there may be. Never more than half: a queue holds what zero-shot is unsure of, so that on
#: reviewed images it looks worse than it is, and folds of them would give up the texts (benchmarks.review_gain).
BLENDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
FOLDS = 5
_INNER = 4  # folds within the rows of the other folds
_SHUFFLE = 1009.0  # times this, numbers in [0, 1) are in another order
_PATIENCE = 2  # values of C in a row that are no better, after which larger ones are not tried
_FOLD_SEED = 20_210_227


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """N rows to learn from. rows: [N, D] of norm 1. zero_shot: [N, C] logits. targets: [N, C]. weights: [N],
    mean 1. places: the classes [P] that get a probe. order: [N], what the folds are dealt by.
    """

    task: Task
    rows: Float64
    zero_shot: Float64
    targets: Bool
    weights: Float64
    places: tuple[int, ...]
    order: Float64

    def take(self, chosen: Bool) -> Sample:
        """Some of the rows."""
        return Sample(
            task=self.task,
            rows=self.rows[chosen],
            zero_shot=self.zero_shot[chosen],
            targets=self.targets[chosen],
            weights=self.weights[chosen],
            places=self.places,
            order=self.order[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What has the least log-loss out of fold: C of the penalty, and how much of the probe there is (0: none).

    temperature: of the zero-shot logits by themselves.
    """

    c: float
    blend: float
    temperature: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfFold:
    """Of each row [N, C] the logits of a fit that knew the other folds alone: blended, and zero-shot ones at
    their temperature. In a single-label set they are log-probabilities.
    """

    blended: Float64
    zero_shot: Float64


def fold_order(ids: tuple[str, ...]) -> Float64:
    """Of these images: a number each, fixed by the id."""
    return sample_keys(ids, seed=_FOLD_SEED)


def deal_folds(sample: Sample, count: int, *, dealing: int = 0) -> Int64:
    """The fold of each row: each class is dealt out over the folds, in an order fixed by the ids and `dealing`.

    In a multi-label set a row is of the rarest of its labels that get a probe.
    """
    rarity = sample.targets.sum(axis=0)
    ranked = sorted(sample.places, key=lambda place: (rarity[place], place))
    ranked += [place for place in range(len(rarity)) if place not in set(ranked)]
    strata = np.where(sample.targets.any(axis=1), sample.targets[:, ranked].argmax(axis=1), len(ranked))
    found = np.zeros(len(strata), np.int64)
    order = (sample.order * _SHUFFLE**dealing) % 1.0
    found[np.lexsort((order, strata))] = np.arange(len(strata)) % count
    return found


def choose(sample: Sample, *, folds: int) -> Choice:
    """C and the blend by cross-validation within these rows.

    Of equals the smaller blend wins, then the smaller C: the nearest to what there was.
    """
    dealt = deal_folds(sample, folds)
    parts = [_Part(sample, dealt == fold) for fold in range(folds) if (dealt == fold).any()]
    total = float(sample.weights.sum())
    best = Choice(c=C_VALUES[0], blend=0.0, temperature=1.0, loss=np.inf)
    worse = 0
    for c in C_VALUES:
        losses = np.sum([part.losses(c) for part in parts], axis=0) / total
        place = int(np.argmin(np.round(losses, 9)))
        worse = 0 if losses[place] < best.loss - 1e-9 else worse + 1
        if not worse:
            best = Choice(c=c, blend=BLENDS[place], temperature=1.0, loss=float(losses[place]))
        if worse == _PATIENCE:
            break
    temperature = fit_temperature(sample.zero_shot, sample.targets, sample.weights, sample.task)
    return Choice(c=best.c, blend=best.blend, temperature=temperature, loss=best.loss)


def out_of_fold(sample: Sample, *, dealing: int = 0) -> OutOfFold:
    """Predictions for each row by a fit of the other folds, where C, the blend and the temperature were chosen
    without that row as well: nested cross-validation.
    """
    dealt = deal_folds(sample, FOLDS, dealing=dealing)
    blended, plain = np.empty_like(sample.zero_shot), np.empty_like(sample.zero_shot)
    for fold in range(FOLDS):
        held = dealt == fold
        if not held.any():
            continue
        taught, asked = sample.take(~held), sample.take(held)
        choice = choose(taught, folds=_INNER)
        old = asked.zero_shot / choice.temperature
        new = _regression(taught, exact=True).fit(choice.c).logits(asked.rows)
        blended[held] = mixed(old, new, sample.places, task=sample.task, blend=choice.blend)
        plain[held] = mixed(old, new, sample.places, task=sample.task, blend=0.0)
    return OutOfFold(blended=blended, zero_shot=plain)


class _Part:
    """One fold: trained on the rest for rising C, its own rows predicted."""

    def __init__(self, sample: Sample, held: Bool) -> None:
        taught, self._asked = sample.take(~held), sample.take(held)
        temperature = fit_temperature(taught.zero_shot, taught.targets, taught.weights, sample.task)
        self._old = self._asked.zero_shot / temperature
        self._regression = _regression(taught)

    def losses(self, c: float) -> Float64:
        """The weighted sum of the log-losses of the held-out rows, for each of BLENDS."""
        asked = self._asked
        new = self._regression.fit(c).logits(asked.rows)
        found = [
            asked.weights
            @ log_losses(
                mixed(self._old, new, asked.places, task=asked.task, blend=blend), asked.targets, asked.task
            )
            for blend in BLENDS
        ]
        return np.array(found, np.float64)


def _regression(sample: Sample, *, exact: bool = False) -> Regression:
    return Regression(sample.rows, sample.targets, sample.weights, sample.places, sample.task, exact=exact)
