"""What stores tell of their objects: listings by pages, in bounded memory, and single objects by name.

fsspec's own `find` keeps every name, and on gcsfs stops silently at 10,000,000; its `info` asks gcsfs for the
object and for a folder of that name. A page that fails for a reason that may pass is asked for again, the
pages before it are not.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clip_transforms.client_options import GCS, S3
from clip_transforms.retries import retried

_logger = logging.getLogger(__name__)
PAGE = 1000
_GCS_FIELDS = "nextPageToken,items(name,size,generation)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    name: str  # relative to the folder that was listed
    size: int | None  # bytes
    version: str | None  # see version_of


def list_entries(
    filesystem: Any, folder: str, *, prefix: str = "", enter: Callable[[str], bool] | None = None
) -> Iterator[Entry]:
    """All objects below `folder`, recursively, lazily, in the store's own order.

    folder: as the file system names it; of object stores the bucket, then the key, without a slash at its end.
    prefix: how the wanted names begin; only Google Cloud Storage and S3 leave the others out. enter: which
    folders to look into, by their relative names; not asked by those two, which know no folders. Objects that
    only mark a folder (their name ends with a slash) are left out.

    Raises what the store raises; FileNotFoundError for a missing folder, but from Google Cloud Storage and S3,
    where no folder is ever missing.
    """
    protocols = _protocols(filesystem)
    if not protocols & (GCS | S3):
        yield from _walk(filesystem, folder, enter)
        return
    bucket, _, key = folder.partition("/")
    start = f"{key}/" if key else ""
    pages = _gcs_pages if protocols & GCS else _s3_pages
    for item, name, size in pages(filesystem, bucket, start + prefix):
        if len(name) > len(start) and not name.endswith("/"):
            yield Entry(name[len(start) :], int(size), version_of(item))


def stat_entry(filesystem: Any, path: str) -> Entry:
    """One object, by one request. path: as the file system names it; the entry's name.

    Raises FileNotFoundError, IsADirectoryError (a folder; object stores have none), or what the store raises.
    """
    protocols = _protocols(filesystem)
    bucket, _, key = path.partition("/")
    if protocols & GCS:
        found = filesystem.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return Entry(path, int(found["size"]), version_of(found))
    if protocols & S3:
        found = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
        return Entry(path, int(found["ContentLength"]), version_of(found))
    found = filesystem.info(path)
    if found["type"] == "directory":
        raise IsADirectoryError(path)
    return Entry(path, found.get("size"), version_of(found))


def version_of(entry: Mapping[str, Any]) -> str | None:
    """What changes when the object does, out of a store's own description of it.

    >>> version_of({"ETag": '"5f3a"'}), version_of({"generation": 12}), version_of({"mtime": 1.5, "size": 3})
    ('5f3a', '12', '1.5:3')
    """
    if entry.get("generation"):
        return str(entry["generation"])
    for name in ("ETag", "etag", "checksum", "content_hash"):
        if entry.get(name):
            return str(entry[name]).removeprefix("W/").strip('"')
    for name in ("mtime", "LastModified", "last_modified", "modified", "created"):
        when = entry.get(name)
        if when is not None:  # one store gives a time in two forms
            when = when.timestamp() if isinstance(when, datetime.datetime) else when
            return f"{when}:{entry.get('size')}"
    return None


def _protocols(filesystem: Any) -> frozenset[str]:
    protocol = filesystem.protocol
    return frozenset([protocol] if isinstance(protocol, str) else protocol)


def _gcs_pages(filesystem: Any, bucket: str, prefix: str) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """Items of the JSON API's objects.list, each with its name and size."""
    query = {"prefix": prefix, "pageToken": None, "maxResults": PAGE, "fields": _GCS_FIELDS}
    while True:
        page = retried(
            lambda: filesystem.call("GET", "b/{}/o", bucket, json_out=True, **query),
            what=f"list gs://{bucket}/{prefix}",
        )
        for item in page.get("items", ()):
            yield item, item["name"], item.get("size", 0)
        query["pageToken"] = page.get("nextPageToken")
        if not query["pageToken"]:
            return


def _s3_pages(filesystem: Any, bucket: str, prefix: str) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """Contents of ListObjectsV2, each with its key and size."""
    query: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE}
    while True:
        page = retried(
            lambda: filesystem.call_s3("list_objects_v2", **query), what=f"list s3://{bucket}/{prefix}"
        )
        for item in page.get("Contents", ()):
            yield item, item["Key"], item["Size"]
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def _walk(filesystem: Any, folder: str, enter: Callable[[str], bool] | None) -> Iterator[Entry]:
    """One `ls` a folder, depth first: at most one folder a level is in memory."""
    base = folder.strip("/")
    stack = [_entries(filesystem, folder)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        name = str(entry["name"]).strip("/")[len(base) :].lstrip("/")
        if not name:  # some list the folder itself, and a file as if it were its own folder
            continue
        if entry["type"] != "directory":
            size = entry.get("size")
            yield Entry(name, None if size is None else int(size), version_of(entry))
        elif enter is None or enter(name):
            try:
                stack.append(_entries(filesystem, entry["name"]))
            except (FileNotFoundError, NotADirectoryError):
                _logger.warning("%s vanished while it was listed", entry["name"])


def _entries(filesystem: Any, folder: str) -> Iterator[Mapping[str, Any]]:
    return iter(retried(lambda: filesystem.ls(folder, detail=True), what=f"list {folder}"))
