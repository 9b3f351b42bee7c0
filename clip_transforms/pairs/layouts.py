"""Kept pairs in the layout of clip-retrieval: half-precision vectors of images and texts beside their metadata.

Source: clip-retrieval's `clip_inference`: `img_emb/img_emb_<n>.npy`, `text_emb/text_emb_<n>.npy` and
`metadata/metadata_<n>.parquet`, row for row; a part without rows is left out there too.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.joined import vectors_of
from clip_transforms.pairs.chunks import Chunk, read_chunk
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.pairs.rows import Int64
from clip_transforms.views import PAIRS

FOLDER = "clip-retrieval"


def write_clip_retrieval(config: SelectConfig, chunk: Chunk, table: pa.Table) -> list[str]:
    """Write what is kept of a chunk; the names of the objects, none where nothing is kept.

    table: the chunk's rows of pairs/. Memory: the vectors of one embedding part, and the kept ones in float16.
    """
    kept = np.flatnonzero(table.column("kept").to_numpy()).astype(np.int64)
    if not len(kept):
        return []
    images, texts = _vectors(config, chunk, kept)
    metadata = table.take(pa.array(kept)).drop_columns(["kept", "drop_reason", "duplicate_of"])
    metadata = metadata.rename_columns(
        ["image_path" if name == "uri" else name for name in metadata.column_names]
    )
    found = {
        f"img_emb/img_emb_{chunk.number:06d}.npy": _npy(images),
        f"text_emb/text_emb_{chunk.number:06d}.npy": _npy(texts),
        f"metadata/metadata_{chunk.number:06d}.parquet": _parquet(metadata),
    }
    store = config.store()
    names = []
    for name, data in found.items():
        store.write(f"{FOLDER}/{name}", data)
        names.append(f"{FOLDER}/{name}")
    return names


def _vectors(
    config: SelectConfig, chunk: Chunk, kept: Int64
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """The kept rows' vectors of images and of texts, a block at a time."""
    images, texts = [], []
    first = 0
    for block in chunk.blocks:
        mine = kept[(kept >= first) & (kept < first + block.embeddings.rows)] - first
        first += block.embeddings.rows
        if not len(mine):
            continue
        names = {"text_embedding": "text_embedding"}
        table = read_chunk(config, replace(chunk, blocks=(block,)), ["embedding"], {PAIRS: names})
        table = table.take(pa.array(mine))
        images.append(vectors_of(table.column("embedding")).astype(np.float16))
        texts.append(vectors_of(table.column("text_embedding")).astype(np.float16))
    return np.concatenate(images), np.concatenate(texts)


def _npy(vectors: npt.NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
