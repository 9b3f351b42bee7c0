"""Text tables row by row, with the byte at which each row begins: CSV, JSON lines, and plain lists."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

#: A line longer than this is cut; it is no row of a manifest.
MAX_LINE_BYTES = 64 * 2**20
_UTF8_MARK = b"\xef\xbb\xbf"


class LineStream(Protocol):
    """What rows are read from."""

    def readline(self, limit: int = -1) -> bytes:
        """The next line with its line end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row: its values, or why it has none."""

    offset: int  # the byte at which the row begins
    line: int  # of the file, from 1
    cells: tuple[str, ...] = ()  # CSV and lists
    values: Mapping[str, object] | None = None  # JSON lines
    problem: str | None = None


class Lines:
    """The lines of a UTF-8 stream with their offsets; bad bytes become surrogates. Can be given back."""

    def __init__(self, stream: LineStream, *, offset: int = 0) -> None:
        self._stream = stream
        self._back: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self.offset = offset  # of the next line
        self.number = 0  # lines read

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else self._stream.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        at_start = self.offset == 0
        self.offset += len(line)
        self.number += 1
        self._taken.append(line)
        if at_start:
            line = line.removeprefix(_UTF8_MARK)
        return line.decode("utf-8", "surrogateescape")

    def begin(self) -> tuple[int, int]:
        """Mark the start of a row; returns its offset and line number."""
        self._taken.clear()
        return self.offset, self.number + 1

    def give_back_all_but_first(self) -> None:
        """Make the lines since `begin`, but for the first, the next to be read."""
        for line in reversed(self._taken[1:]):
            self._back.appendleft(line)
            self.offset -= len(line)
            self.number -= 1
        del self._taken[1:]


def csv_records(lines: Lines, *, delimiter: str) -> Iterator[Record]:
    """The rows of a CSV file; quoted cells may hold line ends; blank lines are skipped.

    A row that is no CSV gives a record with a problem, and reading goes on at the next line of the file, so
    that a quote that is never closed does not swallow the rows after it.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        offset, number = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_back_all_but_first()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            yield Record(offset=offset, line=number, problem=f"is not CSV: {error}")
            continue
        if cells:
            yield Record(offset=offset, line=number, cells=tuple(cells))


def json_records(lines: Lines) -> Iterator[Record]:
    """The rows of a JSON-lines file: one object a line; blank lines are skipped."""
    while True:
        offset, number = lines.begin()
        text = next(lines, None)
        if text is None:
            return
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "a value that is too large"
            yield Record(offset=offset, line=number, problem=f"is not JSON: {why}")
            continue
        if isinstance(value, dict):
            yield Record(offset=offset, line=number, values=value)
        else:
            yield Record(offset=offset, line=number, problem="is not a JSON object")


def list_records(lines: Lines) -> Iterator[Record]:
    """The lines of a list, without line ends; blank lines are skipped, nothing is a comment."""
    while True:
        offset, number = lines.begin()
        text = next(lines, None)
        if text is None:
            return
        if text.strip():
            yield Record(offset=offset, line=number, cells=(text.rstrip("\r\n"),))
