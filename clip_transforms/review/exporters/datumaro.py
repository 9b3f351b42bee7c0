"""Datumaro's own JSON: labels with their scores, without the images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.review.exporters.cvat import check_tags, label_scores
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.images import Place
from clip_transforms.review.exporters.items import Item
from clip_transforms.review.exporters.label_studio_config import check_ids


def datumaro_documents(items: Sequence[Item], places: Sequence[Place], prompts: PromptSet) -> list[Document]:
    """`annotations/default.json`: the categories, and an item for each image of the queue.

    An item's id is its image id; what the reviewer should know is in its attributes. Raises RequestError for
    ids that come twice and for figures that are none.
    """
    check_ids([item.image_id for item in items])
    labels = [(label.id, label.parent or "") for label in prompts.labels]
    if prompts.none and prompts.task == "single":
        labels.append((NONE, ""))
    number = {name: place for place, (name, _) in enumerate(labels)}
    check_tags(items, set(number), several=prompts.task == "multi")
    body = {
        "dm_format_version": "1.0",
        "media_type": 2,  # images
        "infos": {},
        "categories": {
            "label": {
                "labels": [{"name": name, "parent": parent, "attributes": []} for name, parent in labels],
                "label_groups": [],
                "attributes": ["score", "cosine"],
            }
        },
        "items": [_item(item, place, number) for item, place in zip(items, places, strict=True)],
    }
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, indent=1)
    except ValueError as error:
        raise RequestError(f"a figure of the queue is no number ({error}): JSON cannot hold it") from error
    return [Document(name="annotations/default.json", data=text.encode() + b"\n")]


def _item(item: Item, place: Place, number: dict[str, int]) -> dict[str, Any]:
    told = {
        "uri": item.uri,
        "why": item.why,
        "scores": item.scores,
        "margin": item.margin,
        "entropy": item.entropy,
    }
    about = {"prompt_set": item.tag, "encoder": item.encoder, "position": item.position}
    return {
        "id": item.image_id,
        "annotations": [
            {
                "id": order,
                "type": "label",
                "group": 0,
                "label_id": number[label],
                "attributes": {
                    key: value
                    for key, value in (("score", score), ("cosine", cosine))
                    if value is not None and not math.isnan(value)
                },
            }
            for order, (label, score, cosine) in enumerate(label_scores(item))
        ],
        "attr": {key: value for key, value in {**told, **about}.items() if value is not None},
        "image": {"path": place.uri, "size": [item.height, item.width]},
    }
