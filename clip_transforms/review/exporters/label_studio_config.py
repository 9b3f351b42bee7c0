"""The labeling configuration of a Label Studio project for a prompt set, and what it lets a task hold.

Label Studio checks little of what is imported (nothing by default, and even with its validation on it takes two
choices where one is asked for and the bare leaf of a taxonomy); so the exporter checks its own documents
against its own configuration, as it is read here.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.prompts import NONE, Label, PromptSet

CONTROL, OBJECT = "label", "image"
NONE_SHOWN = "None of these"


def labeling_config(prompts: PromptSet) -> str:
    """The XML of a project: one choice, several, or a taxonomy, with descriptions as hints.

    Raises RequestError for a label that Label Studio cannot hold: it reads a leading $ as a variable.
    """
    for label in prompts.labels:
        if label.id.startswith("$"):
            raise prompts.mistake(
                f"the label '{label.id}' begins with $, which Label Studio reads as a variable; give it "
                "another id, or export to another tool",
                label=label,
            )
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=OBJECT, value="$image", zoom="true")
    named = {"name": CONTROL, "toName": OBJECT}
    if prompts.groups:
        more = {} if prompts.task == "multi" else {"maxUsages": "1"}
        control = ET.SubElement(
            view, "Taxonomy", {**named, "leafsOnly": "false", "showFullPath": "true", **more}
        )
        _add_tree(control, prompts)
    else:
        choice = "multiple" if prompts.task == "multi" else "single"
        control = ET.SubElement(view, "Choices", {**named, "choice": choice, "showInLine": "true"})
        for label in prompts.labels:
            _add_choice(control, label)
    if prompts.none and prompts.task == "single":
        shown, taken = NONE_SHOWN, {label.id for label in prompts.labels}
        while shown in taken:
            shown += "."
        ET.SubElement(control, "Choice", value=shown, alias=NONE)
    for name in ("scores", "why", "source"):
        ET.SubElement(view, "Text", name=name, value=f"${name}")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _add_tree(control: ET.Element, prompts: PromptSet) -> None:
    made: dict[str | None, ET.Element] = {None: control}
    waiting = list(prompts.labels)
    while waiting:  # parents may come after their children
        left = [label for label in waiting if label.parent not in made]
        for label in waiting:
            if label.parent in made:
                made[label.id] = _add_choice(made[label.parent], label)
        waiting = left


def _add_choice(parent: ET.Element, label: Label) -> ET.Element:
    choice = ET.SubElement(parent, "Choice", value=label.id)
    if words := hint(label):
        choice.set("hint", words)
    return choice


def hint(label: Label) -> str:
    """What is said of a label beside its id: its name where that is no spelling of it, and its description.

    >>> hint(Label(id="crane-bird", name="crane", description="a tall grey bird"))
    'crane: a tall grey bird'
    """
    name = label.name if label.name.casefold() != Label(id=label.id).name.casefold() else ""
    text = ": ".join(filter(None, (name, " ".join((label.description or "").split()))))
    return "".join(char for char in text if char.isprintable())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRules:
    """What a configuration lets its tasks hold. paths: of a taxonomy; values: of choices."""

    kind: str  # choices, taxonomy
    several: bool
    values: frozenset[str]
    aliases: Mapping[str, str]  # from the text shown to the value that is stored
    paths: frozenset[tuple[str, ...]]
    fields: frozenset[str]


def read_config(config: str) -> ConfigRules:
    """The rules of a configuration that `labeling_config` made."""
    view = ET.fromstring(config)
    control = next(tag for tag in view if tag.get("name") == CONTROL)
    paths = dict(_paths(control, ()))
    several = (
        control.get("choice") == "multiple" if control.tag == "Choices" else not control.get("maxUsages")
    )
    shown = {choice.get("value", ""): path[-1] for path, choice in paths.items()}
    return ConfigRules(
        kind=control.tag.lower(),
        several=several,
        values=frozenset(path[-1] for path in paths),
        aliases={text: value for text, value in shown.items() if text != value},
        paths=frozenset(paths),
        fields=frozenset((tag.get("value") or "")[1:] for tag in view if tag.tag in ("Image", "Text")),
    )


def _paths(tag: ET.Element, above: tuple[str, ...]) -> list[tuple[tuple[str, ...], ET.Element]]:
    found = []
    for choice in tag:
        path = (*above, choice.get("alias") or choice.get("value") or "")
        found += [(path, choice), *_paths(choice, path)]
    return found


def check_task(task: Mapping[str, Any], rules: ConfigRules) -> None:
    """Raise RequestError for the first thing in a task that Label Studio would refuse, or take and show wrong."""
    data = task["data"]
    missing = sorted(field for field in rules.fields if not isinstance(data.get(field), str))
    if missing or not data["image"]:
        raise _wrong(data, f"has no text in {', '.join(missing) or 'image'}")
    check_finite(data, data)
    for prediction in task.get("predictions", ()):
        check_prediction(prediction, rules, data)


def check_prediction(prediction: Mapping[str, Any], rules: ConfigRules, data: Mapping[str, Any]) -> None:
    """The same for one prediction. data: of its task, for the message."""
    score = prediction["score"]
    if not (isinstance(score, float) and math.isfinite(score) and 0 <= score <= 1):
        raise _wrong(data, f"has the score {score}, expected a number from 0 to 1")
    if len(prediction["result"]) > 1:
        raise _wrong(data, "has several results of one control")
    for region in prediction["result"]:
        if (region["from_name"], region["to_name"], region["type"]) != (CONTROL, OBJECT, rules.kind):
            raise _wrong(data, f"names {region['from_name']}, {region['type']}: not of the configuration")
        _check_values(region["value"].get(rules.kind), rules, data)


def _check_values(values: object, rules: ConfigRules, data: Mapping[str, Any]) -> None:
    if not isinstance(values, list) or not values:
        raise _wrong(data, f"has the value {values!r}, expected a list")
    if len(values) > 1 and not rules.several:
        raise _wrong(data, f"has {len(values)} labels, {', '.join(map(str, values))}, where one is expected")
    if len({tuple(value) if isinstance(value, list) else value for value in values}) < len(values):
        raise _wrong(data, "has a label twice")
    for value in values:
        if rules.kind == "taxonomy":
            if not isinstance(value, list) or tuple(value) not in rules.paths:
                raise _wrong(data, f"has {value!r}, which is no path from the taxonomy's root")
        elif value not in rules.values:
            raise _wrong(data, f"has the label {value!r}, {_instead(str(value), rules)}")


def _instead(value: str, rules: ConfigRules) -> str:
    if value in rules.aliases:
        return f"expected its alias {rules.aliases[value]!r}"
    alike = next((known for known in rules.values if known.casefold() == value.casefold()), None)
    return f"expected {alike!r}" if alike else "which the set does not have"


def check_finite(values: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise RequestError where a number is none: JSON cannot hold NaN."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(data, f"has the {name} {value}")


def check_ids(ids: Sequence[str]) -> None:
    """Raise RequestError where an image id comes twice: answers could not be told apart."""
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise RequestError(f"the image id {image_id!r} comes twice in the queue")
        seen.add(image_id)


def _wrong(data: Mapping[str, Any], what: str) -> RequestError:
    return RequestError(f"image {data.get('image_id')!r} {what}: Label Studio would not show it rightly")
