"""Labels and a script that makes a FiftyOne data set of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.review.exporters.cvat import check_tags, label_scores
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.images import Place
from clip_transforms.review.exporters.items import Item
from clip_transforms.review.exporters.label_studio_config import check_ids


def fiftyone_documents(
    items: Sequence[Item], places: Sequence[Place], prompts: PromptSet, *, queue: str
) -> list[Document]:
    """`labels.json` (classes, and by path what is proposed) and `load.py`, which makes the data set.

    The script has not been run against a FiftyOne server. Raises RequestError for paths or ids that come twice.
    """
    check_ids([item.image_id for item in items])
    classes = [*(label.id for label in prompts.labels), *([NONE] if NONE in prompts.classes else [])]
    check_tags(items, set(classes), several=prompts.task == "multi")
    labels: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    for item, place in zip(items, places, strict=True):
        if place.uri in labels:
            raise RequestError(f"the image {place.uri} comes twice in the queue, under two ids")
        found = [{"label": label, "confidence": score} for label, score, _ in label_scores(item)]
        labels[place.uri] = found if item.several else next(iter(found), None)
        samples[place.uri] = _told(item)
    body = {
        "name": queue,
        "task": prompts.task,
        "classes": classes,
        "labels": labels,
        "samples": samples,
    }
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, indent=1)
    except ValueError as error:
        raise RequestError(f"a figure of the queue is no number ({error}): JSON cannot hold it") from error
    script = resources.files("clip_transforms.review").joinpath("templates/load_fiftyone.py.txt").read_bytes()
    return [Document(name="labels.json", data=text.encode() + b"\n"), Document(name="load.py", data=script)]


def _told(item: Item) -> dict[str, Any]:
    return {
        "image_id": item.image_id,
        "position": item.position,
        "why": item.why,
        "scores": item.scores,
        "margin": item.margin,
        "entropy": item.entropy,
        "prompt_set": item.tag,
        "encoder": item.encoder,
        "blind": item.shown is None,
    }
