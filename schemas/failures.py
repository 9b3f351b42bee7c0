"""The rows of `failures/part-*.parquet`: one per input that could not be embedded."""

from __future__ import annotations

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())

FAILURES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", _DICT, nullable=False),  # list, fetch, decode, encode
        pa.field("reason", _DICT, nullable=False),  # elements.Reason
        pa.field("message", pa.string(), nullable=False),  # the same from run to run
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("run_id", _DICT, nullable=False),
    ]
)
