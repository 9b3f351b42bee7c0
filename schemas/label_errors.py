"""The rows of `probes/<set>@<hash8>/label_errors.parquet`: reviews that may be mistaken, the likeliest first."""

from __future__ import annotations

import pyarrow as pa

_WORDS = pa.list_(pa.field("element", pa.string()))

LABEL_ERRORS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("given", _WORDS, nullable=False),  # what people answered
        pa.field("suggested", _WORDS, nullable=False),  # what a fit without this image takes for likelier
        pa.field("score", pa.float64(), nullable=False),  # probability of what was given, out of fold: 0..1
    ]
)
