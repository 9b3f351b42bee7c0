"""Single-label sets held against the truth: what is counted batch by batch, and the figures that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_transforms.evaluation.confusion import (
    Cells,
    ClassFigures,
    Confused,
    f1s,
    matrix_of,
    most_confused,
    per_class_figures,
    recalls,
)
from clip_transforms.evaluation.metrics import Figure, Reliability, share
from clip_transforms.probabilities import Int32
from clip_transforms.score_rules import ScoreRules
from clip_transforms.scoring import Scored

TOP = 5


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
        cells = Cells(truth=keys // classes, named=keys % classes, counts=counts)
        total, right = int(counts.sum()), int(counts[cells.truth == cells.named].sum())
        draw = {"resamples": resamples, "seed": seed}
        labels, matrix = matrix_of(cells, self.rules.classes)
        return SingleFigures(
            top1=share(right, total, **draw),
            top5=share(self._top5, total, **draw) if classes > TOP else None,
            top1_failed_wrong=share(right, total + failed),
            balanced_accuracy=cells.figure(recalls, **draw),
            macro_f1=cells.figure(f1s, **draw),
            calibration_error=self.reliability.figure(**draw),
            reliability=self.reliability,
            per_class=per_class_figures(cells, self.rules.classes),
            confused=most_confused(cells, self.rules.classes),
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


def _paths(rules: ScoreRules) -> Int32:
    """For each name the places of itself and all above it, [names, depth], -1 where there is none."""
    if rules.paths is None:
        return np.arange(len(rules.names), dtype=np.int32)[:, None]
    place = {name: number for number, name in enumerate(rules.names)}
    found = np.full((len(rules.names), max(map(len, rules.paths))), -1, np.int32)
    for row, path in enumerate(rules.paths):
        found[row, : len(path)] = [place[name] for name in path]
    return found
