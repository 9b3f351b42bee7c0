"""The confusion matrix of single labels as its non-zero cells, and the figures of each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clip_transforms.evaluation.metrics import Figure, Int64, Interval, mean_defined, ratio, resampled, wilson
from clip_transforms.probabilities import Float64

_MATRIX = 60  # classes up to which the whole matrix is given
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """The non-zero cells of a confusion matrix, sorted by truth: [K] each."""

    truth: Int64
    named: Int64
    counts: Int64

    def figure(self, per_class: Callable[[Sums, Int64], Float64], *, resamples: int, seed: int) -> Figure:
        """The mean of a figure over the classes that have images, with its bootstrap interval."""
        if not len(self.counts):
            return Figure(value=None)
        sums = Sums(self)
        return Figure(
            value=float(mean_defined(per_class(sums, self.counts[None]))[0]),
            bootstrap=resampled(
                self.counts,
                lambda drawn: mean_defined(per_class(sums, drawn)),
                resamples=resamples,
                seed=seed,
            ),
        )


class Sums:
    """Sums over cells by class, for drawn counts [R, K]; classes are those that have images."""

    def __init__(self, cells: Cells) -> None:
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


def recalls(sums: Sums, drawn: Int64) -> Float64:
    return ratio(sums.right(drawn), sums.images(drawn))


def f1s(sums: Sums, drawn: Int64) -> Float64:
    return ratio(2 * sums.right(drawn), sums.images(drawn) + sums.named(drawn))


def per_class_figures(cells: Cells, classes: tuple[str, ...]) -> tuple[ClassFigures, ...]:
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


def most_confused(cells: Cells, classes: tuple[str, ...]) -> tuple[Confused, ...]:
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


def matrix_of(
    cells: Cells, classes: tuple[str, ...]
) -> tuple[tuple[str, ...] | None, tuple[tuple[int, ...], ...] | None]:
    used = np.union1d(cells.truth, cells.named)
    if len(used) > _MATRIX:
        return None, None
    matrix = np.zeros((len(used), len(used)), np.int64)
    matrix[np.searchsorted(used, cells.truth), np.searchsorted(used, cells.named)] = cells.counts
    return tuple(classes[place] for place in used.tolist()), tuple(map(tuple, matrix.tolist()))
