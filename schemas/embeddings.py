"""The rows of `embeddings/part-*.parquet`: one per image that was embedded."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())


def embeddings_schema(
    dim: int, *, dtype: str = "float32", carry: Sequence[tuple[str, pa.DataType]] = ()
) -> pa.Schema:
    """Schema of a run whose encoder has `dim` dimensions.

    dtype: "float32" or "float16" (Spark cannot read Parquet's float16).
    carry: (input column, Arrow type) pairs; each becomes a column `src_<name>`.

    >>> embeddings_schema(4).field("embedding").type
    FixedSizeListType(fixed_size_list<element: float>[4])
    """
    value = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.field("element", value), dim), nullable=False),  # L2-normalised
            pa.field("width", pa.int32(), nullable=False),  # pixels, after EXIF orientation
            pa.field("height", pa.int32(), nullable=False),
            pa.field("format", _DICT, nullable=False),  # Pillow's name, e.g. JPEG
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),  # hex, of the encoded bytes
            pa.field("phash", pa.string(), nullable=False),  # 64-bit perceptual hash, 16 hex digits
            pa.field("caption", pa.string()),
            pa.field("extra", pa.string()),  # JSON object
            *(pa.field(f"src_{name}", kind) for name, kind in carry),
            pa.field("fingerprint", _DICT, nullable=False),
            pa.field("encoder", _DICT, nullable=False),
            pa.field("run_id", _DICT, nullable=False),
            pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ]
    )
