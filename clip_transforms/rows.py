"""Embedded batches and failures as Arrow rows, and the sink that gathers those of one unit into parts."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from clip_transforms.config import RunConfig
from clip_transforms.elements import Failure, ImageInfo
from clip_transforms.encoders import Float32
from clip_transforms.engine import EncodedBatch
from clip_transforms.sink import Part, PartWriter
from clip_transforms.sources import is_lost_shard
from clip_transforms.storage import Store
from schemas.embeddings import embeddings_schema
from schemas.failures import FAILURES

EMBEDDINGS = "embeddings"
FAILED = "failures"


def footer(config: RunConfig) -> dict[str, str]:
    """What the footer of every part says of the run."""
    return {
        "fingerprint": config.fingerprint,
        "encoder": config.encoder_name,
        "run_id": config.run_id,
    }


def run_schema(config: RunConfig) -> pa.Schema:
    """The schema of the run's embeddings."""
    return embeddings_schema(config.dim, dtype=config.embedding_dtype, carry=config.sources.carry_types())


def embedding_rows(batch: EncodedBatch, config: RunConfig, *, created_at: datetime.datetime) -> pa.Table:
    """One row an image; the vectors go from the array to Arrow without becoming Python lists."""
    schema = run_schema(config)
    rows = len(batch.refs)
    carried = [
        pa.array([ref.carry[position] for ref in batch.refs], kind)
        for position, (_, kind) in enumerate(config.sources.carry_types())
    ]
    columns = [
        pa.array([ref.image_id for ref in batch.refs], pa.string()),
        pa.array([ref.uri for ref in batch.refs], pa.string()),
        _vectors(batch.embeddings, config),
        *_info_columns(batch.infos, schema),
        pa.array([ref.caption for ref in batch.refs], pa.string()),
        pa.array([ref.extra for ref in batch.refs], pa.string()),
        *carried,
        *(constant(value, rows) for value in (config.fingerprint, config.encoder_name, config.run_id)),
        pa.array([created_at] * rows, schema.field("created_at").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def failure_rows(failures: Sequence[Failure], *, run_id: str) -> pa.Table:
    """One row an input that failed."""
    columns = {
        "image_id": [failure.image_id for failure in failures],
        "uri": [failure.uri for failure in failures],
        "stage": [failure.stage.value for failure in failures],
        "reason": [failure.reason.value for failure in failures],
        "message": [failure.message for failure in failures],
        "attempts": [failure.attempts for failure in failures],
        "run_id": [run_id] * len(failures),
    }
    return pa.Table.from_pydict(columns, schema=FAILURES)


def constant(value: str, rows: int) -> pa.DictionaryArray:
    """A dictionary-encoded column of one value.

    >>> constant("a", 2).to_pylist()
    ['a', 'a']
    """
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))


def _vectors(embeddings: Float32, config: RunConfig) -> pa.FixedSizeListArray:
    kind = run_schema(config).field("embedding").type
    dtype = np.dtype(config.embedding_dtype)
    flat = np.ascontiguousarray(embeddings, dtype=dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), type=kind)


def _info_columns(infos: Sequence[ImageInfo], schema: pa.Schema) -> list[pa.Array]:
    names = ("width", "height", "format", "bytes", "sha256", "phash")
    return [pa.array([getattr(info, name) for info in infos], schema.field(name).type) for name in names]


@dataclass(slots=True, kw_only=True)
class UnitRows:
    """The sink of one unit's attempt (an engine's UnitSink): parts of embeddings and of failures."""

    store: Store
    config: RunConfig
    stem: str  # part-<unit>-<task>-<attempt>
    tries_before: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # of (image_id, uri), by earlier tasks
    embedded_rows: int = 0
    failed_rows: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    by_stage_and_reason: Counter[str] = field(default_factory=Counter)
    example: str = ""  # of a failure
    lost_shards: list[str] = field(default_factory=list)
    _writers: dict[str, PartWriter] = field(default_factory=dict)
    _failures: list[Failure] = field(default_factory=list)

    def embedded(self, batch: EncodedBatch) -> None:
        """Take embedded images."""
        now = datetime.datetime.now(datetime.timezone.utc)
        self._writer(EMBEDDINGS).write(embedding_rows(batch, self.config, created_at=now))
        self.embedded_rows += len(batch.refs)

    def failed(self, failure: Failure) -> None:
        """Take one input that failed."""
        self._failures.append(failure)
        self.failed_rows += 1
        self.by_reason[failure.reason.value] += 1
        self.by_stage_and_reason[f"{failure.stage.value}_{failure.reason.value}"] += 1
        self.example = self.example or f"{failure.uri}: {failure.message}"
        if is_lost_shard(failure):
            self.lost_shards.append(failure.uri)
        if len(self._failures) >= 4096:
            self._flush_failures()

    def close(self) -> dict[str, tuple[Part, ...]]:
        """Send what is left; the parts by folder."""
        self._flush_failures()
        return {folder: writer.close() for folder, writer in self._writers.items()}

    def _flush_failures(self) -> None:
        if not self._failures:
            return
        counted = [self._counted(failure) for failure in self._failures]
        self._writer(FAILED).write(failure_rows(counted, run_id=self.config.run_id))
        self._failures = []

    def _counted(self, failure: Failure) -> Failure:
        before = self.tries_before.get((failure.image_id, failure.uri), 0)
        if not before:
            return failure
        return replace(failure, attempts=failure.attempts + before)

    def _writer(self, folder: str) -> PartWriter:
        if folder not in self._writers:
            schema = run_schema(self.config) if folder == EMBEDDINGS else FAILURES
            self._writers[folder] = PartWriter(
                self.store, folder=folder, schema=schema, stem=self.stem, metadata=footer(self.config)
            )
        return self._writers[folder]
