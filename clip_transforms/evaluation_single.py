"""Single-label sets held against the truth: what is counted batch by batch, and the figures that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clip_transforms.evaluation_metrics import (
    Figure,
    Int64,
    Interval,
    Reliability,
    mean_defined,
    ratio,
    resampled,
    share,
    wilson,
)
from clip_transforms.probabilities import Float64, Int32
from clip_transforms.score_rules import ScoreRules
from clip_transforms.scoring import Scored

TOP = 5
_MATRIX = 60  # classes up to which the whole confusion matrix is given
_PAIRS = 100  # most confused pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """One class. named: images that the labels give it. None where a figure is not defined."""

    label: str
    images: int  # support
    named: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_wilson: Interval | None
    precision_wilson: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """A pair of classes: images that are the one and were named the other."""

    truth: str
    named: str
    images: int
    of: int  # images that are `truth`


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the set's thresholds and hierarchy make of the images.

    leaf, group, abstained: images whose label is a class, a group above one, or none. right_*: of these, the
    label is the truth or lies above it.
    """

    leaf: int
    right_leaf: int
    group: int
    right_group: int
    abstained: int
    accuracy: Figure  # right answers of either kind, of the images that have one
    of_all: Figure  # the same, of all images


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleFigures:
    """All figures of one single-label set. Macro means are over the classes that have images."""

    top1: Figure
    top5: Figure | None  # None where the set has at most five classes
    top1_failed_wrong: Figure  # images that failed counted as wrong
    balanced_accuracy: Figure
    macro_f1: Figure
    calibration_error: Figure
    reliability: Reliability
    per_class: tuple[ClassFigures, ...]
    confused: tuple[Confused, ...]
    matrix_labels: tuple[str, ...] | None  # classes that have images or were named; None: too many
    matrix: tuple[tuple[int, ...], ...] | None  # [truth][named]
    answers: Answers | None  # None where the set has neither thresholds nor groups


