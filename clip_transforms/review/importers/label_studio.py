"""Answers of a Label Studio JSON export: choices and taxonomies, one or several annotators a task.

An export reduces predictions to ids, so what was shown, and of which image, is taken from the task's `data`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clip_transforms.elements import RequestError
from clip_transforms.review.importers.answers import (
    Answer,
    Reason,
    Rejected,
    Unanswered,
    UnfitError,
    Why,
    moment,
    seconds,
)

_CONTROL = "label"  # what exports of ours call it
_TYPES = ("choices", "taxonomy")


def read_label_studio(data: bytes, *, name: str) -> Iterator[Answer | Unanswered | Rejected]:
    """The answers of an export in Label Studio's JSON form. name: of the file, for messages.

    Annotations that were cancelled (skipped), and tasks without any, are Unanswered. Raises RequestError where
    the file is something else, or has answers to several controls none of which is called `label`.
    """
    tasks = _tasks(data, name)
    control = _control(tasks, name)
    for number, task in enumerate(tasks, 1):
        place = f"{name}, task {task.get('id', number)}"
        annotations = _annotations(task)
        if not annotations:
            yield Unanswered(place=place, why=Why.EMPTY)
        for annotation in annotations:
            yield _entry(task, annotation, control, place=place)


def _tasks(data: bytes, name: str) -> list[dict[str, Any]]:
    expected = "expected Label Studio's export as JSON: a list of tasks with their annotations"
    try:
        tasks = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise RequestError(f"{name} is not JSON ({error}); {expected}") from error
    except RecursionError:
        raise RequestError(f"{name} is nested hundreds deep; {expected}")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise RequestError(f"{name}: {expected}")
    flat = next((task for task in tasks if not ("annotations" in task or "completions" in task)), None)
    if flat is not None:
        kind = "JSON-MIN" if "annotator" in flat or "annotation_id" in flat else "another form"
        raise RequestError(f"{name} is {kind}, its tasks have no `annotations`; {expected}")
    if not all(isinstance(_annotations(task), list) for task in tasks):
        raise RequestError(f"{name} has a task whose `annotations` are no list; {expected}")
    return tasks


def _annotations(task: Mapping[str, Any]) -> Any:
    """Of a task; a list, where the file is sound."""
    return task.get("annotations", task.get("completions")) or []


def _control(tasks: list[dict[str, Any]], name: str) -> str | None:
    """The control tag whose answers are meant; None where there are no answers."""
    found = {
        str(item.get("from_name"))
        for task in tasks
        for annotation in _annotations(task)
        if isinstance(annotation, dict)
        for item in annotation.get("result") or []
        if isinstance(item, dict) and item.get("type") in _TYPES
    }
    if len(found) > 1 and _CONTROL not in found:
        raise RequestError(
            f"{name} has answers to several controls ({', '.join(sorted(found))}), and none is called "
            f"'{_CONTROL}': rename the one that holds the labels in the labelling interface"
        )
    return _CONTROL if _CONTROL in found or not found else next(iter(found))


def _entry(
    task: Mapping[str, Any], annotation: Any, control: str | None, *, place: str
) -> Answer | Unanswered | Rejected:
    held = task.get("data")
    data: Mapping[str, Any] = held if isinstance(held, dict) else {}
    image = str(data.get("image_id") or data.get("uri") or data.get("image") or "")
    try:
        if not isinstance(annotation, dict):
            raise UnfitError(Reason.BAD_ROW, "an annotation is no object")
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            return Unanswered(place=place, why=Why.SKIPPED)
        return _answer(data, annotation, control, place=place)
    except UnfitError as error:
        return Rejected(place=place, reason=error.reason, message=str(error), image=image)


def _answer(
    data: Mapping[str, Any], annotation: Mapping[str, Any], control: str | None, *, place: str
) -> Answer:
    labels: list[tuple[str, ...]] = []
    comments: list[str] = []
    results = annotation.get("result") or []
    for item in results if isinstance(results, list) else []:
        value = item.get("value") if isinstance(item, dict) else None
        if not isinstance(value, dict):
            continue
        if item.get("type") in _TYPES and item.get("from_name") == control:
            labels += _paths(value.get(item["type"]))
        elif item.get("type") == "textarea":
            comments += _texts(value.get("text"))
    when = annotation.get("updated_at") or annotation.get("created_at")
    return Answer(
        place=place,
        labels=tuple(dict.fromkeys(labels)),
        image_id=_text(data.get("image_id")),
        uri=_text(data.get("uri")) or _file_of(_text(data.get("image"))),
        reviewer=_reviewer(annotation.get("completed_by")),
        reviewed_at=None if when is None else moment(str(when)),
        lead_time=seconds(annotation.get("lead_time")),
        comment="\n".join(comments) or None,
        prompt_set=_text(data.get("prompt_set")),
        sha256=_text(data.get("sha256")),
        shown=tuple(_texts(shown)) if isinstance(shown := data.get("shown"), list) else None,
    )


def _paths(value: Any) -> list[tuple[str, ...]]:
    """Choices, each a text (or its path in a tree of choices), or the paths of a taxonomy."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise UnfitError(Reason.BAD_ROW, f"the choices are {value!r}, expected a list")
    return [(_sound(entry),) if isinstance(entry, str) else tuple(_texts(entry)) for entry in entries]


def _texts(value: Any) -> list[str]:
    entries = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [_sound(str(entry)) for entry in entries]


def _text(value: Any) -> str | None:
    return _sound(str(value)) if isinstance(value, (str, int)) and str(value) else None


def _sound(text: str) -> str:
    """Text that can be stored: JSON may hold halves of characters, which nothing else takes.

    >>> _sound("a\\ud800")
    'a?'
    """
    return text.encode("utf-8", "replace").decode()


def _reviewer(value: Any) -> str | None:
    """Of an annotation: the mail address, else the number that Label Studio knows the user by.

    >>> _reviewer({"id": 3, "email": "ann@example.org"}), _reviewer(3), _reviewer(None)
    ('ann@example.org', '3', None)
    """
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    return _text(value)


def _file_of(image: str | None) -> str | None:
    """The file behind what Label Studio serves.

    >>> _file_of("/data/local-files/?d=photos/a%20b.jpg"), _file_of("gs://bucket/a.jpg")
    ('photos/a b.jpg', 'gs://bucket/a.jpg')
    """
    if image and "/data/local-files/" in image:
        return next(iter(parse_qs(urlsplit(image).query).get("d", [])), image)
    return image
