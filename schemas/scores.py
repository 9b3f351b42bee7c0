"""The rows of `scores/part-*.parquet`: one per embedded image of a run that holds images against captions."""

from __future__ import annotations

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())


#: Columns of a run's scores. Vectors are lists of any length, not of a fixed one: pyarrow cannot read a null of those.
SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field(
            "text_embedding", pa.list_(pa.field("element", pa.float32()))
        ),  # L2-normalised; null without caption
        pa.field("similarity", pa.float32()),  # cosine of image and caption; null without a caption
        pa.field("text_truncated", pa.bool_(), nullable=False),  # longer than the encoder's context
        pa.field("fingerprint", _DICT, nullable=False),
        pa.field("encoder", _DICT, nullable=False),
        pa.field("run_id", _DICT, nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
