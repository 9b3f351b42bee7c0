"""Listing folders and buckets in bounded memory, and in the order that the disk or the store gives.

The order is left as it is: sorting needs every name of a folder in memory, and rows are matched by image_id,
never by position.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.listing_pages import list_entries, stat_entry
from clip_transforms.sources.patterns import Selection
from clip_transforms.sources.urls import canonical_uri, is_http, is_local, shown

logger = logging.getLogger(__name__)


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
    return _list_remote(root, storage_options, prefix, select)


def stat_object(url: str, storage_options: Mapping[str, object]) -> Listed:
    """What the store tells of one object; raises FileNotFoundError, IsADirectoryError, or its own error."""
    url = canonical_uri(url)
    if is_local(url):
        info = os.stat(url)  # noqa: PTH116
        return Listed(url, info.st_size, f"{info.st_mtime_ns}:{info.st_size}")
    fs, path = open_filesystem(url, storage_options)
    entry = stat_entry(fs, path)
    return Listed(url, entry.size, entry.version)


def _list_remote(
    root: str, storage_options: Mapping[str, object], prefix: str, select: Selection
) -> Iterator[Listed]:
    """The store's pages, under names as they were asked for."""
    fs, path = open_filesystem(root, storage_options)
    for entry in list_entries(fs, path.rstrip("/"), prefix=prefix, enter=select.enter):
        if select.want(entry.name):
            yield Listed(_below(root, entry.name), entry.size, entry.version)


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
