"""Text manifests on the launcher and pointers into them on a worker: CSV, TSV, JSON lines, url lists."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from clip_transforms.elements import Reason, RequestError, UnitKind
from clip_transforms.sources.columns import URI_COLUMNS, Columns, find_columns, find_uri, listed, take_carry
from clip_transforms.sources.inventory import is_report
from clip_transforms.sources.opening import InputStream, knows_ranges, open_input, refusal
from clip_transforms.sources.options import PlanItem, SourceOptions, problem
from clip_transforms.sources.records import Lines, Record, csv_records, json_records, list_records
from clip_transforms.sources.urls import canonical_uri, has_credentials, is_text, resolve, shown, suffix_of
from clip_transforms.url_guard import reference_problem

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
#: Lines of a JSON-lines file whose keys are taken for its columns.
_PROBE_LINES = 100
#: What is read of a manifest to learn its columns.
_HEAD_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a text manifest is read."""

    style: str  # csv, json, list
    delimiter: str = ","
    header: tuple[str, ...] = ()  # CSV only
    columns: Columns
    is_report: bool = False  # it lists the objects of a bucket: see inventory_rows


def layout_of(url: str, options: SourceOptions) -> Layout:
    """Read the head of a manifest; raises RequestError where it cannot be used.

    url: as it is opened; its suffix tells CSV, JSON lines or a list (`--format urls` makes any file one).
    """
    uri = canonical_uri(url)
    suffix = suffix_of(url)
    try:
        with open_input(url, options.storage_options, sequential=True) as stream:
            head = stream.read(_HEAD_BYTES)
    except Exception as error:
        raise refusal(url, error) from error
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RequestError(f"--input {uri} is UTF-16; expected UTF-8")
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise RequestError(f"--input {uri} is empty; expected one image a row")
    if options.format == "urls" or (suffix == ".txt" and options.format != "manifest"):
        _refuse_columns(options, uri)
        return Layout(style="list", columns=Columns(uri="url", image_id=None, caption=None, carry=()))
    if suffix in JSON_SUFFIXES:
        return _json_layout(head, uri, options)
    return _csv_layout(head, uri, options, tab=suffix == ".tsv")


def manifest_items(url: str, layout: Layout, options: SourceOptions) -> Iterator[PlanItem]:
    """One item a row, in the manifest's order; a row that cannot be used becomes a failure row.

    Raises RequestError where a carried value does not convert, naming file and row.
    """
    uri = canonical_uri(url)
    try:
        stream = open_input(url, options.storage_options, sequential=True)
    except Exception as error:
        raise refusal(url, error) from error
    with stream:
        records = enumerate(_rows(stream, layout))
        while True:
            try:
                row, record = next(records, (-1, None))
            except Exception as error:
                raise refusal(url, error) from error
            if record is None:
                return
            yield _item(record, row, url, uri, layout)


class Pointers:
    """Reads single references of one manifest again, by the byte at which their row begins."""

    def __init__(self, url: str, options: SourceOptions) -> None:
        self._url = url
        self._options = options
        self._layout = layout_of(url, options)
        self._ranges = knows_ranges(url, options.storage_options)
        self._stream = self._open()

    def url_at(self, offset: int) -> str | None:
        """The url of the row that begins at `offset`; None where there is none any more."""
        if self._ranges:
            self._stream.seek(offset)
        else:
            self._skip_to(offset)
        lines = Lines(self._stream, offset=offset)
        record = next(_records(lines, self._layout), None)
        if record is None or record.problem:
            return None
        values = _values(record, self._layout)
        reference = values.get(self._layout.columns.uri or "") if values else None
        return resolve(reference, base=self._url) if isinstance(reference, str) and reference else None

    def close(self) -> None:
        """Close the manifest."""
        self._stream.close()

    def _open(self) -> InputStream:
        return open_input(self._url, self._options.storage_options, sequential=not self._ranges)

    def _skip_to(self, offset: int) -> None:
        """Read forward where the server knows no ranges, again from the start where the row lies behind."""
        if self._stream.tell() > offset:
            self.close()
            self._stream = self._open()
        while self._stream.tell() < offset and self._stream.read(min(2**20, offset - self._stream.tell())):
            pass


