"""The rows of `queues/<queue>.parquet`: images that were chosen for review, in the order of the work."""

from __future__ import annotations

import pyarrow as pa

from schemas.labels import LABELS

_DICT = pa.dictionary(pa.int32(), pa.string())

QUEUE = pa.schema(
    [
        pa.field("queue", _DICT, nullable=False),
        pa.field("position", pa.int64(), nullable=False),  # from 0: audit slots are spread among the others
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),  # of the picture
        *(
            LABELS.field(name)
            for name in (
                "label",
                "labels",
                "path",
                "score",
                "calibrated",
                "cosine",
                "margin",
                "entropy",
                "top_k",
                "decision",
                "decision_reason",
                "prompt_set",
                "fingerprint",
                "encoder",
            )
        ),
        pa.field("selection_reason", _DICT, nullable=False),  # audit, margin
        pa.field("selection_prob", pa.float64(), nullable=False),  # of being in the queue at all
        pa.field("audit", pa.bool_(), nullable=False),  # drawn uniformly from all labelled images
        pa.field("audit_prob", pa.float64()),  # of an audit row: slots / images
        pa.field("blind", pa.bool_(), nullable=False),  # no prediction is to be shown
        pa.field("cluster", pa.int32()),  # of embeddings; null where the margin queue had none
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
