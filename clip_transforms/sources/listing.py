"""Listing folders and buckets page by page, in bounded memory and in the order that the store gives.

The order is left as it is: sorting needs every name of a folder in memory, and rows are matched by image_id,
never by position.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.sources.opening import filesystem_of
from clip_transforms.sources.patterns import Selection
from clip_transforms.sources.urls import canonical_uri, is_http, is_local, scheme_of, shown

logger = logging.getLogger(__name__)

_GCS_FIELDS = "nextPageToken,items(name,size,generation)"
_GCS_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """One object: url is canonical but for undecodable bytes of a local name, which stay as surrogates."""

    url: str
    size: int | None  # bytes
    version: str | None  # generation, etag, or "<mtime in ns>:<size>"
    is_regular: bool = True  # False for a link that leads nowhere


class _Everything:
    def want(self, name: str) -> bool:
        return bool(name)

    def enter(self, folder: str) -> bool:
        return bool(folder)


def list_objects(
    root: str,
    storage_options: Mapping[str, object],
    *,
    prefix: str = "",
    select: Selection | None = None,
) -> Iterator[Listed]:
    """All files below the folder `root` that `select` wants, lazily.

    prefix: the literal beginning of all wanted names; object stores list only these. Links are followed but
    never in circles; what is no regular file is left out, links that lead nowhere are kept. Raises what the
    store raises, and RequestError for a web server, which has no listing.
    """
    select = select or _Everything()
    root = canonical_uri(root)
    if is_http(root):
        raise RequestError(f"--input {root}: a web server has no listing; give single urls, or a url list")
    if is_local(root):
        return _walk_local(root, select)
    if scheme_of(root) == "gs":
        return _list_gcs(root, storage_options, prefix, select)
    if scheme_of(root) == "s3":
        return _list_s3(root, storage_options, prefix, select)
    return _walk_any(root, storage_options, select)


def stat_object(url: str, storage_options: Mapping[str, object]) -> Listed:
    """What the store tells of one object; raises FileNotFoundError, IsADirectoryError, or its own error."""
    url = canonical_uri(url)
    if is_local(url):
        info = os.stat(url)  # noqa: PTH116
        return Listed(url, info.st_size, f"{info.st_mtime_ns}:{info.st_size}")
    fs, path = filesystem_of(url, storage_options)
    bucket, _, key = url.partition("://")[2].partition("/")
    if scheme_of(url) == "gs":
        item = fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return Listed(url, int(item["size"]), version_of(item))
    if scheme_of(url) == "s3":
        head = fs.call_s3("head_object", Bucket=bucket, Key=key)
        return Listed(url, int(head["ContentLength"]), version_of(head))
    entry = fs.info(path)
    if entry["type"] == "directory":
        raise IsADirectoryError(url)
    return Listed(url, entry.get("size"), version_of(entry))


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


def _list_gcs(
    root: str, storage_options: Mapping[str, object], prefix: str, select: Selection
) -> Iterator[Listed]:
    """Pages of the JSON API's objects.list: gcsfs's own find keeps every name of the listing."""
    fs, _ = filesystem_of(root, storage_options)
    bucket, _, folder = root.partition("://")[2].partition("/")
    start = f"{folder}/" if folder else ""
    token: str | None = None
    while True:
        page = fs.call(
            *("GET", "b/{}/o", bucket),
            prefix=start + prefix,
            pageToken=token,
            maxResults=_GCS_PAGE,
            fields=_GCS_FIELDS,
            json_out=True,
        )
        for item in page.get("items", ()):
            name = item["name"][len(start) :]
            if name and not name.endswith("/") and select.want(name):
                yield Listed(f"gs://{bucket}/{item['name']}", int(item.get("size", 0)), version_of(item))
        token = page.get("nextPageToken")
        if not token:
            return


def _list_s3(
    root: str, storage_options: Mapping[str, object], prefix: str, select: Selection
) -> Iterator[Listed]:
    """Pages of ListObjectsV2, through s3fs's retries."""
    fs, _ = filesystem_of(root, storage_options)
    bucket, _, folder = root.partition("://")[2].partition("/")
    start = f"{folder}/" if folder else ""
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=start + prefix, **more)
        for item in page.get("Contents", ()):
            name = item["Key"][len(start) :]
            if name and not name.endswith("/") and select.want(name):
                yield Listed(f"s3://{bucket}/{item['Key']}", int(item["Size"]), version_of(item))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _walk_any(root: str, storage_options: Mapping[str, object], select: Selection) -> Iterator[Listed]:
    """One `ls` a folder, depth first: at most one folder a level is in memory."""
    fs, path = filesystem_of(root, {"use_listings_cache": False, **storage_options})
    base = str(path).strip("/")
    stack = [iter(fs.ls(path, detail=True))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        name = str(entry["name"]).strip("/")[len(base) :].lstrip("/")
        if not name:
            continue
        if entry["type"] == "directory":
            if select.enter(name):
                stack.append(iter(fs.ls(entry["name"], detail=True)))
        elif select.want(name):
            yield Listed(_below(root, name), entry.get("size"), version_of(entry))


def _walk_local(root: str, select: Selection) -> Iterator[Listed]:
    """Directory by directory, depth first, one open directory a level."""
    info = os.stat(root)  # noqa: PTH116
    stack = [(os.scandir(root), "", (info.st_dev, info.st_ino))]
    try:
        while stack:
            entries, folder, _ = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()[0].close()
                continue
            name = folder + entry.name
            if _is_folder(entry):
                if select.enter(name):
                    _descend(entry, name, stack)
            elif select.want(name):
                found = _stat_local(entry, _below(root, name))
                if found is not None:
                    yield found
    finally:
        for entries, _, _ in stack:
            entries.close()


def _below(root: str, name: str) -> str:
    return root + name if root.endswith("/") else f"{root}/{name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _descend(entry: os.DirEntry[str], name: str, stack: list[tuple[Any, str, tuple[int, int]]]) -> None:
    """Open a folder for the walk; one that is its own ancestor by a link, or just vanished, is left out."""
    try:
        info = os.stat(entry.path)  # noqa: PTH116
        identity = (info.st_dev, info.st_ino)
        if any(identity == seen for _, _, seen in stack):
            logger.info("%s leads back to a folder above it and is not followed", shown(entry.path))
            return
        stack.append((os.scandir(entry.path), f"{name}/", identity))
    except FileNotFoundError:
        logger.warning("%s vanished while it was listed", shown(entry.path))


def _stat_local(entry: os.DirEntry[str], url: str) -> Listed | None:
    """A file's size and time; None for what is neither a file nor a link that leads nowhere."""
    try:
        if entry.is_file():
            info = entry.stat()
            return Listed(url, info.st_size, f"{info.st_mtime_ns}:{info.st_size}")
        if not entry.is_symlink():
            return None
        os.stat(entry.path)  # noqa: PTH116
    except OSError:
        return Listed(url, None, None, is_regular=False)
    return None
