"""Parquet inputs, pointed at by row groups: manifests of references, and tables with image bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, Stage, StoreError, UnitKind
from clip_transforms.sources.columns import take_carry
from clip_transforms.sources.img2dataset import why_missing
from clip_transforms.sources.inventory import is_report, report_of_table
from clip_transforms.sources.inventory_rows import report_items
from clip_transforms.sources.listing import Listed
from clip_transforms.sources.manifests import unusable
from clip_transforms.sources.opening import InputStream, lasting_reason, open_input, refusal
from clip_transforms.sources.options import PlanItem, SourceOptions
from clip_transforms.sources.parquet_layout import Layout, layout_of
from clip_transforms.sources.urls import canonical_uri, image_id_of, resolve
from clip_transforms.url_guard import reference_problem

SUFFIXES = (".parquet", ".pq")
_IMAGE_BATCH = 8  # rows with image bytes in memory at a time
_REFERENCE_BATCH = 1024
#: Arrow reads a column chunk through a buffer of so many bytes, instead of as a whole.
_BUFFER_BYTES = 2**20


def parquet_items(url: str, found: Listed, options: SourceOptions) -> Iterator[PlanItem]:
    """Slices of whole row groups, each of about `unit_rows` rows; a larger row group is one slice.

    Of a table that lists the objects of a bucket, these objects: one item each.
    The footer is read and checked before this returns; raises RequestError where the file cannot be used.
    """
    uri = canonical_uri(url)
    try:
        with open_input(url, options.storage_options) as stream:
            meta = pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, pa.ArrowException):
            raise RequestError(f"--input {uri} is not a readable Parquet file: {error}") from error
        raise refusal(url, error) from error
    except Exception as error:
        raise refusal(url, error) from error
    schema = meta.schema.to_arrow_schema()
    try:
        layout_of(schema, options, f"--input {uri}")
    except RequestError:
        if not is_report(schema.names, options):
            raise
        return report_items(report_of_table(url, schema.names, style="parquet"), options)
    return _slices(
        [meta.row_group(group).num_rows for group in range(meta.num_row_groups)], uri, found, options
    )


def _slices(groups: list[int], uri: str, found: Listed, options: SourceOptions) -> Iterator[PlanItem]:
    """Gather neighbouring row groups up to `unit_rows` rows; pointer_offset is the slice's first row."""
    gathered: list[int] = []
    first = rows = 0
    for group, count in enumerate([*groups, options.unit_rows + 1]):
        if gathered and rows + count > options.unit_rows:
            yield PlanItem(
                kind=UnitKind.PARQUET,
                uri=uri,
                size=found.size,
                version=found.version,
                rows=rows,
                row_groups=tuple(gathered),
                pointer_offset=first,
            )
            gathered, first, rows = [], first + rows, 0
        if count and group < len(groups):
            gathered.append(group)
            rows += count


