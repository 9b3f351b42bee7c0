"""The rows of `duplicates.parquet`: image ids that more than one input has."""

from __future__ import annotations

import pyarrow as pa

DUPLICATES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),  # rows with this id, embedded and failed
        pa.field("uris", pa.list_(pa.field("element", pa.string())), nullable=False),  # at most 10, sorted
    ]
)
