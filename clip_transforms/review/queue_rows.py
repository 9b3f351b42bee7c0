"""From the places of chosen rows to the rows of a queue, and the queue's id."""

from __future__ import annotations

import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_transforms.fingerprint import canonical_hash
from clip_transforms.joined import Block, list_blocks, read_embeddings, read_view
from clip_transforms.labelled import LabelledRun
from clip_transforms.review.pictures import were_redone
from clip_transforms.review.queues import QueueFacts
from clip_transforms.views import label_view
from schemas.labels import LABELS
from schemas.queues import QUEUE

#: A chosen row, in the order of the queue: where it is, and how it came in. cluster: -1 for none.
Chosen = np.dtype(
    [("block", "i4"), ("row", "i4"), ("key", "f8"), ("audit", "?"), ("prob", "f8"), ("cluster", "i4")]
)
SIZES = ("width", "height", "format")
_OF_IMAGES = ("sha256", *SIZES)
_SHOWN = tuple(
    name for name in QUEUE.names if name in LABELS.names and name not in ("image_id", "uri", "created_at")
)


def queue_table(
    run: LabelledRun, chosen: npt.NDArray[np.void], facts: QueueFacts
) -> tuple[str, pa.Table, pa.Table]:
    """(queue id, rows of QUEUE, width, height and format of each) for chosen rows, in their order.

    The id comes from the rows' ids and fingerprints, the seed, and what is blind: the same choice made twice
    is the same queue. Reads each part that has a chosen row once; memory: one part's labels, and the queue.
    """
    found = read_rows(run, chosen)
    count = len(chosen)
    name = _id(found, chosen, facts, again=were_redone(run.source))
    blind = chosen["audit"] & facts.blind
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "queue": pa.array([name] * count, pa.string()),
        "position": pa.array(np.arange(count), pa.int64()),
        "selection_reason": pa.array(np.where(chosen["audit"], "audit", "margin").tolist(), pa.string()),
        "selection_prob": pa.array(chosen["prob"]),
        "audit": pa.array(chosen["audit"]),
        "audit_prob": pa.array(np.full(count, facts.audit_prob), mask=~chosen["audit"]),
        "blind": pa.array(blind),
        "cluster": pa.array(chosen["cluster"], mask=chosen["cluster"] < 0),
        "created_at": pa.array(
            [datetime.datetime.now(datetime.timezone.utc)] * count, pa.timestamp("us", "UTC")
        ),
    }
    arrays = [columns[field] if field in columns else found[field] for field in QUEUE.names]
    rows = pa.table(arrays, names=QUEUE.names).cast(QUEUE)
    return name, rows.combine_chunks(), found.select(SIZES)


def _id(found: pa.Table, chosen: npt.NDArray[np.void], facts: QueueFacts, *, again: bool) -> str:
    """again: inputs of the run were read again, so that the same images may be other pictures."""
    content = {
        "tag": facts.tag,
        "seed": facts.seed,
        "blind": facts.blind,
        "images": [found["image_id"].to_pylist(), found["fingerprint"].to_pylist()],
        "chosen": [chosen["audit"].tolist(), chosen["prob"].tolist()],
        **({} if len(chosen) else {"of": facts.images}),
        **({"pictures": found["sha256"].to_pylist()} if again else {}),
    }
    return f"{facts.set_name}-{canonical_hash(content)[:12]}"


def read_rows(run: LabelledRun, chosen: npt.NDArray[np.void]) -> pa.Table:
    """The label columns of a queue, with image_id, uri and SIZES, of rows at these places, in their order."""
    blocks = list_blocks(run.source, [(label_view(run.tag), run.store)])
    order = np.lexsort((chosen["row"], chosen["block"]))
    tables = []
    for place in np.unique(chosen["block"]).tolist():
        rows = chosen["row"][order][chosen["block"][order] == place]
        tables.append(_rows_of(run, blocks[place], pa.array(rows, pa.int64())))
    if not tables:
        fields = [field for field in QUEUE if field.name in ("image_id", "uri", "sha256", *_SHOWN)]
        sizes = [("width", pa.int32()), ("height", pa.int32()), ("format", pa.string())]
        return pa.schema([*fields, *sizes]).empty_table()
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(tables).take(pa.array(back)).combine_chunks()


def _rows_of(run: LabelledRun, block: Block, rows: pa.Array) -> pa.Table:
    images = read_embeddings(run.source, block, _OF_IMAGES)
    table = read_view(run.store, block.views[0], _SHOWN, beside=images).take(rows)
    for name in _OF_IMAGES:
        table = table.append_column(name, images[name].take(rows))
    for place, field in enumerate(table.schema):  # each part has its own dictionary
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(pa.string()))
    return table