def read_slice(row: Mapping[str, Any], options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The images behind one `parquet` row of a plan, in the file's order, before `--sample`.

    A file that vanished, changed or is damaged gives a failure for each row that is lost. Raises StoreError
    where the store may answer later.
    """
    uri, groups = str(row["uri"]), list(row["row_groups"])
    url, start = options.open_url(uri), int(row["pointer_offset"])
    done, total = 0, int(row["rows"])
    stream: InputStream | None = None
    try:
        stream = open_input(url, options.storage_options)
        if row["size"] is not None and stream.size != row["size"]:
            raise _ChangedError
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        if groups[-1] >= len(counts) or sum(counts[: groups[0]]) != start:
            raise _ChangedError
        total = sum(counts[group] for group in groups)
        layout = layout_of(file.schema_arrow, options, uri)
        for values in _read_rows(file, groups, layout):
            yield _row(values, start + done, layout, url, options)
            done += 1
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever is wrong with the file, its rows become failures)
        stage, reason, message = _loss(error, stream, url)
        for number in range(start + done, start + total):
            yield _failure(f"{uri}#{number}", stage, reason, message)
    finally:
        if stream is not None:
            stream.close()


class _ChangedError(Exception):
    """The file is not the one that was planned."""


def _loss(error: Exception, stream: InputStream | None, url: str) -> tuple[Stage, Reason, str]:
    """Why the rest of a slice is lost; raises StoreError where it may be had later."""
    uri = canonical_uri(url)
    if isinstance(error, _ChangedError):
        return Stage.FETCH, Reason.NOT_FOUND, f"{uri} has changed since it was planned"
    cause = stream.error if stream is not None else error
    if cause is None:
        return Stage.DECODE, Reason.DECODE_ERROR, f"{uri} cannot be read as Parquet: {error}"
    reason = lasting_reason(cause, url)
    return Stage.FETCH, reason, f"{uri} cannot be read: {reason.value}"


def _read_rows(file: pq.ParquetFile, groups: list[int], layout: Layout) -> Iterator[dict[str, object]]:
    """The rows of some row groups, few at a time where they hold images.

    In memory are these few rows and one page of the file (pyarrow's writer puts up to 1,024 rows in a page).
    """
    size = _IMAGE_BATCH if layout.image else _REFERENCE_BATCH
    for batch in file.iter_batches(size, row_groups=groups, columns=list(layout.project), use_threads=False):
        yield from batch.to_pylist()


def _row(
    values: dict[str, object], number: int, layout: Layout, url: str, options: SourceOptions
) -> ImageRef | Failure:
    """One row of the file; `number` counts from 0 in the file."""
    columns = layout.columns
    payload, reference = _cell(values, layout)
    here = f"{canonical_uri(url)}#{number}"
    own_id = columns.id_of(values)
    problem = _problem(values, payload, reference, layout, options)
    if problem is not None:
        stage, reason, message = problem
        return _failure(here, stage, reason, f"row {number} {message}", image_id=own_id)
    target = here if payload else resolve(reference or "", base=url)
    if not payload and (forbidden := reference_problem(target, base=url)):
        return _failure(
            here, Stage.FETCH, Reason.BLOCKED_ADDRESS, f"row {number} {forbidden}", image_id=own_id
        )
    uri = here if payload else canonical_uri(target)
    if layout.image is not None:
        values = {name: value for name, value in values.items() if name != layout.image}
        if payload and reference:  # Hugging Face keeps the file's name beside its bytes
            values[f"{layout.image}.path"] = reference
    try:
        extra, carry = take_carry(columns.extra_of(values, uri=uri), columns.carry)
    except ValueError as error:
        return _failure(uri, Stage.LIST, Reason.BAD_NAME, f"row {number} {error}", image_id=own_id)
    return ImageRef(
        image_id=own_id or image_id_of(uri),
        uri=uri,
        url=target,
        size=len(payload) if payload else None,
        caption=columns.caption_of(values),
        extra=extra,
        carry=carry,
        payload=payload,
    )


def _problem(
    values: Mapping[str, object],
    payload: bytes | None,
    reference: str | None,
    layout: Layout,
    options: SourceOptions,
) -> tuple[Stage, Reason, str] | None:
    """Why a row cannot be used, where that is plain from the row itself."""
    if payload is not None:
        if not payload:
            return Stage.FETCH, Reason.EMPTY, "has an image of no bytes"
        if len(payload) > options.max_bytes:
            return Stage.FETCH, Reason.TOO_MANY_BYTES, f"has {len(payload)} bytes, over {options.max_bytes}"
        return None
    if reference is None or not reference.strip():
        if layout.image is not None:
            return why_missing(values) or (Stage.FETCH, Reason.EMPTY, "has neither bytes nor a path")
        return Stage.LIST, Reason.BAD_NAME, f"has no value in column {layout.columns.uri!r}"
    why = unusable(reference)
    return (Stage.LIST, Reason.BAD_NAME, why) if why else None


def _cell(values: Mapping[str, Any], layout: Layout) -> tuple[bytes | None, str | None]:
    """(image bytes, path or url) of a row; either may be missing."""
    cell = values.get(layout.image or layout.columns.uri or "")
    if isinstance(cell, Mapping):
        path = cell.get("path")
        return cell.get("bytes"), path if isinstance(path, str) else None
    if layout.image is not None:
        return cell, None
    return None, cell


def _failure(uri: str, stage: Stage, reason: Reason, message: str, *, image_id: str | None = None) -> Failure:
    return Failure(
        image_id=image_id or image_id_of(uri), uri=uri, stage=stage, reason=reason, message=message
    )
