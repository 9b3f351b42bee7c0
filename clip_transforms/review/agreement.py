"""The labels of a row, and whether they are what reviewers answered: one definition for all who count that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from clip_transforms.prompts.types import Task


def labels_of(row: Mapping[str, Any], task: Task) -> tuple[str, ...]:
    """The labels of a row of `labels/`, or of a queue: none where the model abstained.

    >>> labels_of({"label": None, "labels": ["cat"]}, "multi"), labels_of({"label": None, "labels": None}, "single")
    (('cat',), ())
    """
    if task == "multi":
        return tuple(row["labels"] or ())
    return () if row["label"] is None else (row["label"],)


def agrees(
    labels: Collection[str], answer: Collection[str], *, paths: Mapping[str, tuple[str, ...]], task: Task
) -> bool:
    """Whether the labels of a row are right. paths: of the prompt set (`PromptSet.paths`), from the root.

    Single: its label is the answer, or a group above it; where only the group is known, a label below it is not
    known to be right. Multi: exactly the labels of the answer.

    >>> paths = {"animal": ("animal",), "cat": ("animal", "cat")}
    >>> [agrees([label], ["cat"], paths=paths, task="single") for label in ("cat", "animal")]
    [True, True]
    >>> agrees(["cat"], ["animal"], paths=paths, task="single"), agrees([], ["cat"], paths=paths, task="single")
    (False, False)
    >>> agrees(["cat"], ["cat", "dog"], paths={}, task="multi")
    False
    """
    if task == "multi":
        return set(labels) == set(answer)
    if len(labels) != 1 or len(answer) != 1:
        return False
    (label,), (truth,) = labels, answer
    return label in paths.get(truth, (truth,))