def _item(record: Record, row: int, url: str, uri: str, layout: Layout) -> PlanItem:
    """One row as an item of the plan."""
    where = f"row {row} (line {record.line})"
    values = None if record.problem else _values(record, layout)
    if values is None:
        return problem(
            f"{uri}#{row}", Reason.BAD_NAME, f"{where} {record.problem or 'has more cells than columns'}"
        )
    columns = layout.columns
    own_id = columns.id_of(values)
    reference = values.get(columns.uri or "")
    if not isinstance(reference, str) or not reference.strip():
        bad: str | None = f"has no value in column {columns.uri!r}"
    else:
        bad = unusable(reference)
    if bad or not isinstance(reference, str):
        return problem(f"{uri}#{row}", Reason.BAD_NAME, f"{where} {bad}", image_id=own_id)
    target = resolve(reference, base=url)
    if forbidden := reference_problem(target, base=url):
        return problem(f"{uri}#{row}", Reason.BLOCKED_ADDRESS, f"{where} {forbidden}", image_id=own_id)
    target_uri = canonical_uri(target)
    extra = columns.extra_of(values, uri=target_uri)
    if columns.carry:
        try:
            take_carry(extra, columns.carry)
        except ValueError as error:
            raise RequestError(f"--carry: {uri}, {where}: {error}") from error
    secret = has_credentials(target)
    return PlanItem(
        kind=UnitKind.REFS,
        uri=target_uri,
        image_id=own_id,
        caption=columns.caption_of(values),
        extra=extra,
        pointer_file=uri if secret else None,
        pointer_offset=record.offset if secret else None,
    )


def unusable(reference: str) -> str | None:
    """Why a reference can never be opened; None where it may.

    >>> unusable("a.jpg"), unusable("data:image/png;base64,AAAA")
    (None, 'holds an image as a data: url, which is not read')
    """
    if not is_text(reference):
        return f"has a name that is not UTF-8: {shown(reference)}"
    if "\0" in reference:
        return "has a name with a zero byte in it"
    return "holds an image as a data: url, which is not read" if reference.startswith("data:") else None


def _values(record: Record, layout: Layout) -> Mapping[str, object] | None:
    """The row's values by column; None where a CSV row has more cells than columns (they have shifted)."""
    if layout.style == "json":
        return record.values
    if layout.style == "list":
        return {"url": record.cells[0]}
    if len(record.cells) > len(layout.header):
        return None
    return dict(zip(layout.header, record.cells, strict=False))


def _records(lines: Lines, layout: Layout) -> Iterator[Record]:
    if layout.style == "json":
        return json_records(lines)
    if layout.style == "list":
        return list_records(lines)
    return csv_records(lines, delimiter=layout.delimiter)


def _rows(stream: InputStream, layout: Layout) -> Iterator[Record]:
    """The records without the header."""
    records = _records(Lines(stream), layout)
    return islice(records, 1, None) if layout.style == "csv" else records


def _csv_layout(head: bytes, uri: str, options: SourceOptions, *, tab: bool) -> Layout:
    """The header, split by the one of , tab ; | that makes a usable column of it."""
    errors: list[RequestError] = []
    for delimiter in ("\t", ",") if tab else (",", "\t", ";", "|"):
        record = next(csv_records(Lines(io.BytesIO(head)), delimiter=delimiter), None)
        cells = record.cells if record else ()
        header = tuple(cell.strip() or f"column_{place}" for place, cell in enumerate(cells))
        repeated = sorted({name for name in header if header.count(name) > 1})
        try:
            find_uri(header, options, f"--input {uri}")
            if repeated:
                raise RequestError(f"--input {uri} has columns of the same name: {listed(repeated)}")
        except RequestError as error:
            errors.append(error)
            if repeated or not is_report(header, options):
                continue
            columns = find_columns(header, options, f"--input {uri}", with_uri=False)
            return Layout(style="csv", delimiter=delimiter, header=header, columns=columns, is_report=True)
        columns = find_columns(header, options, f"--input {uri}")
        return Layout(style="csv", delimiter=delimiter, header=header, columns=columns)
    raise errors[0]


def _json_layout(head: bytes, uri: str, options: SourceOptions) -> Layout:
    """The columns are the keys of the first lines."""
    names: dict[str, None] = {}
    for record in islice(json_records(Lines(io.BytesIO(head))), _PROBE_LINES):
        names.update(dict.fromkeys(record.values or {}))
    if not names:
        raise RequestError(
            f"--input {uri}: its first {_PROBE_LINES} lines hold no JSON object; expected one a line"
        )
    return Layout(style="json", columns=find_columns(list(names), options, f"--input {uri}"))


def _refuse_columns(options: SourceOptions, uri: str) -> None:
    """A url list has no columns, so none can be asked for."""
    asked = (
        options.id_column,
        options.caption_column,
        options.image_column,
        *(name for name, _ in options.carry),
    )
    name = next((name for name in asked if name is not None), None)
    if name is not None:
        known = ", ".join(URI_COLUMNS[0])
        raise RequestError(
            f"--input {uri} is a list of urls and has no column {name!r}; give a CSV or JSON-lines manifest "
            f"with a column such as {known}"
        )
