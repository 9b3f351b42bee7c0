"""CVAT for images 1.1: an XML for each task, the manifest of its files in their order, and the labels of a task.

CVAT matches images by their names without the suffix, and one that it does not find ends the import; so each
task has its own file, with the names of its own images only.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import PurePosixPath

from clip_transforms.elements import RequestError
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.items import Item
from clip_transforms.review.exporters.label_studio_config import check_ids

#: What XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTES = ("score", "cosine")


def cvat_documents(
    items: Sequence[Item], names: Sequence[str], prompts: PromptSet, *, queue: str, task_size: int
) -> list[Document]:
    """Labels, and for each `task_size` images their XML and manifest. names: of the images in CVAT.

    Raises RequestError for names that CVAT would mix up or XML cannot hold.
    """
    check_ids([item.image_id for item in items])
    labels = set(_names(prompts))
    documents = [Document(name=f"{queue}-labels.json", data=_json(task_labels(prompts)))]
    for place, start in enumerate(range(0, len(items), task_size)):
        here = slice(start, start + task_size)
        check_names(names[here])
        check_tags(items[here], labels, several=prompts.task == "multi")
        stem = f"{queue}-task{place:04d}"
        documents.append(Document(name=f"{stem}.xml", data=_annotations(items[here], names[here], prompts)))
        documents.append(Document(name=f"{stem}-manifest.jsonl", data=_manifest(items[here], names[here])))
    return documents


def task_labels(prompts: PromptSet) -> list[dict[str, object]]:
    """The labels of a CVAT task, for the Raw tab of its constructor: tags with their scores as text."""
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for name in _ATTRIBUTES
    ]
    return [{"name": name, "type": "tag", "attributes": attributes} for name in _names(prompts)]


def _names(prompts: PromptSet) -> list[str]:
    """Every label, groups too, and `__none__` where it may be one."""
    return [*(label.id for label in prompts.labels), *([NONE] if NONE in prompts.classes else [])]


def check_names(names: Sequence[str]) -> None:
    """Raise RequestError for what CVAT takes in silence, or what ends its import."""
    seen: dict[str, str] = {}
    for name in names:
        if not name or _NOT_XML.search(name) or name != name.strip():
            raise RequestError(
                f"the name {name!r} cannot be written for CVAT; --images DIR writes copies with plain names"
            )
        stem = str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
        if stem in seen:
            raise RequestError(
                f"two images of one CVAT task are {seen[stem]} and {name}, which CVAT cannot tell apart (it "
                "matches names without their suffix); --document-root DIR keeps their folders, --images DIR "
                "writes copies with names of their own"
            )
        seen[stem] = name


def check_tags(items: Sequence[Item], labels: set[str], *, several: bool) -> None:
    """Raise RequestError for a label that the task lacks, several in a single-label set, a score that is none."""
    for item in items:
        shown = item.shown or ()
        if item.probability is not None and not 0 <= item.probability <= 1:  # NaN is refused too
            raise RequestError(
                f"image {item.image_id!r} has the score {item.probability}, expected a number from 0 to 1"
            )
        unknown = next((label for label in shown if label not in labels), None)
        if unknown is not None:
            raise RequestError(
                f"image {item.image_id!r} has the label {unknown!r}, which the set does not have"
            )
        if len(shown) > 1 and not several:
            raise RequestError(f"image {item.image_id!r} has {len(shown)} labels in a single-label set")


def _annotations(items: Sequence[Item], names: Sequence[str], prompts: PromptSet) -> bytes:
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    _add_labels(ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels"), prompts)
    for place, (item, name) in enumerate(zip(items, names, strict=True)):
        size = {"width": str(item.width), "height": str(item.height)}
        image = ET.SubElement(root, "image", {"id": str(place), "name": name, **size})
        for label, score, cosine in label_scores(item):
            tag = ET.SubElement(image, "tag", label=label, source="auto")
            for key, figure in (("score", score), ("cosine", cosine)):
                if figure is not None:
                    ET.SubElement(tag, "attribute", name=key).text = f"{figure:.6g}"
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _add_labels(labels: ET.Element, prompts: PromptSet) -> None:
    for label in _names(prompts):
        entry = ET.SubElement(labels, "label")
        ET.SubElement(entry, "name").text = label
        ET.SubElement(entry, "type").text = "tag"
        attributes = ET.SubElement(entry, "attributes")
        for name in _ATTRIBUTES:
            attribute = ET.SubElement(attributes, "attribute")
            for key, value in (("name", name), ("mutable", "False"), ("input_type", "text")):
                ET.SubElement(attribute, key).text = value
            ET.SubElement(attribute, "default_value")
            ET.SubElement(attribute, "values")


def label_scores(item: Item) -> list[tuple[str, float | None, float | None]]:
    """Each proposed label with its probability and cosine; None where they are not stored.

    Of the label of a single-label set they are the row's own (of a group the sum over its leaves), of labels
    of a multi-label set those of the top k.
    """
    if not item.several:
        return [(label, item.probability, item.cosine) for label in item.shown or ()]
    known = {guess.label: guess for guess in item.guesses}
    return [
        (label, known[label].probability, known[label].cosine) if label in known else (label, None, None)
        for label in item.shown or ()
    ]


def _manifest(items: Sequence[Item], names: Sequence[str]) -> bytes:
    """CVAT's own manifest of a data set: the order of its lines is that of the frames."""
    lines: list[dict[str, object]] = [{"version": "1.1"}, {"type": "images"}]
    for item, name in zip(items, names, strict=True):
        path = PurePosixPath(name)
        lines.append(
            {
                "name": str(path.with_suffix("")),
                "extension": path.suffix,
                "width": item.width,
                "height": item.height,
                "meta": {
                    "uri": item.uri,
                    "image_id": item.image_id,
                    "sha256": item.sha256,
                    "why": item.why,
                    "scores": item.scores,
                },
            }
        )
    return b"".join(_json(line, indent=None) for line in lines)


def _json(value: object, *, indent: int | None = 1) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode() + b"\n"
