"""The data files of an inventory report: Parquet, and CSV gzipped or not, as rows with their columns' names."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.elements import BeamclipError, RequestError
from clip_transforms.sources.columns import listed
from clip_transforms.sources.inventory import Fields, Report, ReportFile, find_fields, is_known
from clip_transforms.sources.opening import InputStream, open_input, refusal
from clip_transforms.sources.options import SourceOptions
from clip_transforms.sources.records import Lines, csv_records
from clip_transforms.sources.urls import canonical_uri

_BATCH = 8192  # rows of a Parquet file that are Python objects at a time
_GZIP = b"\x1f\x8b"

Values = Mapping[str, object]


class Table:
    """One file of a report: its columns, and its rows one by one; a text is why a row has no values."""

    def __init__(
        self, names: Sequence[str], rows: Iterator[Values | str], *, where: str, stream: InputStream
    ) -> None:
        fields = find_fields(names)
        if fields is None:
            raise RequestError(
                f"{where} has no columns with bucket and key, or bucket and name; it has {listed(names)}"
            )
        self.fields: Fields = fields
        self.names = names
        self.rows = rows
        self.where = where
        self._stream = stream

    def __enter__(self) -> Table:
        """Use as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._stream.close()


def open_table(file: ReportFile, report: Report, options: SourceOptions) -> Table:
    """Open one file and read its columns; RequestError where that cannot be done."""
    where = report.where if len(report.files) == 1 else f"--input {canonical_uri(file.url)}"
    try:
        stream = open_input(file.url, options.storage_options, sequential=report.style == "csv")
    except Exception as error:
        raise refusal(file.url, error) from error
    if file.size is not None and stream.size is not None and stream.size != file.size:
        stream.close()
        raise RequestError(
            f"{where}: the report's file {canonical_uri(file.url)} has {stream.size:,} bytes, its manifest says "
            f"{file.size:,}"
        )
    try:
        with _refused(file.url):
            if report.style == "parquet":
                table = pq.ParquetFile(stream, pre_buffer=False)
                names, rows = table.schema_arrow.names, _parquet_rows(table, options, file.url)
                return Table(names, rows, where=where, stream=stream)
            lines = _unpacked(stream)
            header = report.header or _header(lines, report.delimiter)
            rows = _csv_rows(lines, header, report.delimiter, file.url)
            return Table(header, rows, where=where, stream=stream)
    except BeamclipError:
        stream.close()
        raise


@contextmanager
def _refused(url: str) -> Iterator[None]:
    """Errors of a file that is no table, or of its store, as ours."""
    try:
        yield
    except (BeamclipError, GeneratorExit):
        raise
    except (pa.ArrowException, EOFError, gzip.BadGzipFile) as error:
        why = f"it is cut short or damaged: {error}"
        raise RequestError(f"--input {canonical_uri(url)} cannot be read: {why}") from error
    except Exception as error:
        raise refusal(url, error) from error


def _parquet_rows(table: pq.ParquetFile, options: SourceOptions, url: str) -> Iterator[Values | str]:
    fields = find_fields(table.schema_arrow.names)
    needed = (
        {fields.bucket, fields.key, fields.size, fields.version, fields.latest, fields.deleted}
        if fields
        else set()
    )
    asked = {options.id_column, options.caption_column, *(name for name, _ in options.carry)}
    names = [name for name in table.schema_arrow.names if name in needed | asked or not is_known(name)]
    with _refused(url):
        for batch in table.iter_batches(_BATCH, columns=names, use_threads=False):
            yield from batch.to_pylist()


def _csv_rows(lines: Lines, header: Sequence[str], delimiter: str, url: str) -> Iterator[Values | str]:
    with _refused(url):
        for record in csv_records(lines, delimiter=delimiter):
            if record.problem or len(record.cells) > len(header):
                yield record.problem or "has more cells than columns"
            else:
                yield dict(zip(header, record.cells, strict=False))


def _header(lines: Lines, delimiter: str) -> tuple[str, ...]:
    record = next(csv_records(lines, delimiter=delimiter), None)
    return tuple(cell.strip() for cell in record.cells) if record else ()


def _unpacked(stream: InputStream) -> Lines:
    """The lines of a file, gzipped or not."""
    ahead = io.BufferedReader(cast(io.RawIOBase, _Raw(stream)), 2**18)
    packed = ahead.peek(2)[:2] == _GZIP
    return Lines(gzip.GzipFile(fileobj=cast(BinaryIO, ahead)) if packed else ahead)


class _Raw(io.RawIOBase):
    """An input as Python's own buffered reader wants it: read only, with a peek."""

    def __init__(self, stream: InputStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)
