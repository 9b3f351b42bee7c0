"""The objects that an inventory report lists, as rows of a plan: what listing the bucket itself would have given."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote_plus

from clip_transforms.elements import Reason, RequestError, UnitKind
from clip_transforms.sources.columns import find_columns, take_carry
from clip_transforms.sources.inventory import Report, is_known
from clip_transforms.sources.inventory_files import Table, Values, open_table
from clip_transforms.sources.options import (
    IMAGE_SUFFIXES,
    TAR_SUFFIXES,
    PlanItem,
    SourceOptions,
    problem,
)
from clip_transforms.sources.urls import is_text, shown

_logger = logging.getLogger(__name__)


def report_items(report: Report, options: SourceOptions) -> Iterator[PlanItem]:
    """One item an object that is current and an image or a shard, in the report's order.

    Which names are taken is what a folder's listing takes: by their suffixes, or all with `--format images`.
    The first file is opened and its columns are checked before this returns. Raises RequestError where a file
    is missing, cut short, no table, or without the columns; where a row is no table's row it becomes a failure.
    """
    with open_table(report.files[0], report, options) as table:
        _Reader(table, report, options)
    return _items(report, options)


def _items(report: Report, options: SourceOptions) -> Iterator[PlanItem]:
    seen: Counter[str] = Counter()
    kinds: dict[UnitKind, str] = {}
    for file in report.files:
        with open_table(file, report, options) as table:
            for item in _Reader(table, report, options).items():
                seen["rows"] += 1
                if item is None:
                    continue
                seen["taken"] += 1
                if item.problem_reason is None:
                    kinds.setdefault(item.kind, item.uri)
                if len(kinds) > 1:
                    raise RequestError(
                        f"{report.where} lists both images and tar shards ({', '.join(kinds.values())}); "
                        "say which are meant with --format images or --format webdataset"
                    )
                yield item
    if report.rows is not None and report.rows != seen["rows"]:
        raise RequestError(
            f"{report.where} says that it lists {report.rows:,} objects, and its files have {seen['rows']:,} rows"
        )
    if not seen["taken"]:
        looked = " ".join(_suffixes(options)) or "any suffix"
        raise RequestError(
            f"{report.where}: of its {seen['rows']:,} rows none is a current object with {looked}; "
            "--format images takes every name"
        )
    _logger.info("%s: %d of %d rows are inputs", report.where, seen["taken"], seen["rows"])


class _Reader:
    """Turns the rows of one file into items."""

    def __init__(self, table: Table, report: Report, options: SourceOptions) -> None:
        self._columns = find_columns(table.names, options, table.where, with_uri=False)
        carried = {name for name, _ in options.carry}
        # What a report tells of every object would double the plan, and says nothing of the image.
        self._dropped = {name for name in table.names if is_known(name)} - carried
        self._suffixes = _suffixes(options)
        self._shards = options.format != "images"
        self._fields = table.fields
        self._report = report
        self._where = table.where
        self._rows = table.rows

    def items(self) -> Iterator[PlanItem | None]:
        """Each row as an item of the plan; None where it is not to be taken."""
        return (self._item(number, values) for number, values in enumerate(self._rows))

    def _item(self, number: int, values: Values | str) -> PlanItem | None:
        here = f"{self._where.removeprefix('--input ')}#{number}"
        if isinstance(values, str):
            return problem(here, Reason.BAD_NAME, f"row {number} {values}")
        if not self._is_current(values):
            return None
        bucket, key = values.get(self._fields.bucket), values.get(self._fields.key)
        if not (isinstance(bucket, str) and isinstance(key, str) and bucket and key):
            return problem(here, Reason.BAD_NAME, f"row {number} has no bucket or no key")
        if self._report.encoded:
            key = unquote_plus(key, errors="surrogateescape")
        lower = key.lower()
        if key.endswith("/") or (self._suffixes and not lower.endswith(self._suffixes)):
            return None
        uri = f"{self._report.scheme}://{bucket}/{key}"
        if not is_text(uri):
            return problem(shown(uri), Reason.BAD_NAME, "the name is not UTF-8")
        size, version = values.get(self._fields.size or ""), values.get(self._fields.version or "")
        item = PlanItem(
            kind=UnitKind.REFS,
            uri=uri,
            size=int(str(size)) if str(size).isdigit() else None,
            version=None if version is None or version == "" else str(version).strip('"'),
        )
        if self._shards and lower.endswith(TAR_SUFFIXES):
            return replace(item, kind=UnitKind.TAR, rows=None)
        extra = self._extra(number, values)
        caption, own_id = self._columns.caption_of(values), self._columns.id_of(values)
        return (
            replace(item, image_id=own_id, caption=caption, extra=extra)
            if extra or caption or own_id
            else item
        )

    def _extra(self, number: int, values: Values) -> str | None:
        extra = self._columns.extra_of({name: values[name] for name in values if name not in self._dropped})
        try:
            take_carry(extra, self._columns.carry)
        except ValueError as error:
            raise RequestError(
                f"--carry: {self._where.removeprefix('--input ')}, row {number}: {error}"
            ) from error
        return extra

    def _is_current(self, values: Values) -> bool:
        """No delete marker, no older version."""
        return not _says(values, self._fields.deleted) and _says(values, self._fields.latest, missing=True)


def _says(values: Values, column: str | None, *, missing: bool = False) -> bool:
    """What a column of truth values, or of times, says; `missing` where it says nothing."""
    value = values.get(column) if column else None
    if value is None or value == "":
        return missing
    return value is not False and str(value).lower() != "false"


def _suffixes(options: SourceOptions) -> tuple[str, ...]:
    """What a name must end with; empty for any."""
    if options.format == "images":
        return ()
    if options.format in ("webdataset", "img2dataset"):
        return TAR_SUFFIXES
    return IMAGE_SUFFIXES + TAR_SUFFIXES
