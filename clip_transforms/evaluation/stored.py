"""The stored embeddings of a run, batch by batch with their truths, and its failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from clip_transforms.commits import EMBEDDINGS, FAILURES
from clip_transforms.elements import Reason, RequestError
from clip_transforms.evaluation.split import Keys
from clip_transforms.evaluation.truth import FOLDER, Truth, TruthSource, folder_of
from clip_transforms.joined import vectors_of
from clip_transforms.live import live_parts
from clip_transforms.probabilities import Float32
from clip_transforms.storage import Store

_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedRows:
    """Some images: embeddings [N, D], their truths, and keys [N] that equal images have in common."""

    embeddings: Float32
    truths: list[Truth]
    keys: Keys


class StoredEmbeddings:
    """The embeddings of a complete run, by commits. Each pass gives the same rows in the same order.

    Raises RequestError where the run has none.
    """

    def __init__(self, store: Store, source: TruthSource) -> None:
        self.source = source
        self._store = store
        parts = live_parts(store)
        self._parts = parts.get(EMBEDDINGS, ())
        self._failures = parts.get(FAILURES, ())
        self.rows = sum(part.rows for part in self._parts)
        if not self.rows:
            raise RequestError(f"{store.root} has no embedded image: there is nothing to evaluate")

    def batches(self) -> Iterator[EmbeddedRows]:
        """All rows, a few thousand at a time."""
        for part in self._parts:
            with self._store.open(part.name) as handle:
                file = pq.ParquetFile(handle)
                columns = ["embedding", "sha256", *self.source.columns(file.schema_arrow)]
                for rows in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    hashes = rows.column("sha256").to_pylist()
                    yield EmbeddedRows(
                        embeddings=vectors_of(rows.column("embedding")),
                        truths=self.source.of_rows(rows),
                        keys=np.fromiter((int(text[:16], 16) for text in hashes), np.uint64, len(hashes)),
                    )

    def vectors(self) -> Iterator[Float32]:
        """The embeddings alone, in the same order and the same batches."""
        for part in self._parts:
            with self._store.open(part.name) as handle:
                for rows in pq.ParquetFile(handle).iter_batches(_BATCH_ROWS, columns=["embedding"]):
                    yield vectors_of(rows.column("embedding"))

    def failed(self) -> Iterator[Truth]:
        """The truth of each image that failed: its folder; None where truths are in a column, which a failure
        does not keep. A truncated shard is no image.
        """
        for part in self._failures:
            with self._store.open(part.name) as handle:
                for rows in pq.ParquetFile(handle).iter_batches(_BATCH_ROWS, columns=["uri", "reason"]):
                    for row in rows.to_pylist():
                        if row["reason"] != Reason.TRUNCATED_SHARD.value:
                            yield folder_of(row["uri"]) if self.source.name == FOLDER else None

    def column_names(self) -> set[str]:
        """The columns that truths could be in, as far as the first rows tell; for messages."""
        with self._store.open(self._parts[0].name) as handle:
            file = pq.ParquetFile(handle)
            found = {name[4:] for name in file.schema_arrow.names if name.startswith("src_")}
            for rows in file.iter_batches(batch_size=100, columns=["extra"]):
                for extra in rows.column("extra").to_pylist():
                    found |= set(json.loads(extra)) if extra else set()
                return found
        return found
