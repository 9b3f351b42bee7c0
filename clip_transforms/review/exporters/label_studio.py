"""Tasks and predictions for Label Studio, as JSON lines or arrays in files of bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.prompts import PromptSet
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.items import Item
from clip_transforms.review.exporters.label_studio_config import (
    CONTROL,
    OBJECT,
    check_ids,
    check_prediction,
    check_task,
    labeling_config,
    read_config,
)
from clip_transforms.review.report_format import number

MOST_BYTES = 32 << 20  # of one file


def task_documents(
    items: Sequence[Item],
    urls: Sequence[str],
    prompts: PromptSet,
    *,
    queue: str,
    export: str,
    shard_size: int,
    lines: bool,
) -> list[Document]:
    """The configuration and the tasks of a queue. urls: of the images, as Label Studio opens them.

    export: new for each export, because a storage sync skips names that it knows. lines: JSON lines, for a
    storage; else arrays, for the Import page and the API. Raises RequestError for what the configuration
    does not allow.
    """
    config = labeling_config(prompts)
    rules = read_config(config)
    check_ids([item.image_id for item in items])
    tasks = [_task(item, url, rules.kind, queue) for item, url in zip(items, urls, strict=True)]
    for task in tasks:
        check_task(task, rules)
    shards = _shards(tasks, f"tasks-{queue}-{export}", shard_size=shard_size, lines=lines)
    return [Document(name="label-studio.xml", data=config.encode()), *shards]


def prediction_documents(
    items: Sequence[Item],
    tasks: Mapping[str, Sequence[int]],
    prompts: PromptSet,
    *,
    export: str,
    shard_size: int,
) -> list[Document]:
    """Predictions for tasks that a project has already, as arrays for `POST /api/projects/ID/import/predictions`."""
    rules = read_config(labeling_config(prompts))
    found = []
    for item in items:
        prediction = _prediction(item, rules.kind)
        if prediction is not None:
            check_prediction(prediction, rules, {"image_id": item.image_id})
            found += [{"task": task, **prediction} for task in tasks[item.image_id]]
    return _shards(found, f"predictions-{export}", shard_size=shard_size, lines=False)


def read_tasks(data: bytes, source: str) -> dict[str, list[int]]:
    """From image ids to task ids, of a project's JSON export. Raises RequestError where it is none."""
    try:
        body = json.loads(data)
        found: dict[str, list[int]] = {}
        for task in body:
            image_id = task["data"].get("image_id")
            if image_id is not None:
                found.setdefault(str(image_id), []).append(int(task["id"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(
            f"{source} is no JSON export of Label Studio (an array of tasks with id and data): {error}"
        ) from error
    if not found:
        raise RequestError(f"{source} has no task with an image_id in its data: beamclip's own tasks have it")
    return found


def _task(item: Item, url: str, kind: str, queue: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "image": url,
        "image_id": item.image_id,
        "uri": item.uri,
        "sha256": item.sha256,
        "scores": item.scores,
        "why": item.why,
        "source": f"{item.encoder}, {item.tag}",
        "prompt_set": item.tag,
        "encoder": item.encoder,
        "queue": queue,
        "position": item.position,
        "selection_reason": item.reason,
    }
    if item.shown is not None:
        guesses = "|".join(f"{guess.label} {number(guess.probability)}" for guess in item.guesses)
        data |= {"margin": item.margin, "entropy": item.entropy, "cosine": item.cosine, "top_k": guesses}
        data |= {"selection_prob": item.prob, "shown": list(item.shown)}
    prediction = _prediction(item, kind)
    return {"data": data, "predictions": [prediction] if prediction else []}


def _prediction(item: Item, kind: str) -> dict[str, Any] | None:
    """What the model proposes; without a result where it abstains, so that the task has its place in the order.

    The score is the label's probability, calibrated where there is a calibration; in a multi-label set the
    least distance to a threshold. "Uncertainty sampling" serves the lowest first.
    """
    if item.shown is None or item.probability is None or item.margin is None:
        return None
    score = item.margin if item.several else item.probability
    values: list[Any] = [list(path) for path in item.paths] if kind == "taxonomy" else list(item.shown)
    region = {"from_name": CONTROL, "to_name": OBJECT, "type": kind, "value": {kind: values}}
    return {
        "model_version": f"{item.encoder}@{item.tag}",
        "score": float(score),
        "result": [region] if values else [],
    }


def _shards(rows: Iterable[Mapping[str, Any]], stem: str, *, shard_size: int, lines: bool) -> list[Document]:
    suffix = "jsonl" if lines else "json"
    return [
        Document(name=f"{stem}-{place:05d}.{suffix}", data=_joined(texts, lines=lines))
        for place, texts in enumerate(_cut(rows, shard_size))
    ]


def _cut(rows: Iterable[Mapping[str, Any]], most: int) -> Iterator[list[bytes]]:
    texts: list[bytes] = []
    size = 0
    for row in rows:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        if texts and (len(texts) == most or size + len(text) > MOST_BYTES):
            yield texts
            texts, size = [], 0
        texts.append(text)
        size += len(text)
    if texts:
        yield texts


def _joined(texts: list[bytes], *, lines: bool) -> bytes:
    return b"\n".join(texts) + b"\n" if lines else b"[\n" + b",\n".join(texts) + b"\n]\n"
