"""The bytes of single images by their uri, for looking at a few of them again: files, tar members, Parquet rows."""

from __future__ import annotations

import logging
import tarfile
import threading
from typing import BinaryIO

import pyarrow.parquet as pq

from clip_transforms.elements import BeamclipError, ImageRef, UnitKind
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.filesystems import open_filesystem, protocol_of
from clip_transforms.plan import plan_table
from clip_transforms.sources.options import IMAGE_SUFFIXES, PlanItem, SourceOptions
from clip_transforms.sources.reading import read_unit
from clip_transforms.sources.webdataset import split_key

_REMOTE_SHARD_BYTES = 256 * 2**20  # a larger remote shard is not read through for a thumbnail
_logger = logging.getLogger(__name__)


class ImageLookup:
    """Gives an image's encoded bytes by its uri, or None where it cannot be had (any more).

    For several threads; each keeps the index of the last shard it looked into, so the uris of one shard are
    best asked for one after the other.
    """

    def __init__(self, sources: SourceOptions, fetching: FetchOptions) -> None:
        self._sources = sources
        self._fetching = fetching
        self._last = threading.local()

    def __call__(self, uri: str) -> bytes | None:
        """The encoded image, or None."""
        try:
            container, mark, inside = uri.rpartition("#")
            if mark and container.lower().endswith(".tar"):
                return self._member(container, inside)
            if mark and container.lower().endswith(".parquet") and inside.isdigit():
                return self._cell(container, int(inside), uri)
            return fetch(self._sources.open_url(uri), self._fetching)
        except (BeamclipError, OSError, ValueError, tarfile.TarError) as error:
            _logger.info("no picture of %s: %s", uri, error)
            return None

    def _open(self, url: str) -> BinaryIO:
        filesystem, path = open_filesystem(self._sources.open_url(url), self._sources.storage_options)
        opened: BinaryIO = filesystem.open(path, "rb")
        return opened

    def _member(self, shard: str, key: str) -> bytes | None:
        if getattr(self._last, "shard", None) != shard:
            self._last.shard, self._last.index = shard, self._index(shard)
        place = self._last.index.get(key)
        if place is None:
            return None
        with self._open(shard) as file:
            file.seek(place[0])
            return file.read(place[1])

    def _index(self, shard: str) -> dict[str, tuple[int, int]]:
        """Where each image of a shard lies: (offset, bytes) by the part of its uri after the `#`."""
        found: dict[str, tuple[int, int]] = {}
        with self._open(shard) as file:
            if protocol_of(shard) != "file" and (getattr(file, "size", None) or 0) > _REMOTE_SHARD_BYTES:
                return found
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for member in tar:
                    key, suffix = split_key(member.name) or ("", "")
                    if f".{suffix.rpartition('.')[2]}".lower() not in IMAGE_SUFFIXES:
                        continue
                    place = (member.offset_data, member.size)
                    found.setdefault(key, place)
                    found.setdefault(f"{key}.{suffix.lstrip('.')}", place)
        return found

    def _cell(self, url: str, row: int, uri: str) -> bytes | None:
        with self._open(url) as file:
            metadata = pq.ParquetFile(file).metadata
            if row >= metadata.num_rows:
                return None
            first, group = 0, 0
            while first + metadata.row_group(group).num_rows <= row:
                first, group = first + metadata.row_group(group).num_rows, group + 1
            rows = metadata.row_group(group).num_rows
        item = PlanItem(
            kind=UnitKind.PARQUET, uri=url, rows=rows, row_groups=(group,), pointer_offset=first
        )
        items = read_unit(UnitKind.PARQUET, plan_table([item]), self._sources)
        try:
            for found in items:
                if found.uri == uri:
                    return found.payload if isinstance(found, ImageRef) else None
        finally:
            items.close()  # type: ignore[attr-defined]
        return None
