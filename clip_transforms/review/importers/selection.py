"""How reviewed images were chosen: what the queues of a run say of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.prompts import Task
from clip_transforms.review.agreement import labels_of
from clip_transforms.review.queues import queue_names
from clip_transforms.review.report_data import iter_batches
from clip_transforms.storage import Store

_COLUMNS = (
    "queue",
    "image_id",
    "label",
    "labels",
    "prompt_set",
    "selection_reason",
    "selection_prob",
    "audit",
    "blind",
    "created_at",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Why one image was in a queue, and what was shown of it there: None where nothing was (blind, or no label)."""

    queue: str
    prompt_set: str
    reason: str
    probability: float
    audit: bool
    shown: tuple[str, ...] | None


def read_selections(store: Store, set_name: str, ids: Collection[str], *, task: Task) -> dict[str, Selection]:
    """By image id, the selection of those of these images that a queue of the set holds.

    An image of several queues: the one in which it was of the audit, else the newest; an image that was drawn for
    an audit once stays of it. Memory: a batch of rows, and what is asked for.
    """
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, tuple[tuple[bool, str], Selection]] = {}
    for batch in _batches(store, set_name):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=wanted)).to_pylist():
            rank = (row["audit"], row["created_at"].isoformat(timespec="microseconds"))
            known = found.get(row["image_id"])
            if known is None or rank > known[0]:
                found[row["image_id"]] = (rank, _selection(row, task))
    return {image_id: selection for image_id, (_, selection) in found.items()}


def audit_ids(store: Store, set_name: str) -> set[str]:
    """The ids of all images that were drawn for an audit of the set; as many as people were to look at."""
    drawn: set[str] = set()
    for batch in _batches(store, set_name):
        drawn.update(batch.filter(batch["audit"])["image_id"].to_pylist())
    return drawn


def _batches(store: Store, set_name: str) -> Iterator[pa.RecordBatch]:
    for batch in iter_batches(store, queue_names(store), _COLUMNS):
        yield batch.filter(pc.starts_with(batch["prompt_set"].cast(pa.string()), f"{set_name}@"))


def _selection(row: dict[str, Any], task: Task) -> Selection:
    shown = None if row["label"] is None and task == "single" else labels_of(row, task)
    return Selection(
        queue=row["queue"],
        prompt_set=row["prompt_set"],
        reason=row["selection_reason"],
        probability=row["selection_prob"],
        audit=row["audit"],
        shown=None if row["blind"] or shown is None else tuple(sorted(shown)),
    )