class SingleTally:
    """Counts of one set. Memory: one number for each pair of classes that occurs, none for an image."""

    def __init__(self, rules: ScoreRules) -> None:
        self.rules = rules
        self.reliability = Reliability()
        self._cells: dict[int, int] = {}  # truth * classes + best class -> images
        self._top5 = 0
        self._answers = np.zeros((3, 2), np.int64)  # leaf, group, abstained; by whether right
        self._paths = _paths(rules)

    def add(self, scored: Scored, truth: Int32) -> None:
        """Take scored rows [N] with the places of their truths in `rules.names`, none of them unknown."""
        classes = len(self.rules.classes)
        leaf = truth < classes
        best = scored.top_index[:, 0]
        right = best == truth
        keys, counts = np.unique(
            truth[leaf].astype(np.int64) * classes + best[leaf].astype(np.int64), return_counts=True
        )
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self._cells[key] = self._cells.get(key, 0) + count
        self._top5 += int((scored.top_index[leaf, :TOP] == truth[leaf, None]).any(axis=1).sum())
        self.reliability.add(scored.top_score[leaf, 0], right[leaf])
        label = scored.label
        kind = np.where(label < 0, 2, np.where(label < classes, 0, 1))
        above = (self._paths[truth] == label[:, None]).any(axis=1)
        below = (self._paths[np.maximum(label, 0)] == truth[:, None]).any(axis=1)
        np.add.at(self._answers, (kind, ((above | below) & (label >= 0)).astype(np.int64)), 1)

    def figures(self, *, failed: int, resamples: int, seed: int) -> SingleFigures:
        """The figures; failed: images that could not be embedded."""
        classes = len(self.rules.classes)
        keys = np.array(sorted(self._cells), np.int64)
        counts = np.array([self._cells[key] for key in keys.tolist()], np.int64)
        cells = _Cells(truth=keys // classes, named=keys % classes, counts=counts)
        total, right = int(counts.sum()), int(counts[cells.truth == cells.named].sum())
        draw = {"resamples": resamples, "seed": seed}
        labels, matrix = _matrix(cells, self.rules.classes)
        return SingleFigures(
            top1=share(right, total, **draw),
            top5=share(self._top5, total, **draw) if classes > TOP else None,
            top1_failed_wrong=share(right, total + failed),
            balanced_accuracy=cells.figure(_recalls, **draw),
            macro_f1=cells.figure(_f1s, **draw),
            calibration_error=self.reliability.figure(**draw),
            reliability=self.reliability,
            per_class=_per_class(cells, self.rules.classes),
            confused=_confused(cells, self.rules.classes),
            matrix_labels=labels,
            matrix=matrix,
            answers=self._answered() if self._has_answers() else None,
        )

    def _has_answers(self) -> bool:
        return self.rules.members is not None or bool((self.rules.thresholds > 0).any())

    def _answered(self) -> Answers:
        answers = self._answers
        given, right = int(answers[:2].sum()), int(answers[:2, 1].sum())
        return Answers(
            leaf=int(answers[0].sum()),
            right_leaf=int(answers[0, 1]),
            group=int(answers[1].sum()),
            right_group=int(answers[1, 1]),
            abstained=int(answers[2].sum()),
            accuracy=share(right, given),
            of_all=share(right, int(answers.sum())),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Cells:
    """The non-zero cells of a confusion matrix, sorted by truth: [K] each."""

    truth: Int64
    named: Int64
    counts: Int64

    def figure(self, per_class: Callable[[_Sums, Int64], Float64], *, resamples: int, seed: int) -> Figure:
        """The mean of a figure over the classes that have images, with its bootstrap interval."""
        if not len(self.counts):
            return Figure(value=None)
        sums = _Sums(self)
        return Figure(
            value=float(mean_defined(per_class(sums, self.counts[None]))[0]),
            bootstrap=resampled(
                self.counts,
                lambda drawn: mean_defined(per_class(sums, drawn)),
                resamples=resamples,
                seed=seed,
            ),
        )


class _Sums:
    """Sums over cells by class, for drawn counts [R, K]; classes are those that have images."""

    def __init__(self, cells: _Cells) -> None:
        self._starts = np.flatnonzero(np.diff(cells.truth, prepend=-1))
        seen = cells.truth[self._starts]
        self._diagonal = np.flatnonzero(cells.truth == cells.named)
        self._hit = np.searchsorted(seen, cells.truth[self._diagonal])
        self._order = np.flatnonzero(np.isin(cells.named, seen))  # named something that nothing is: no column
        place = np.searchsorted(seen, cells.named[self._order])
        by_name = np.argsort(place, kind="stable")
        self._order, place = self._order[by_name], place[by_name]
        self._name_starts = np.flatnonzero(np.diff(place, prepend=-1))
        self._names = place[self._name_starts]
        self._classes = len(seen)

    def right(self, drawn: Int64) -> Int64:
        found = np.zeros((len(drawn), self._classes), np.int64)
        found[:, self._hit] = drawn[:, self._diagonal]
        return found

    def images(self, drawn: Int64) -> Int64:
        found: Int64 = np.add.reduceat(drawn, self._starts, axis=1)
        return found

    def named(self, drawn: Int64) -> Int64:
        found = np.zeros((len(drawn), self._classes), np.int64)
        if len(self._order):
            found[:, self._names] = np.add.reduceat(drawn[:, self._order], self._name_starts, axis=1)
        return found


def _recalls(sums: _Sums, drawn: Int64) -> Float64:
    return ratio(sums.right(drawn), sums.images(drawn))


def _f1s(sums: _Sums, drawn: Int64) -> Float64:
    return ratio(2 * sums.right(drawn), sums.images(drawn) + sums.named(drawn))


def _per_class(cells: _Cells, classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    """Classes that have images or were named, in their order."""
    size = len(classes)
    images = np.bincount(cells.truth, cells.counts, size).astype(np.int64).tolist()
    named = np.bincount(cells.named, cells.counts, size).astype(np.int64).tolist()
    same = cells.truth == cells.named
    right = np.bincount(cells.truth[same], cells.counts[same], size).astype(np.int64).tolist()
    return tuple(
        class_figures(label, images=images[place], named=named[place], right=right[place])
        for place, label in enumerate(classes)
        if images[place] or named[place]
    )


def class_figures(label: str, *, images: int, named: int, right: int) -> ClassFigures:
    """Precision, recall and F1 of a class. F1 = 2 right / (images + named).

    >>> one = class_figures("cat", images=4, named=2, right=2)
    >>> one.precision, one.recall, round(one.f1, 3)
    (1.0, 0.5, 0.667)
    """
    return ClassFigures(
        label=label,
        images=images,
        named=named,
        right=right,
        precision=right / named if named else None,
        recall=right / images if images else None,
        f1=2 * right / (images + named) if images else None,
        recall_wilson=wilson(right, images),
        precision_wilson=wilson(right, named),
    )


def _confused(cells: _Cells, classes: tuple[str, ...]) -> tuple[Confused, ...]:
    wrong = np.flatnonzero(cells.truth != cells.named)
    most = wrong[np.argsort(-cells.counts[wrong], kind="stable")][:_PAIRS].tolist()
    images = np.bincount(cells.truth, cells.counts, len(classes))
    return tuple(
        Confused(
            truth=classes[cells.truth[cell]],
            named=classes[cells.named[cell]],
            images=int(cells.counts[cell]),
            of=int(images[cells.truth[cell]]),
        )
        for cell in most
    )


def _matrix(
    cells: _Cells, classes: tuple[str, ...]
) -> tuple[tuple[str, ...] | None, tuple[tuple[int, ...], ...] | None]:
    used = np.union1d(cells.truth, cells.named)
    if len(used) > _MATRIX:
        return None, None
    matrix = np.zeros((len(used), len(used)), np.int64)
    matrix[np.searchsorted(used, cells.truth), np.searchsorted(used, cells.named)] = cells.counts
    return tuple(classes[place] for place in used.tolist()), tuple(map(tuple, matrix.tolist()))


def _paths(rules: ScoreRules) -> Int32:
    """For each name the places of itself and all above it, [names, depth], -1 where there is none."""
    if rules.paths is None:
        return np.arange(len(rules.names), dtype=np.int32)[:, None]
    place = {name: number for number, name in enumerate(rules.names)}
    found = np.full((len(rules.names), max(map(len, rules.paths))), -1, np.int32)
    for row, path in enumerate(rules.paths):
        found[row, : len(path)] = [place[name] for name in path]
    return found
