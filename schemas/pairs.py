"""The rows of `pairs/part-*.parquet`, one per embedded input of a filter run, and of `kept/`, those that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())


def similarity_column(encoder: str) -> str:
    """The name of the column that holds the cosine of image and caption: letters, digits and `_` alone.

    >>> similarity_column("open_clip:ViT-L-14/openai")
    'similarity_open_clip_ViT_L_14_openai'
    """
    letters = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in encoder)
    return "_".join(["similarity", *letters.split()])


def pairs_schema(encoder: str, *, carry: Sequence[tuple[str, pa.DataType]] = ()) -> pa.Schema:
    """Schema of a filter run. carry: (input column, Arrow type) pairs; each becomes a column `src_<name>`.

    >>> pairs_schema("fake").names[:4]
    ['image_id', 'uri', 'caption', 'similarity_fake']
    """
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("caption", pa.string()),
            pa.field(similarity_column(encoder), pa.float32()),  # null without a caption
            pa.field("text_truncated", pa.bool_(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("drop_reason", _DICT),  # null where kept
            pa.field("duplicate_of", pa.string()),  # image_id of the row that stands for this duplicate
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("format", _DICT, nullable=False),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("phash", pa.string(), nullable=False),
            pa.field("extra", pa.string()),
            *(pa.field(f"src_{name}", kind) for name, kind in carry),
        ]
    )
