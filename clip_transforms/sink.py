"""Parquet parts: built in memory, sent by one put, named after their unit, task and attempt."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.storage import Store
from schemas.version import SCHEMA_VERSION

MAX_ROWS = 65_536
MAX_BYTES = 128 << 20
_GROUP_MIN_ROWS = 4_096
_GROUP_ROWS = 4_096
_GROUP_BYTES = 32 << 20
_PART = re.compile(
    r"part-(?P<unit>[0-9a-f]{8}-[^-/]+-\d+)"
    r"-(?P<task>embed|pairs|labels-[^/]+@[0-9a-f]{8}|retry-\d+|redo-\d+)"
    r"-(?P<attempt>[0-9a-z]+)-\d+\.parquet"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Parquet file of a run."""

    name: str  # below the run's folder, e.g. embeddings/part-...-0.parquet
    rows: int
    bytes: int

    @property
    def folder(self) -> str:
        """The data set it belongs to.

        >>> Part(name="labels/pets@0a1b2c3d/part-x-0.parquet", rows=1, bytes=9).folder
        'labels/pets@0a1b2c3d'
        """
        return self.name.rsplit("/", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOwner:
    """Who wrote a part, as its name says."""

    unit: str
    task: str
    attempt: str


def new_attempt() -> str:
    """A name for one attempt at one task, never used before: 12 hex digits."""
    return uuid.uuid4().hex[:12]


def part_stem(unit: str, *, task: str, attempt: str) -> str:
    """The common beginning of the names of an attempt's parts.

    >>> part_stem("0123abcd-0000-000007", task="embed", attempt="5f3c")
    'part-0123abcd-0000-000007-embed-5f3c'
    """
    return f"part-{unit}-{task}-{attempt}"


def part_owner(name: str) -> PartOwner | None:
    """Unit, task and attempt of a part; None for a name that is no unit's part.

    >>> part_owner("embeddings/part-0123abcd-0000-000007-redo-2-5f3c-0.parquet")
    PartOwner(unit='0123abcd-0000-000007', task='redo-2', attempt='5f3c')
    >>> part_owner("scores/part-0123abcd-0000-000007-pairs-5f3c-0.parquet").task
    'pairs'
    >>> part_owner("pairs/part-0123abcd-000007-0.parquet") is None
    True
    >>> part_owner("reviews/part-anna.parquet") is None
    True
    """
    match = _PART.fullmatch(name.rsplit("/", 1)[-1])
    return PartOwner(unit=match["unit"], task=match["task"], attempt=match["attempt"]) if match else None


class PartWriter:
    """Collects the rows of one attempt for one folder into Parquet parts.

    Parts are `<folder>/<stem>-<n>.parquet`, n from 0, of at most `max_rows` rows and about `max_bytes` bytes;
    zstd, in row groups of 4k to 64k rows (but for the last of a part). The footer holds `metadata` and
    `beamclip.schema_version`. At most one part is in memory, and it is sent when it is full. Not for several
    threads at once. Raises StoreError where a part cannot be sent.
    """

    def __init__(
        self,
        store: Store,
        *,
        folder: str,
        schema: pa.Schema,
        stem: str,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        self._prefix = f"{folder}/{stem}"
        self._schema = schema
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._footer = {"beamclip.schema_version": str(SCHEMA_VERSION), **(metadata or {})}
        self._parts: list[Part] = []
        self._pending: list[pa.Table] = []  # rows not yet in a row group
        self._pending_rows = 0
        self._pending_bytes = 0
        self._rows = 0  # of the open part, with the pending ones
        self._buffer: io.BytesIO | None = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows; ValueError where their schema is not exactly the writer's."""
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if not table.schema.equals(self._schema):
            raise ValueError(f"{self._prefix}: {_difference(self._schema, table.schema)}")
        while table.num_rows:
            take = min(table.num_rows, _GROUP_MIN_ROWS, self._max_rows - self._rows)
            self._append(table.slice(0, take))
            table = table.slice(take)

    def close(self) -> tuple[Part, ...]:
        """Send what is open; all parts in their order, none where no row was written."""
        self._send()
        return tuple(self._parts)

    def discard(self) -> None:
        """Give up: drop what is open and delete what was sent."""
        self._pending, self._pending_rows, self._pending_bytes, self._rows = [], 0, 0, 0
        self._writer = self._buffer = None
        self._store.delete(part.name for part in self._parts)
        self._parts = []

    def _append(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += table.nbytes
        self._rows += table.num_rows
        sent = self._buffer.tell() if self._buffer else 0
        if self._rows >= self._max_rows or sent + self._pending_bytes >= self._max_bytes:
            self._send()
        elif self._pending_rows >= _GROUP_ROWS or (
            self._pending_rows >= _GROUP_MIN_ROWS and self._pending_bytes >= _GROUP_BYTES
        ):
            self._write_group()

    def _write_group(self) -> None:
        if self._writer is None:
            self._buffer = io.BytesIO()
            self._writer = pq.ParquetWriter(self._buffer, self._schema, compression="zstd")
        self._writer.write_table(pa.concat_tables(self._pending), row_group_size=self._pending_rows)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _send(self) -> None:
        if self._pending:
            self._write_group()
        if self._writer is None or self._buffer is None:  # no rows
            return
        self._writer.add_key_value_metadata(self._footer)
        self._writer.close()
        data = self._buffer.getvalue()
        part = Part(name=f"{self._prefix}-{len(self._parts)}.parquet", rows=self._rows, bytes=len(data))
        self._writer = self._buffer = None
        self._rows = 0
        self._parts.append(part)  # before the put: one that fails half way is discarded too
        self._store.write(part.name, data)


def _difference(expected: pa.Schema, given: pa.Schema) -> str:
    return f"rows of another schema: {'; '.join(_differing(expected, given)) or 'fields in another order'}"


def _differing(expected: pa.Schema, given: pa.Schema) -> Iterator[str]:
    for name in dict.fromkeys((*expected.names, *given.names)):
        wanted, found = (schema.field(name) if name in schema.names else None for schema in (expected, given))
        if wanted is None or found is None or wanted != found:
            yield f"expected {wanted or f'no field {name}'}, got {found or f'no field {name}'}"
