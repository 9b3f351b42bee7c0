"""The forms of a prompt-set file: YAML, a list of class names, and CuPL's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, cast

from clip_transforms.prompts.errors import mistake, tidy
from clip_transforms.prompts.nodes import Node, read_yaml
from clip_transforms.prompts.rules import VERSION, header_problem
from clip_transforms.prompts.templates import resolve_templates
from clip_transforms.prompts.types import Label, PromptSet, Task

_SET_KEYS = ("version", "name", "task", "templates", "none", "threshold", "labels")
_LABEL_KEYS = tuple(field.name for field in fields(Label) if field.name != "line")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')


def parse_yaml(text: str, *, source: str, read: Callable[[str], str] | None = None) -> PromptSet:
    """A prompt set from YAML. read: gives the text of a template file named beside it."""
    root = read_yaml(text, source=source)
    entries = root.map_of("the prompt set", _SET_KEYS)
    for key in ("version", "name", "labels"):
        if key not in entries:
            example = {"version": "version: 1", "name": "name: my-labels", "labels": "labels: [cat, dog]"}[
                key
            ]
            raise mistake(f"the key '{key}' is missing; write `{example}`", source=source, line=root.line)
    version = _version(entries["version"])
    name = _name(entries["name"])
    labels = entries["labels"]
    if labels.kind == "nothing" or not labels.list_of("labels"):
        line = root.key_lines["labels"]
        raise mistake(f"prompt set '{name}' has no labels", source=source, line=line)
    options: dict[str, Any] = {}
    if "task" in entries:
        options["task"] = _task(entries["task"])
    if "templates" in entries:
        options["templates"] = _templates(entries["templates"], read)
    if "none" in entries:
        options["none"] = entries["none"].texts("none")
    return PromptSet(
        version=version,
        name=name,
        threshold=_threshold(entries),
        labels=tuple(_label(node, read) for node in labels.items),
        source=source,
        **options,
    )


def parse_classnames(text: str, *, source: str, name: str) -> PromptSet:
    """A prompt set from a list of names, a line each; blank lines are skipped.

    A line is both the label's id and, with _ as spaces, its name.

    >>> parse_classnames("T-shirt\\n\\npolar_bear\\n", source="c.txt", name="c").labels[1].name
    'polar bear'
    """
    labels = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            key = tidy(line)
        except ValueError as error:
            raise mistake(f"the label {line!r} {error}", source=source, line=number)
        if key:
            labels.append(Label(id=key, name=tidy(key.replace("_", " ")) or key, line=number))
    return PromptSet(name=name, labels=tuple(labels), source=source)


def parse_cupl(text: str, *, source: str, name: str) -> PromptSet:
    """A prompt set from CuPL's JSON, label -> list of prompts; the prompts are encoded as they are.

    Source: Pratt et al., "What does a platypus look like?", arXiv 2209.03320.

    >>> cupl = parse_cupl('{"cat": ["A cat is small."]}', source="c.json", name="c")
    >>> cupl.prompts_by_class()
    {'cat': ('A cat is small.',)}
    """
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise mistake(f"not sound JSON: {error.msg}", source=source, line=error.lineno)
    except RecursionError:
        raise mistake("not a prompt set: its lists are nested hundreds deep", source=source)
    shape = 'expected {"label": ["prompt", ...], ...}'
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise mistake(f"not a CuPL file; {shape}", source=source, line=1)
    labels = []
    for (key, prompts), line in zip(pairs, _key_lines(text), strict=False):  # keys nested deeper raise below
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise mistake(f"the label '{key}' holds no list of prompts; {shape}", source=source, line=line)
        try:
            tidied = tuple(tidy(prompt) for prompt in prompts)
            labels.append(Label(id=tidy(key), prompts=tidied, templates=(), line=line))
        except ValueError as error:
            raise mistake(f"the label {key!r} {error}", source=source, line=line)
    return PromptSet(name=name, labels=tuple(labels), templates=(), source=source)


def set_name(stem: str, *, source: str) -> str:
    """The name of a set whose file gives none, from the file's stem.

    >>> set_name("ImageNet_classes", source="ImageNet_classes.txt")
    'imagenet-classes'
    """
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not name:
        mend = "rename the file with small letters, digits and hyphens"
        raise mistake(f"the file's name '{stem}' gives the prompt set no name; {mend}", source=source)
    return name


def _label(node: Node, read: Callable[[str], str] | None) -> Label:
    if node.kind != "map":
        return Label(id=node.text("a label"), line=node.line)
    entries = node.map_of("a label", _LABEL_KEYS)
    if "id" not in entries:
        raise node.mistake("a label has no `id`")
    options: dict[str, Any] = {}
    for key in ("name", "description", "parent"):
        if key in entries:
            options[key] = entries[key].text(f"`{key}`")
    for key in ("synonyms", "prompts", "negatives"):
        if key in entries:
            options[key] = entries[key].texts(key)
    if "group" in entries:
        options["group"] = entries["group"].boolean("group")
    if "templates" in entries:
        options["templates"] = _templates(entries["templates"], read)
    found = entries["id"].text("the id of a label")
    return Label(id=found, threshold=_threshold(entries), line=node.line, **options)


def _name(node: Node) -> str:
    name = node.text("the name of the prompt set")
    if problem := header_problem(name=name):
        raise node.mistake(problem)
    return name


def _task(node: Node) -> Task:
    task = node.text("`task`")
    if problem := header_problem(task=task):
        raise node.mistake(problem)
    return cast(Task, task)


def _version(node: Node) -> int:
    number = node.number("version")
    if not number.is_integer():
        raise node.mistake(f"`version` is {node.raw}, expected {VERSION}")
    if problem := header_problem(version=int(number)):
        raise node.mistake(problem)
    return int(number)


def _threshold(entries: dict[str, Node]) -> float | None:
    if "threshold" not in entries:
        return None
    node = entries["threshold"]
    value = node.number("threshold")
    if not 0.0 <= value <= 1.0:
        raise node.mistake(f"the threshold is {node.raw}, expected a number from 0.0 to 1.0")
    return value


def _templates(node: Node, read: Callable[[str], str] | None) -> tuple[str, ...]:
    entries = [(item.text("an entry of `templates`"), item.line) for item in node.list_of("templates")]
    return resolve_templates(entries, source=node.source, read=read)


def _key_lines(text: str) -> Iterator[int]:
    """The line of each key of a sound JSON text, in its order: the decoder does not tell."""
    line, end = 1, 0
    for found in _JSON_STRING.finditer(text):
        line += text.count("\n", end, found.start())
        end = found.start()
        if found[1]:
            yield line
