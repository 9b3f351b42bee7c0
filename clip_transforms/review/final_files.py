"""The tables of a finished data set: rows collected into Parquet and CSV files of bounded size, created once."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clip_transforms.elements import RequestError
from clip_transforms.review.answer_tables import SEPARATOR
from clip_transforms.storage import Store

PARQUET_ROWS = 65_536
CSV_ROWS = 262_144


class Sink(Protocol):
    """Takes tables of rows one after the other."""

    def add(self, rows: pa.Table) -> None:
        """More rows."""
        ...

    def close(self) -> tuple[str, ...]:
        """Write what is left; the names of the files."""
        ...


class RollingFiles:
    """Rows in files `<stem>-00000<suffix>` of at most `rows` rows each; at most one is in memory.

    A file of that name must not be there: RequestError. Where `always` is set, no rows make one file with none.
    """

    def __init__(
        self,
        store: Store,
        *,
        stem: str,
        suffix: str,
        rows: int,
        encode: Callable[[pa.Table], bytes],
        schema: pa.Schema,
        always: bool = True,
    ) -> None:
        self._store = store
        self._stem, self._suffix = stem, suffix
        self._rows = rows
        self._encode = encode
        self._schema = schema
        self._always = always
        self._waiting: list[pa.Table] = []
        self._held = 0
        self._names: list[str] = []

    def add(self, rows: pa.Table) -> None:
        """More rows."""
        while rows.num_rows:
            taken = rows.slice(0, self._rows - self._held)
            self._waiting.append(taken)
            self._held += taken.num_rows
            rows = rows.slice(taken.num_rows)
            if self._held >= self._rows:
                self._send()

    def close(self) -> tuple[str, ...]:
        """Write what is left; the names of the files."""
        if self._held or (self._always and not self._names):
            self._send()
        return tuple(self._names)

    def _send(self) -> None:
        name = f"{self._stem}-{len(self._names):05d}{self._suffix}"
        table = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        self._waiting, self._held = [], 0
        create(self._store, name, self._encode(table))
        self._names.append(name)


def parquet_files(store: Store, *, stem: str, schema: pa.Schema) -> RollingFiles:
    """Parquet, zstd."""
    return RollingFiles(
        store, stem=stem, suffix=".parquet", rows=PARQUET_ROWS, encode=as_parquet, schema=schema
    )


def csv_files(store: Store, *, stem: str, schema: pa.Schema, always: bool = True) -> RollingFiles:
    """CSV, UTF-8; several labels in a cell are joined by |."""
    return RollingFiles(
        store, stem=stem, suffix=".csv", rows=CSV_ROWS, encode=as_csv, schema=schema, always=always
    )


def as_parquet(table: pa.Table) -> bytes:
    """One Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def as_csv(table: pa.Table) -> bytes:
    """One CSV file with a header.

    >>> as_csv(pa.table({"a": ['x"y', None], "b": [["c", "d"], []]})).decode().splitlines()
    ['"a","b"', '"x""y","c|d"', ',""']
    """
    columns = []
    for column in table.columns:
        if pa.types.is_list(column.type):
            column = pc.binary_join(column, SEPARATOR)
        elif pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        columns.append(column)
    buffer = io.BytesIO()
    pa_csv.write_csv(pa.table(columns, names=table.column_names), buffer)
    return buffer.getvalue()


def create(store: Store, name: str, data: bytes) -> None:
    """Write an object that must not be there yet; an answer to a put that was lost is no other writer."""
    if not store.create(name, data) and store.read(name) != data:
        raise RequestError(f"{store.join(name)} is there already: another command writes to {store.root}")
