"""The bytes of single images by their uri, for looking at a few of them again: files, tar members, Parquet rows."""

from __future__ import annotations

import hashlib
import logging
import tarfile
import threading
from array import array
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from clip_transforms.elements import BeamclipError, ImageRef, UnitKind
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.filesystems import open_filesystem, protocol_of
from clip_transforms.object_reader import open_object
from clip_transforms.plan import plan_table
from clip_transforms.sources.options import IMAGE_SUFFIXES, PlanItem, SourceOptions
from clip_transforms.sources.reading import read_unit
from clip_transforms.sources.webdataset import split_key

_REMOTE_SHARD_BYTES = 256 * 2**20  # a larger remote shard is not read through for a thumbnail
_BLOCK = 2**20  # bytes read ahead of a member
_PLACE = np.dtype([("key", "u8"), ("offset", "u8"), ("size", "u8")])
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
        return open_object(filesystem, path, block_size=_BLOCK)

    def _member(self, shard: str, key: str) -> bytes | None:
        if getattr(self._last, "shard", None) != shard:
            self._last.shard, self._last.index = shard, self._index(shard)
        found = np.flatnonzero(self._last.index["key"] == _hash(key))
        if not len(found):
            return None
        place = self._last.index[found[0]]
        with self._open(shard) as file:
            file.seek(int(place["offset"]))
            return file.read(int(place["size"]))

    def _index(self, shard: str) -> npt.NDArray[np.void]:
        """Where each image of a shard lies, by a hash of the part of its uri after the `#`: 24 bytes an image."""
        # Several threads read a shard each, and a list of tuples would take five times as much.
        places = array("Q")
        last = ""
        with self._open(shard) as file:
            if protocol_of(shard) != "file" and (getattr(file, "size", None) or 0) > _REMOTE_SHARD_BYTES:
                return np.array([], _PLACE)
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
                    key, suffix = split_key(member.name) or ("", "")
                    if f".{suffix.rpartition('.')[2]}".lower() not in IMAGE_SUFFIXES:
                        continue
                    shown = key if key != last else f"{key}.{suffix.lstrip('.')}"
                    places.extend((_hash(shown), member.offset_data, member.size))
                    last = key
        return np.frombuffer(places, _PLACE)

    def _cell(self, url: str, row: int, uri: str) -> bytes | None:
        with self._open(url) as file:
            metadata = pq.ParquetFile(file).metadata
            if row >= metadata.num_rows:
                return None
            first, group = 0, 0
            while first + metadata.row_group(group).num_rows <= row:
                first, group = first + metadata.row_group(group).num_rows, group + 1
            rows = metadata.row_group(group).num_rows
        item = PlanItem(kind=UnitKind.PARQUET, uri=url, rows=rows, row_groups=(group,), pointer_offset=first)
        items = read_unit(UnitKind.PARQUET, plan_table([item]), self._sources)
        try:
            for found in items:
                if found.uri == uri:
                    return found.payload if isinstance(found, ImageRef) else None
        finally:
            items.close()  # type: ignore[attr-defined]
        return None


def _hash(key: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )
