"""The rows of `plan/<extension>/units-*.parquet`: what each work unit reads."""

from __future__ import annotations

import pyarrow as pa

#: One row a reference (kind `refs`), or one row a unit (kinds `tar`, `parquet`).
PLAN = pa.schema(
    [
        pa.field("unit", pa.int32(), nullable=False),  # number of the unit within its extension
        pa.field("kind", pa.dictionary(pa.int8(), pa.string()), nullable=False),  # elements.UnitKind
        pa.field("uri", pa.string(), nullable=False),  # canonical: no userinfo, no signing parameters
        pa.field("image_id", pa.string()),  # the input's own id; null: the hash of uri
        pa.field("size", pa.int64()),  # bytes, of the image, shard or Parquet file
        pa.field("version", pa.string()),  # etag, generation or mtime: what changes when the object does
        pa.field("rows", pa.int64()),  # images behind this row: 1, a Parquet slice's rows, null for a tar
        pa.field("row_groups", pa.list_(pa.int32())),  # kind parquet only
        pa.field("max_rows", pa.int64()),  # `--limit` inside a tar or Parquet slice
        pa.field("caption", pa.string()),
        pa.field("extra", pa.string()),  # JSON object of the manifest's further columns
        pa.field("pointer_file", pa.string()),  # the manifest that holds the url, where it must not be copied
        pa.field(
            "pointer_offset", pa.int64()
        ),  # the byte at which that row begins; parquet: the first row's number
        pa.field("problem_reason", pa.string()),  # found while listing (`bad_name`); becomes a failure row
        pa.field("problem_message", pa.string()),
    ]
)
