"""The prompt set as a value: its labels, the texts of each class, and the hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

from clip_transforms.elements import RequestError
from clip_transforms.prompts.errors import mistake
from clip_transforms.prompts.rules import (
    DEFAULT_NEGATIVES,
    DEFAULT_THRESHOLDS,
    NEGATIVES,
    NONE,
    VERSION,
    check,
)
from clip_transforms.prompts.templates import DEFAULT_TEMPLATES, fill, shipped_templates

Task = Literal["single", "multi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label, or a group of labels.

    id is the key in all outputs; name (default: the id, - and _ as spaces) and synonyms go through the
    templates; prompts are encoded as they are. templates: None for the set's, () for prompts alone.
    line is where the label stands in its file.

    >>> Label(id="crane-bird").name
    'crane bird'
    """

    id: str
    name: str = ""
    synonyms: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    description: str | None = None
    parent: str | None = None
    group: bool = False
    threshold: float | None = None
    negatives: tuple[str, ...] = ()
    templates: tuple[str, ...] | None = None
    line: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            words = self.id.replace("-", " ").replace("_", " ").split()
            object.__setattr__(self, "name", " ".join(words) or self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """A checked set of labels with the texts that describe them. Raises RequestError when it is not sound.

    labels keep the order of the file, for people; results never depend on it: classes are scored in the
    order of `classes`, sorted by id with `__none__` last.
    """

    name: str
    labels: tuple[Label, ...]
    task: Task = "single"
    templates: tuple[str, ...] = field(default_factory=lambda: shipped_templates(DEFAULT_TEMPLATES))
    none: tuple[str, ...] = ()
    threshold: float | None = None  # None: DEFAULT_THRESHOLDS of the task
    version: int = VERSION
    source: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check(self)

    @property
    def classes(self) -> tuple[str, ...]:
        """The scored classes: ids of labels that are no groups, sorted; single: `__none__` last, if any.

        >>> PromptSet(name="pets", labels=(Label(id="dog"), Label(id="cat")), none=("a wall",)).classes
        ('cat', 'dog', '__none__')
        """
        leaves = sorted(label.id for label in self.labels if not label.group)
        return (*leaves, NONE) if self.none and self.task == "single" else tuple(leaves)

    @property
    def groups(self) -> tuple[str, ...]:
        """The ids of the groups, sorted."""
        return tuple(sorted(label.id for label in self.labels if label.group))

    def paths(self) -> dict[str, tuple[str, ...]]:
        """From the root down to the class or group itself, for each class and group.

        >>> labels = (Label(id="bird", group=True), Label(id="owl", parent="bird"))
        >>> PromptSet(name="birds", labels=labels).paths()["owl"]
        ('bird', 'owl')
        """
        parents = {label.id: label.parent for label in self.labels}
        found: dict[str, tuple[str, ...]] = {}
        for key in (*self.classes, *self.groups):
            path = [key]
            while (parent := parents.get(path[-1])) is not None:
                path.append(parent)
            found[key] = tuple(reversed(path))
        return found

    def thresholds(self) -> dict[str, float]:
        """The least score at which a class or group is a label, for each class and group."""
        default = DEFAULT_THRESHOLDS[self.task] if self.threshold is None else float(self.threshold)
        own = {label.id: label.threshold for label in self.labels if label.threshold is not None}
        return {key: float(own.get(key, default)) for key in (*self.classes, *self.groups)}

    def templates_of(self, label: Label) -> tuple[str, ...]:
        """The templates that a label's names go through: its own, else the set's."""
        return self.templates if label.templates is None else label.templates

    def texts_of(self, label: Label) -> tuple[str, ...]:
        """The texts of a label, each once: its names through the templates, then its prompts.

        >>> pets = PromptSet(name="pets", labels=(Label(id="cat"),), templates=("a {}", "the {}"))
        >>> pets.texts_of(pets.labels[0])
        ('a cat', 'the cat')
        """
        names = (label.name, *label.synonyms)
        filled = [fill(template, name) for name in names for template in self.templates_of(label)]
        return tuple(dict.fromkeys([*filled, *label.prompts]))

    def negatives_key(self, label: Label) -> str:
        """Multi: the key of the texts that the label is held against by a softmax-trained model."""
        if label.negatives:
            return f"{NEGATIVES}:{label.id}"
        return NONE if self.none else NEGATIVES

    def prompts_by_class(self) -> dict[str, tuple[str, ...]]:
        """Every text to encode, by class key: the classes in their order, then what they are held against.

        Single: `classes`. Multi: the labels, then `__none__`, `__negatives__` (the shipped negative) and
        `__negatives__:<id>` where some label uses them.
        """
        by_id = {label.id: label for label in self.labels}
        found = {key: self.none if key == NONE else self.texts_of(by_id[key]) for key in self.classes}
        if self.task == "multi":
            for key in self.classes:
                label = by_id[key]
                texts = label.negatives or self.none or DEFAULT_NEGATIVES
                found.setdefault(self.negatives_key(label), texts)
        return found

    @property
    def hash(self) -> str:
        """sha256 hex over all that can change a result: every field but descriptions, templates as texts.

        The order of labels is left out, because labels are keyed by id in every output and scored in the
        order of `classes`; so are defaults, comments and spelling of the file.
        """
        thresholds = self.thresholds()
        content = {
            "version": self.version,
            "name": self.name,
            "task": self.task,
            "templates": self.templates,
            "none": self.none,
            "threshold": DEFAULT_THRESHOLDS[self.task] if self.threshold is None else float(self.threshold),
            "labels": {label.id: self._content(label, thresholds[label.id]) for label in self.labels},
        }
        encoded = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(encoded.encode()).hexdigest()

    def mistake(self, message: str, *, label: Label | None = None) -> RequestError:
        """The error for something wrong in this set, with its file and the label's line."""
        return mistake(
            f"prompt set '{self.name}': {message}", source=self.source, line=label.line if label else None
        )

    def _content(self, label: Label, threshold: float) -> dict[str, object]:
        negatives = label.negatives or self.none or DEFAULT_NEGATIVES
        return {
            "name": label.name,
            "synonyms": label.synonyms,
            "prompts": label.prompts,
            "parent": label.parent,
            "group": label.group,
            "threshold": threshold,
            "negatives": negatives if self.task == "multi" else (),
            "templates": self.templates_of(label) if not label.group else (),
        }
