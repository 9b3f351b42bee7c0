"""Answers of a "CVAT for images 1.1" XML: the tags of each image.

CVAT writes who made a tag: `auto` is a prediction that nobody touched, which is not a review. Where people went
through a whole task and left alone what is right, `untouched=True` takes those as their agreement.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from clip_transforms.elements import RequestError
from clip_transforms.review.importers.answers import Answer, Rejected, Unanswered, Why

_AUTO = "auto"


def read_cvat(data: bytes, *, name: str, untouched: bool = False) -> Iterator[Answer | Unanswered | Rejected]:
    """The answers of an export. name: of the file, for messages.

    An image whose tags all are predictions is Unanswered (or agreed to: untouched). Of one that has tags of a
    person's too, those are the answer; predictions that were left beside them are `Answer.left`. An image without
    tags is Unanswered. Raises RequestError where the file is something else.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise RequestError(f"{name} declares XML entities, which exports of CVAT never do; it is not read")
    reviewer: str | None = None
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(data)):
            if element.tag == "meta":
                reviewer = _assignee(element)
            elif element.tag == "image":
                yield _entry(element, reviewer, name=name, untouched=untouched)
                element.clear()
            elif element.tag == "annotations":
                return
    except ElementTree.ParseError as error:
        raise RequestError(f"{name} is not sound XML ({error}); expected 'CVAT for images 1.1'") from error
    raise RequestError(f"{name} has no <annotations>; expected 'CVAT for images 1.1'")


class Named(NamedTuple):
    """What a manifest says of a file: which image it is, and the sha256 of its picture."""

    image_id: str
    sha256: str | None


def read_manifest(data: bytes, *, name: str) -> dict[str, Named]:
    """Images by file names (with and without suffix), of the manifest beside an exported task.

    Raises RequestError where it is none. name: of the file, for messages.

    >>> read_manifest(b'{"name": "a", "extension": ".jpg", "meta": {"image_id": "7"}}', name="m")
    {'a.jpg': Named(image_id='7', sha256=None), 'a': Named(image_id='7', sha256=None)}
    """
    found: dict[str, Named] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        try:
            entry = json.loads(line) if line.strip() else {}
            meta = entry.get("meta") or {}
            if "name" in entry and "image_id" in meta:
                sha256 = meta.get("sha256")
                key = Named(str(meta["image_id"]), None if sha256 is None else str(sha256))
                found[f"{entry['name']}{entry.get('extension', '')}"] = key
                found.setdefault(str(entry["name"]), key)
        except (ValueError, AttributeError, TypeError) as error:
            raise RequestError(f"{name}, line {number}: no line of a CVAT manifest ({error})") from error
    if not found:
        raise RequestError(
            f"{name} names no image with its `image_id`: expected the manifest of an export of ours"
        )
    return found


def _entry(
    image: ElementTree.Element, reviewer: str | None, *, name: str, untouched: bool
) -> Answer | Unanswered:
    file = image.get("name") or ""
    place = f"{name}, image {file!r}"
    tags = image.findall("tag")
    if not tags:
        return Unanswered(place=place, why=Why.EMPTY)
    touched = [tag for tag in tags if tag.get("source") != _AUTO]
    if not touched and not untouched:
        return Unanswered(place=place, why=Why.UNTOUCHED)
    comments = [
        (attribute.text or "").strip()
        for tag in tags
        for attribute in tag.findall("attribute")
        if attribute.get("name") == "comment"
    ]
    return Answer(
        place=place,
        labels=_labels(touched or tags),
        left=_labels([tag for tag in tags if tag not in touched]) if touched else (),
        uri=file,
        image_id=next((found for tag in tags if (found := _attribute(tag, "image_id"))), None),
        reviewer=reviewer,
        comment="\n".join(text for text in comments if text) or None,
    )


def _labels(tags: list[ElementTree.Element]) -> tuple[tuple[str, ...], ...]:
    return tuple(dict.fromkeys((tag.get("label") or "",) for tag in tags))


def _attribute(tag: ElementTree.Element, name: str) -> str | None:
    found = (entry.text for entry in tag.findall("attribute") if entry.get("name") == name)
    return (next(found, None) or "").strip() or None


def _assignee(meta: ElementTree.Element) -> str | None:
    """Who the task or job was given to; CVAT does not say who made a single tag."""
    found = {(entry.text or "").strip() for entry in meta.findall(".//assignee/username")} - {""}
    return found.pop() if len(found) == 1 else None
