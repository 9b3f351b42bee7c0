"""Answers of a review CSV: what the report's page downloads, and what people fill in with a spreadsheet.

Columns: `image_id` or `uri`, `labels` (joined by `|`) or `label`; and, where there are any, `prompt_set`,
`shown`, `reviewer`, `reviewed_at`, `lead_time`, `comment`, `sha256`. Others are passed over.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from clip_transforms.elements import RequestError
from clip_transforms.review.answer_tables import SEPARATOR
from clip_transforms.review.importers.answers import (
    Answer,
    Reason,
    Rejected,
    Unanswered,
    UnfitError,
    Why,
    moment,
    seconds,
)

_LARGEST_CELL = 1 << 24


def read_table(data: bytes, *, name: str) -> Iterator[Answer | Unanswered | Rejected]:
    """The answers of a CSV, UTF-8 (with or without a mark), commas, semicolons or tabs. name: for messages.

    A row with nothing in `labels` is Unanswered. Raises RequestError where columns are missing or come twice.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{name} is not UTF-8 text, on line {line}; save it as UTF-8") from error
    csv.field_size_limit(_LARGEST_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        _check_header(header, name)
        line = rows.line_num
        for row in rows:
            first, line = line + 1, rows.line_num  # a row with line breaks in its cells ends further down
            if any(cell.strip() for cell in row):
                yield _entry(header, row, place=f"{name}, line {first}")
    except csv.Error as error:
        raise RequestError(f"{name} is not sound CSV, on line {rows.line_num}: {error}") from error


def _delimiter(text: str) -> str:
    """What the header is divided by: spreadsheets of some countries write semicolons.

    >>> [_delimiter(text) for text in ("image_id,labels", "image_id;labels", "image_id\\tlabels")]
    [',', ';', '\\t']
    """
    head = text.split("\n", 1)[0]
    return max(",;\t", key=head.count)


def _check_header(header: list[str], name: str) -> None:
    expected = "expected a header with `image_id` or `uri`, and `labels` or `label`"
    if not ({"image_id", "uri"} & set(header) and {"labels", "label"} & set(header)):
        told = ", ".join(cell for cell in header if cell) or "nothing"
        raise RequestError(f"{name}: the first line holds {told}; {expected}")
    twice = next((cell for cell in header if cell and header.count(cell) > 1), None)
    if twice:
        raise RequestError(f"{name}: the column {twice!r} comes twice; {expected}")


def _entry(header: list[str], row: list[str], *, place: str) -> Answer | Unanswered | Rejected:
    cells = dict(zip(header, row, strict=False))
    image = cells.get("image_id", "").strip() or cells.get("uri", "")
    try:
        if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
            mend = "cells with a separator in them stand in quotes"
            raise UnfitError(Reason.BAD_ROW, f"{len(row)} cells under {len(header)} columns; {mend}")
        labels = (cells.get("labels", "").strip() or cells.get("label", "")).strip()
        if not labels:
            return Unanswered(place=place, why=Why.EMPTY)
        if not image:
            raise UnfitError(Reason.BAD_ROW, "neither an image_id nor a uri")
        return _answer(cells, labels, place=place)
    except UnfitError as error:
        given = (cells.get("labels") or cells.get("label") or "").strip()
        reviewer = cells.get("reviewer", "").strip()
        return Rejected(
            place=place,
            reason=error.reason,
            message=str(error),
            image=image,
            labels=given,
            reviewer=reviewer,
        )


def _answer(cells: Mapping[str, str], labels: str, *, place: str) -> Answer:
    def cell(name: str) -> str | None:
        return cells.get(name, "").strip() or None

    when, shown = cell("reviewed_at"), cell("shown")
    return Answer(
        place=place,
        labels=tuple((part,) for part in _parts(labels)),
        cell=labels,
        image_id=cell("image_id"),
        uri=cells.get("uri") or None,
        reviewer=cell("reviewer"),
        reviewed_at=None if when is None else moment(when),
        lead_time=seconds(cell("lead_time")),
        comment=cell("comment"),
        prompt_set=cell("prompt_set"),
        shown=None if shown is None else _parts(shown),
        sha256=cell("sha256"),
    )


def _parts(cell: str) -> tuple[str, ...]:
    """The labels in a cell, each once.

    >>> _parts("cat | dog|cat")
    ('cat', 'dog')
    """
    return tuple(dict.fromkeys(part.strip() for part in cell.split(SEPARATOR) if part.strip()))
