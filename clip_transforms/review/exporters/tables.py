"""A queue as CSV, to be filled in and imported again, and as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.elements import RequestError
from clip_transforms.prompts import PromptSet
from clip_transforms.review.answer_tables import ANSWER_COLUMNS, SEPARATOR
from clip_transforms.review.exporters.documents import Document
from clip_transforms.review.exporters.items import Item
from clip_transforms.review.exporters.label_studio_config import check_ids

#: What else the reviewer sees; `review import` does not look at it.
TOLD_COLUMNS = ("scores", "margin", "entropy", "why", "encoder", "queue")
_PREDICTED = ("label", "labels", "path", "score", "calibrated", "cosine", "margin", "entropy", "top_k")
_DECIDED = ("decision", "decision_reason")


def csv_documents(items: Sequence[Item], prompts: PromptSet, *, queue: str) -> list[Document]:
    """`<queue>.csv`, with the answers to be filled in.

    Raises RequestError for a multi-label set whose labels hold the separator, or are the word for none.
    """
    check_ids([item.image_id for item in items])
    if prompts.task == "multi":
        for label in prompts.labels:
            if SEPARATOR in label.id or label.id == "-":
                raise prompts.mistake(
                    f"the label '{label.id}' cannot be told from several labels ({SEPARATOR}) or none (-) in a "
                    "CSV; give it another id, or export to another tool",
                    label=label,
                )
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow((*ANSWER_COLUMNS, *TOLD_COLUMNS))
    for item in items:
        shown = SEPARATOR.join(item.shown or ()) or ("-" if item.several and item.shown == () else "")
        answer = (item.image_id, item.uri, item.tag, shown, *[""] * 5, item.sha256)
        writer.writerow((*answer, item.scores, item.margin, item.entropy, item.why, item.encoder, queue))
    return [Document(name=f"{queue}.csv", data=text.getvalue().encode())]


def parquet_documents(rows: pa.Table, *, queue: str) -> list[Document]:
    """`<queue>.parquet`: the rows of the queue; of blind rows what the model thinks is null."""
    if len(pc.unique(rows["image_id"])) < rows.num_rows:
        raise RequestError("an image id comes twice in the queue")
    blind = rows["blind"]
    for name in (*_PREDICTED, *_DECIDED):
        place = rows.schema.get_field_index(name)
        column = rows[name]
        masked = column.take(pc.if_else(blind, None, pa.array(range(rows.num_rows), pa.int64())))
        rows = rows.set_column(place, pa.field(name, column.type), masked)
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None), buffer, compression="zstd")
    return [Document(name=f"{queue}.parquet", data=buffer.getvalue())]
