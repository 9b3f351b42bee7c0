"""Faiss indexes over the kept pairs' vectors, beside the layout of clip-retrieval: exact search by inner product."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.pairs.layouts import FOLDER
from clip_transforms.storage import Store

#: File -> the folder of its vectors.
INDEXES = {f"{FOLDER}/image.index": "img_emb", f"{FOLDER}/text.index": "text_emb"}


def check_faiss() -> None:
    """Raise RequestError where faiss is not installed."""
    _faiss()


def write_indexes(store: Store, names: Sequence[str]) -> None:
    """Index the vectors in these files, in the order of their names: row n of an index is row n of the metadata.

    names: of the files that `write_clip_retrieval` wrote. Memory: 4 bytes a vector and dimension, twice. Nothing is
    written where nothing is kept.
    """
    faiss = _faiss()
    for name, kind in INDEXES.items():
        index = None
        for part in sorted(part for part in names if part.startswith(f"{FOLDER}/{kind}/")):
            vectors = np.load(io.BytesIO(store.read(part))).astype(np.float32)
            if index is None:
                index = faiss.IndexFlatIP(vectors.shape[1])
            index.add(vectors)
        if index is not None:
            store.write(name, faiss.serialize_index(index).tobytes())


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():  # of its own wrappers
            warnings.simplefilter("ignore")
            import faiss
    except ImportError as error:
        raise RequestError(
            "--write faiss needs faiss: pip install 'beamclip[faiss]', on workers too; or build an index from "
            "--write clip-retrieval with a tool of your own"
        ) from error
    return faiss
