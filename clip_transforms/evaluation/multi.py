"""Multi-label sets held against the truth: average precision, F1 and their intervals, exactly and in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.evaluation.confusion import ClassFigures, class_figures
from clip_transforms.evaluation.metrics import (
    Bool,
    Figure,
    Int64,
    Reliability,
    interval,
    mean_defined,
    ratio,
    share,
)
from clip_transforms.evaluation.split import Keys
from clip_transforms.probabilities import Float32, Float64
from clip_transforms.scoring import Scored

_IN_MEMORY = 64 << 20  # values; above this the scores lie in a temporary file
_WORK = 2_000_000_000  # values touched by all resamples together; above it there are fewer resamples
_FEWEST = 100  # resamples for which an interval is given


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """One label: its average precision, and precision, recall and F1 at its threshold."""

    figures: ClassFigures
    average_precision: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiFigures:
    """All figures of one multi-label set. Macro means are over the labels that some image has."""

    mean_average_precision: Figure
    micro_f1: Figure
    macro_f1: Figure
    exact: Figure  # images whose labels are all right
    exact_failed_wrong: Figure
    calibration_error: Figure  # over pairs of image and label
    reliability: Reliability
    per_label: tuple[LabelFigures, ...]
    resamples: int  # that the intervals of the first three are of; 0: too many images and labels for them


class ScoreTable:
    """Scores and truths of up to N images, label by label, [C, N]; in a temporary file where they are many.

    Close it: the file goes with it. Images are given back in the order of their keys, so that the order in
    which they were read changes nothing.
    """

    def __init__(self, labels: int, images: int) -> None:
        self.images = 0
        self._file = None
        shape = (labels, max(1, images))
        self._keys = np.empty(shape[1], np.uint64)
        self._scores: Float32
        self._truth: Bool
        if labels * shape[1] <= _IN_MEMORY:
            self._scores, self._truth = np.empty(shape, np.float32), np.empty(shape, bool)
        else:
            self._file = tempfile.TemporaryFile(prefix="beamclip-scores-")  # noqa: SIM115 - closed by close()
            after = 4 * labels * shape[1]
            self._file.truncate(5 * labels * shape[1])
            self._scores = np.memmap(self._file, np.float32, "r+", shape=shape)
            self._truth = np.memmap(self._file, np.bool_, "r+", offset=after, shape=shape)

    def close(self) -> None:
        """Drop what is held."""
        self._scores, self._truth = np.empty((0, 0), np.float32), np.empty((0, 0), bool)
        if self._file is not None:
            self._file.close()

    def add(self, scores: Float32, truth: Bool, keys: Keys) -> None:
        """Take images, [n, C] each, and their keys [n]."""
        after = self.images + len(scores)
        self._keys[self.images : after] = keys
        self._scores[:, self.images : after] = scores.T
        self._truth[:, self.images : after] = truth.T
        self.images = after

    def labels(self) -> Iterator[tuple[Float32, Bool]]:
        """The scores and truths of each label, [N]."""
        order = np.argsort(self._keys[: self.images], kind="stable")
        for scores, truth in zip(self._scores, self._truth, strict=True):
            yield scores[order], truth[order]


@dataclass(slots=True, kw_only=True)
class MultiTally:
    """Counts of one multi-label set over its images."""

    labels: tuple[str, ...]
    thresholds: Float32
    table: ScoreTable
    exact: int = 0
    reliability: Reliability

    def add(self, scored: Scored, truth: Bool, keys: Keys) -> None:
        """Take scored rows [N], scored with top_k = all labels, with their labels [N, C] and keys [N]."""
        scores = all_scores(scored)
        self.table.add(scores, truth, keys)
        self.exact += int(((scores >= self.thresholds) == truth).all(axis=1).sum())
        self.reliability.add(scores.ravel(), truth.ravel())

    def figures(self, *, failed: int, resamples: int, seed: int) -> MultiFigures:
        """The figures; failed: images that could not be embedded."""
        images = self.table.images
        resamples = affordable(resamples, images * len(self.labels))
        weights = Weights(images, resamples=resamples, seed=seed)
        per_label, drawn = self._by_label(weights)
        counts = np.array([[one.figures.images, one.figures.named, one.figures.right] for one in per_label])
        precisions = np.array([one.average_precision for one in per_label], np.float64)
        calibration = self.reliability.error()
        return MultiFigures(
            mean_average_precision=_figure(mean_defined(precisions[None]), mean_defined(drawn.precision)),
            micro_f1=_figure(_micro(counts[None]), _micro(drawn.counts)),
            macro_f1=_figure(_macro(counts[None]), _macro(drawn.counts)),
            exact=share(self.exact, images, resamples=resamples, seed=seed),
            exact_failed_wrong=share(self.exact, images + failed),
            calibration_error=Figure(value=calibration, of=images * len(self.labels)),
            reliability=self.reliability,
            per_label=per_label,
            resamples=resamples,
        )

    def _by_label(self, weights: Weights) -> tuple[tuple[LabelFigures, ...], _Drawn]:
        drawn = _Drawn(weights.resamples, len(self.labels))
        found = []
        for place, (scores, truth) in enumerate(self.table.labels()):
            hit = scores >= self.thresholds[place]
            figures = class_figures(
                self.labels[place],
                images=int(truth.sum()),
                named=int(hit.sum()),
                right=int((hit & truth).sum()),
            )
            ranking = Ranking(scores, truth)
            found.append(LabelFigures(figures=figures, average_precision=ranking.average_precision()))
            counted = np.stack([truth, hit, hit & truth], axis=1).astype(np.int64)
            for rows, each in weights.chunks():
                drawn.precision[rows, place] = ranking.average_precisions(each)
                drawn.counts[rows, place] = each @ counted
        return tuple(found), drawn


@dataclass(slots=True)
class _Drawn:
    """What the resamples give: [R, C] average precisions and [R, C, 3] counts (images, named, right)."""

    precision: Float64
    counts: Int64

    def __init__(self, resamples: int, labels: int) -> None:
        self.precision = np.full((resamples, labels), np.nan)
        self.counts = np.zeros((resamples, labels, 3), np.int64)


class Weights:
    """How often each of N images is in each of R resamples; made anew each time, from the seed alone."""

    def __init__(self, images: int, *, resamples: int, seed: int) -> None:
        self.images, self.resamples, self._seed = images, resamples if images else 0, seed

    def chunks(self) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """Some resamples at a time, [r, N]."""
        rng = np.random.default_rng(self._seed)
        step = max(1, 4_000_000 // max(1, self.images))
        for start in range(0, self.resamples, step):
            rows = min(step, self.resamples - start)
            drawn = rng.integers(0, self.images, (rows, self.images))
            drawn += np.arange(rows)[:, None] * self.images
            counts = np.bincount(drawn.ravel(), minlength=rows * self.images)
            yield slice(start, start + rows), counts.reshape(rows, self.images)


class Ranking:
    """One label's images by falling score, for average precisions of any weights.

    Average precision is the sum of (recall gained) * precision over distinct scores, as scikit-learn's
    `average_precision_score` has it: images of equal score are taken together, no interpolation.

    >>> ranking = Ranking(np.float32([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    >>> round(ranking.average_precision(), 4)
    0.8333
    """

    def __init__(self, scores: Float32, truth: Bool) -> None:
        self._order = np.argsort(-scores, kind="stable")
        falling = scores[self._order]
        self._truth = truth[self._order]
        self._ends: Int64 = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True][: len(falling)])

    def average_precision(self) -> float | None:
        """None where no image has the label."""
        if not self._truth.any():
            return None
        return float(self.average_precisions(np.ones((1, len(self._truth)), np.int64))[0])

    def average_precisions(self, weights: npt.NDArray[np.int64]) -> Float64:
        """For each row of weights [r, N]; NaN where no image with the label has weight."""
        drawn = weights[:, self._order]
        seen = drawn.cumsum(axis=1)[:, self._ends]
        right = (drawn * self._truth).cumsum(axis=1)[:, self._ends]
        gained = np.diff(right, axis=1, prepend=0)
        precision = ratio(right, seen)
        total = right[:, -1]
        return ratio(np.where(gained > 0, gained * precision, 0.0).sum(axis=1), total)


def all_scores(scored: Scored) -> Float32:
    """[N, C] in the order of the labels, from rows scored with top_k = all labels."""
    found = np.empty_like(scored.top_score)
    np.put_along_axis(found, scored.top_index.astype(np.int64), scored.top_score, axis=1)
    return found


def affordable(resamples: int, values: int) -> int:
    """As many resamples as take seconds to minutes; 0 where these are too few for an interval.

    >>> affordable(1000, 50_000), affordable(1000, 10_000_000), affordable(1000, 10**9)
    (1000, 200, 0)
    """
    possible = min(resamples, _WORK // max(1, values))
    return possible if possible >= min(_FEWEST, resamples) else 0


def _micro(counts: Int64) -> Float64:
    images, named, right = np.moveaxis(counts.sum(axis=1), -1, 0)
    return ratio(2 * right, images + named)


def _macro(counts: Int64) -> Float64:
    images, named, right = np.moveaxis(counts, -1, 0)
    each = ratio(2 * right, images + named)
    return mean_defined(np.where(images > 0, each, np.nan))


def _figure(value: Float64, drawn: Float64) -> Figure:
    found = float(value[0])
    return Figure(value=None if np.isnan(found) else found, bootstrap=interval(drawn) if len(drawn) else None)
