"""The rows of `reviews/part-*.parquet`: one per answer that one reviewer gave to one image of one prompt set."""

from __future__ import annotations

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())
_WORDS = pa.list_(pa.field("element", pa.string()))

REVIEWS = pa.schema(
    [
        pa.field(
            "review_id", pa.string(), nullable=False
        ),  # the same for the same answer, however often imported
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("sha256", pa.string()),  # of the picture that the answer is to; null: not known
        pa.field("set_name", _DICT, nullable=False),  # `<set>`
        pa.field(
            "prompt_set", _DICT
        ),  # `<set>@<hash8>` of the labels that were shown; null where it is not known
        pa.field("labels", _WORDS, nullable=False),  # single: exactly one, `__none__` too; multi: any number
        pa.field("reviewer", _DICT, nullable=False),
        pa.field("reviewed_at", pa.timestamp("us", tz="UTC")),
        pa.field("lead_time", pa.float32()),  # seconds
        pa.field("shown", _WORDS),  # the labels that the reviewer was shown; null: none (blind), or not known
        pa.field("agreed", pa.bool_()),  # whether the answer is what was shown; null where nothing was
        pa.field("queue", _DICT),  # the queue that the image was in; null: none that this run knows
        pa.field("selection_reason", _DICT),  # audit, margin; null without a queue
        pa.field("selection_prob", pa.float64()),  # of being in the queue at all
        pa.field("audit", pa.bool_(), nullable=False),  # of a uniform random sample of all labelled images
        pa.field("source", _DICT, nullable=False),  # label-studio, cvat, csv, report, migrated
        pa.field("comment", pa.string()),
        pa.field("imported_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
