"""A worker's side: the rows of a unit's plan as references, failures, and image bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, Stage, UnitKind
from clip_transforms.sources.columns import take_carry
from clip_transforms.sources.manifests import Pointers
from clip_transforms.sources.opening import lasting_reason
from clip_transforms.sources.options import SourceOptions, is_kept
from clip_transforms.sources.parquet import read_slice
from clip_transforms.sources.urls import canonical_uri, image_id_of
from clip_transforms.sources.webdataset import read_shard

_BATCH = 1024  # rows of the plan that are Python objects at a time


def read_unit(kind: UnitKind, rows: pa.Table, options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The images of one unit, one by one, with whatever is known of them; bad ones as failures.

    rows: the unit's rows of the plan (`schemas.plan.PLAN`). Image bytes of tars and Parquet files come as
    payload and are read as they are asked for. Raises StoreError where the store may answer later, never
    for bad data. A generator: close it to give connections back.
    """
    if kind is UnitKind.REFS:
        yield from _read_refs(rows, options)
        return
    for row in _plan_rows(rows):
        yield from read_row(kind, row, options)


def read_row(kind: UnitKind, row: Mapping[str, Any], options: SourceOptions) -> Iterator[ImageRef | Failure]:
    """The images behind one tar or Parquet row of a plan that `--sample` and `max_rows` leave."""
    found = read_shard(row, options) if kind is UnitKind.TAR else read_slice(row, options)
    kept = (image for image in found if _is_kept(image, str(row["uri"]), options))
    limit = row["max_rows"]
    return kept if limit is None else islice(kept, int(limit))


def _is_kept(found: ImageRef | Failure, container: str, options: SourceOptions) -> bool:
    """The sampling rule; what is wrong with a whole shard is always told."""
    if options.sample is None or found.uri == container:
        return True
    own_id = found.image_id if found.image_id != image_id_of(found.uri) else None
    return is_kept(options, own_id or found.uri)


def _plan_rows(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _read_refs(rows: pa.Table, options: SourceOptions) -> Iterator[ImageRef | Failure]:
    carry = options.carry_types()
    pointers = _PointerFiles(options)
    try:
        for row in _plan_rows(rows):
            image_id = row["image_id"] or image_id_of(row["uri"])
            if row["problem_reason"] is not None:
                reason, message = Reason(row["problem_reason"]), row["problem_message"] or ""
                stage = Stage.FETCH if reason is Reason.BLOCKED_ADDRESS else Stage.LIST
                yield _failure(row, image_id, stage, reason, message)
                continue
            url: str | Failure = options.open_url(row["uri"])
            if row["pointer_file"] is not None:
                url = pointers.url_of(row, image_id)
            if isinstance(url, Failure):
                yield url
                continue
            try:
                extra, carried = take_carry(row["extra"], carry)
            except ValueError as error:
                yield _failure(row, image_id, Stage.LIST, Reason.BAD_NAME, str(error))
                continue
            yield ImageRef(
                image_id=image_id,
                uri=row["uri"],
                url=url,
                size=row["size"],
                caption=row["caption"],
                extra=extra,
                carry=carried,
            )
    finally:
        pointers.close()


class _PointerFiles:
    """The manifests that a unit's rows point into, open one at a time."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._name: str | None = None
        self._pointers: Pointers | None = None

    def url_of(self, row: Mapping[str, Any], image_id: str) -> str | Failure:
        """The url behind a row, with its credentials, or why it cannot be had."""
        manifest = str(row["pointer_file"])
        url = self._options.open_url(manifest)
        try:
            if self._name != manifest:
                self.close()
                self._name = manifest  # also where it cannot be opened: that is found out once
                self._pointers = Pointers(url, self._options)
            found = self._pointers.url_at(int(row["pointer_offset"])) if self._pointers else None
        except RequestError:
            found = None
        except Exception as error:  # noqa: BLE001 (StoreError where another attempt may succeed)
            reason = lasting_reason(error, url)
            why = f"the manifest {manifest} cannot be read: {reason.value}"
            return _failure(row, image_id, Stage.FETCH, reason, why)
        if found is None or canonical_uri(found) != row["uri"]:
            why = f"the manifest {manifest} has changed or vanished since it was planned"
            return _failure(row, image_id, Stage.FETCH, Reason.NOT_FOUND, why)
        return found

    def close(self) -> None:
        """Close the manifest that is open."""
        if self._pointers is not None:
            self._pointers.close()
        self._pointers = self._name = None


def _failure(row: Mapping[str, Any], image_id: str, stage: Stage, reason: Reason, message: str) -> Failure:
    return Failure(image_id=image_id, uri=row["uri"], stage=stage, reason=reason, message=message)
