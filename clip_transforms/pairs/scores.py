"""The scores of image-text pairs: a view of stored embeddings, made unit by unit as labels are."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.captions import score_captions
from clip_transforms.config import RunConfig
from clip_transforms.engine import Engine
from clip_transforms.fingerprint import scores_fingerprint
from clip_transforms.joined import vectors_of
from clip_transforms.rows import constant, footer
from clip_transforms.sink import Part, PartWriter
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS
from schemas.scores import SCORES

_BATCH_ROWS = 1024
_MARK = "text/pairs"


def keep_pairs(store: Store) -> None:
    """Note in the run that all its units are to have scores, those that are added later too."""
    store.create(_MARK, json.dumps({"view": PAIRS.task}).encode())


def has_pairs(store: Store) -> bool:
    """Whether the units of the run are to have scores."""
    return store.exists(_MARK)


class PairScorer:
    """Holds the images of embedding parts against their captions (a views.ViewMaker). Safe for several threads.

    engine: called with the first rows, and not before.
    """

    def __init__(self, config: RunConfig, *, engine: Callable[[], Engine]) -> None:
        self._config = config
        self._engine = engine
        self._store = config.store()
        self._embeddings = config.embeddings_store()
        self._lock = threading.Lock()
        self.scored = 0  # rows so far, for a progress bar

    def fingerprint(self) -> str:
        """Of the rows: it depends on the embeddings' alone, for texts are encoded by what encoded the images."""
        return scores_fingerprint(self._config.fingerprint)

    def write(self, sources: Iterable[Part], *, stem: str) -> tuple[Part, ...]:
        """Score the pairs of some embedding parts, row by row in their order; the parts written."""
        config = self._config
        writer = PartWriter(
            self._store, folder=PAIRS.folder, schema=SCORES, stem=stem, metadata=footer(config)
        )
        for part in sources:
            with self._embeddings.open(part.name) as handle:
                columns = ["image_id", "uri", "embedding", "caption"]
                for batch in pq.ParquetFile(handle).iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    writer.write(self._rows(batch))
        return writer.close()

    def _rows(self, batch: pa.RecordBatch) -> pa.Table:
        config, rows = self._config, batch.num_rows
        images = vectors_of(batch.column("embedding"))
        scored = score_captions(batch.column("caption").to_pylist(), images, self._engine().encoder)
        absent = pa.array(~scored.given)
        with self._lock:
            self.scored += rows
        ends = np.cumsum(scored.given, dtype=np.int32) * config.dim
        vectors = pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], ends]).astype(np.int32)),
            pa.array(scored.vectors[scored.given].reshape(-1)),
            type=SCORES.field("text_embedding").type,
            mask=absent,
        )
        now = datetime.datetime.now(datetime.timezone.utc)
        columns = [
            batch.column("image_id"),
            batch.column("uri"),
            vectors,
            pa.array(scored.similarity, mask=~scored.given),
            pa.array(scored.truncated),
            *(constant(value, rows) for value in (self.fingerprint(), config.encoder_name, config.run_id)),
            pa.repeat(pa.scalar(now, SCORES.field("created_at").type), rows),
        ]
        return pa.Table.from_arrays(columns, schema=SCORES)
