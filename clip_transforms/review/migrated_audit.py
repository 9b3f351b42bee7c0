"""The audits of one label set as audits of another: the same random images, with the new labels.

Answers that a map decides come over as reviews; those that it does not are missing. Without the audit's own list of
images nobody could tell, and what is left would pass for a random sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.live import live_parts
from clip_transforms.review.queues import FOLDER, create_queue, queue_names, read_queue
from clip_transforms.review.report_data import iter_batches
from clip_transforms.storage import Store
from schemas.labels import LABELS
from schemas.queues import QUEUE

_OF_LABELS = [name for name in QUEUE.names if name in LABELS.names and name not in ("created_at",)]


def carry_audits(store: Store, old_name: str, new_tag: str, *, now: datetime) -> int:
    """Write a queue of the new set for each of the old set's that has an audit; the images in them.

    Only audit rows come over, in their order; whether they were blind, and how they were drawn (with the facts in the
    footer), stays. A queue that is there is left alone. Nothing is done where both sets have one name: they have the
    same queues. Memory: the audits.
    """
    new_name = new_tag.partition("@")[0]
    if new_name == old_name:
        return 0
    audits = list(_audits(store, old_name))
    labels = _labels(store, new_tag, {row["image_id"] for _, _, rows in audits for row in rows})
    carried = 0
    for queue, told, rows in audits:
        name = f"{new_name}-from-{queue}"
        kept = [row | labels[row["image_id"]] for row in rows if row["image_id"] in labels]
        made = [
            row | {"queue": name, "position": place, "cluster": None, "created_at": now}
            for place, row in enumerate(kept)
        ]
        facts = told | {"set_name": new_name, "tag": new_tag} if told else {}
        create_queue(store, name, pa.Table.from_pylist(made, schema=QUEUE), facts)
        carried += len(made)
    return carried


def _audits(store: Store, set_name: str) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """(queue, the facts in its footer, audit rows) of the queues of a set that have any."""
    for name in queue_names(store):
        table, facts = read_queue(store, name)
        mine = pc.starts_with(table["prompt_set"].cast(pa.string()), f"{set_name}@")
        found = table.filter(pc.and_(mine, table["audit"]))
        if found.num_rows:
            yield name[len(FOLDER) + 1 : -len(".parquet")], facts, found.to_pylist()


def _labels(store: Store, tag: str, ids: set[str]) -> dict[str, dict[str, Any]]:
    """The label rows of these images, as far as a queue has their columns."""
    if not ids:
        return {}
    wanted = pa.array(sorted(ids), pa.string())
    parts = [part.name for part in live_parts(store).get(f"labels/{tag}", ())]
    found: dict[str, dict[str, Any]] = {}
    for batch in iter_batches(store, parts, _OF_LABELS):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=wanted)).to_pylist():
            found.setdefault(row["image_id"], row)
    return found
