"""What makes a prompt set sound: reserved keys, defaults, and the checks that every set passes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clip_transforms.prompts.errors import mistake, nearest, tidy
from clip_transforms.prompts.templates import one_template

if TYPE_CHECKING:
    from clip_transforms.prompts.types import Label, PromptSet

#: The version of the file format.
VERSION = 1
#: The key of the class "none of these".
NONE = "__none__"
#: The key of the shipped negative of multi-label sets: what a label is held against when neither it nor its
#: set says. Followed by `:` and a label's id it is the key of that label's own negatives.
NEGATIVES = "__negatives__"
#: The texts of that shipped negative.
DEFAULT_NEGATIVES = ("a photo.", "a picture.", "an image.", "a photo of something else.")
#: The threshold where a set gives none, by task.
DEFAULT_THRESHOLDS = {"single": 0.0, "multi": 0.5}

_NAME = re.compile(r"[a-z0-9-]+")


def check(prompts: PromptSet) -> None:
    """Raise RequestError, with the label's line where it is known, for the first thing that is wrong."""
    _check_set(prompts)
    seen: dict[str, Label] = {}
    for label in prompts.labels:
        _check_id(prompts, label)
        if label.id in seen:
            first = seen[label.id].line
            where = f", first on line {first}" if first else ""
            raise prompts.mistake(f"the id '{label.id}' comes twice{where}", label=label)
        seen[label.id] = label
        _check_fields(prompts, label)
        _check_texts(prompts, label)
    _check_hierarchy(prompts, seen)


def header_problem(*, version: int | None = None, name: str | None = None, task: str | None = None) -> str:
    """What is wrong with the value that is given, or nothing.

    >>> header_problem(task="mutli")
    "the task is 'mutli', expected 'single' or 'multi'; did you mean 'multi'?"
    """
    if version is not None and version != VERSION:
        return f"version {version} of the file format is not known, expected {VERSION}"
    if name is not None and not _NAME.fullmatch(name):
        expected = "expected small letters, digits and hyphens only, as in 'my-labels'"
        return f"the name '{name}' of the prompt set: {expected}"
    if task is not None and task not in DEFAULT_THRESHOLDS:
        return f"the task is '{task}', expected 'single' or 'multi'{nearest(task, DEFAULT_THRESHOLDS)}"
    return ""


def _check_set(prompts: PromptSet) -> None:
    problem = header_problem(version=prompts.version, name=prompts.name, task=prompts.task)
    if problem:
        raise mistake(problem, source=prompts.source)
    if not prompts.labels:
        raise mistake(f"prompt set '{prompts.name}' has no labels", source=prompts.source)
    if all(label.group for label in prompts.labels):
        raise prompts.mistake("all labels are groups; groups are not scored, so some label must be none")
    _check_threshold(prompts, prompts.threshold)
    _check_strings(prompts, None, "none", prompts.none)
    for template in prompts.templates:
        one_template(template, source=prompts.source)


def _check_id(prompts: PromptSet, label: Label) -> None:
    try:
        sound = bool(label.id) and tidy(label.id) == label.id
    except ValueError as error:
        raise prompts.mistake(f"the id {label.id!r} {error}", label=label)
    if not sound:
        raise prompts.mistake(f"the id {label.id!r} is empty or has blanks around it", label=label)
    if label.id.startswith("__"):
        mend = "ids that begin with two underscores are reserved"
        hint = "; write the texts of that class under `none` of the set" if label.id == NONE else ""
        raise prompts.mistake(f"the id '{label.id}': {mend}{hint}", label=label)


def _check_threshold(prompts: PromptSet, value: float | None, label: Label | None = None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:  # NaN is refused too
        whose = f" of '{label.id}'" if label else ""
        raise prompts.mistake(
            f"the threshold{whose} is {value}, expected a number from 0.0 to 1.0", label=label
        )


def _check_strings(prompts: PromptSet, label: Label | None, key: str, texts: Iterable[str]) -> None:
    whose = f" of '{label.id}'" if label else ""
    for text in texts:
        try:
            empty = not tidy(text)
        except ValueError as error:
            raise prompts.mistake(f"`{key}`{whose}: {text!r} {error}", label=label)
        if empty:
            raise prompts.mistake(f"`{key}`{whose} has an empty text", label=label)


def _check_fields(prompts: PromptSet, label: Label) -> None:
    _check_threshold(prompts, label.threshold, label)
    if label.group:
        for key in ("prompts", "synonyms", "negatives", "templates"):
            if getattr(label, key):
                mend = "a group is not scored itself, its probability is the sum of its labels'"
                raise prompts.mistake(f"the group '{label.id}' has `{key}`; {mend}", label=label)
    if label.negatives and prompts.task == "single":
        mend = (
            "they are for `task: multi`; in a single-label set the labels compete, and `none` is for the rest"
        )
        raise prompts.mistake(f"the label '{label.id}' has `negatives`; {mend}", label=label)


def _check_texts(prompts: PromptSet, label: Label) -> None:
    if label.group:
        return
    for key in ("synonyms", "prompts", "negatives"):
        _check_strings(prompts, label, key, getattr(label, key))
    _check_strings(prompts, label, "name", [label.name])
    for template in label.templates or ():
        one_template(template, source=prompts.source, line=label.line)
    if prompts.templates_of(label):
        return
    if label.synonyms:
        mend = "give it templates, or move them to `prompts`"
        raise prompts.mistake(f"the label '{label.id}' has synonyms but no templates; {mend}", label=label)
    if not label.prompts:
        mend = "give it templates or prompts"
        raise prompts.mistake(f"the label '{label.id}' has no texts; {mend}", label=label)


def _check_hierarchy(prompts: PromptSet, by_id: dict[str, Label]) -> None:
    for label in prompts.labels:
        if prompts.task == "multi" and (label.group or label.parent is not None):
            mend = "groups are for `task: single`; in a multi-label set each label is judged by itself"
            raise prompts.mistake(f"'{label.id}' is part of a hierarchy; {mend}", label=label)
        if label.parent is None:
            continue
        parent = by_id.get(label.parent)
        if parent is None:
            hint = nearest(label.parent, (found.id for found in prompts.labels if found.group))
            raise prompts.mistake(
                f"the parent '{label.parent}' of '{label.id}' does not exist{hint}", label=label
            )
        if not parent.group:
            mend = f"write {{id: {parent.id}, group: true}}"
            message = f"the parent '{parent.id}' of '{label.id}' is no group; {mend}"
            raise prompts.mistake(message, label=label)
    filled = {key for label in prompts.labels if not label.group for key in _climb(prompts, label, by_id)}
    for label in prompts.labels:
        _climb(prompts, label, by_id)
        if label.group and label.id not in filled:
            raise prompts.mistake(f"no label has the group '{label.id}' above it", label=label)


def _climb(prompts: PromptSet, label: Label, by_id: dict[str, Label]) -> list[str]:
    """The groups above a label, the nearest first; refuses a circle."""
    found: list[str] = []
    parent = label.parent
    while parent is not None:
        if parent in found or parent == label.id:
            circle = " -> ".join([label.id, *found, parent])
            raise prompts.mistake(f"the parents go in a circle: {circle}", label=label)
        found.append(parent)
        parent = by_id[parent].parent
    return found
