"""Kept pairs as webdataset shards with the images' original bytes, streamed from the input and never encoded again."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from clip_transforms.elements import Failure, ImageError, ImageRef, WorkUnit
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.pairs.chunks import Chunk
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.plan import iter_units, read_extensions, read_unit_rows
from clip_transforms.sources import read_unit
from clip_transforms.storage import Store

FOLDER = "webdataset"
_PAIRS = 10_000  # of a shard, at most ...
_BYTES = 256 << 20  # ... and so many bytes, for a shard is built in memory
_THREADS = 16  # images fetched at a time, where they are not in a shard or a Parquet file
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_LEFT_OUT = ("kept", "drop_reason", "duplicate_of", "extra")

Row = dict[str, Any]


def write_shards(config: SelectConfig, chunk: Chunk, table: pa.Table) -> tuple[list[str], int]:
    """Write what is kept of a chunk; the names of the shards, and how many kept images could not be had again.

    table: the chunk's rows of pairs/. An image whose bytes are no longer those that were embedded counts as one
    that cannot be had. The same shards at every attempt, as long as the input is the same.
    """
    kept = table.filter(table.column("kept"))
    wanted: dict[tuple[str, str], deque[Row]] = {}
    for row in kept.to_pylist():
        wanted.setdefault((row["image_id"], row["uri"]), deque()).append(row)
    writer = _Shards(config.store(), stem=f"{FOLDER}/{chunk.number:06d}")
    written = 0
    for number, (row, data) in enumerate(_images(config, chunk, wanted)):
        if data is None or hashlib.sha256(data).hexdigest() != row["sha256"]:
            continue
        writer.add(f"{chunk.number:06d}{number:07d}", row, data)
        written += 1
    return writer.close(), kept.num_rows - written


def plan_units(store: Store, names: set[str]) -> dict[str, WorkUnit]:
    """The descriptors of these units, with how often each was redone."""
    found = {}
    extensions = read_extensions(store)
    redo = {unit: times for extension in extensions for unit, times in extension.redo.items()}
    prefixes = {name.rsplit("-", 1)[0] for name in names}
    for extension in extensions:
        if f"{extension.plan_id}-{extension.name}" not in prefixes:
            continue
        for file in extension.files:
            for unit in iter_units(store, extension, file):
                if unit.name in names:
                    found[unit.name] = replace(unit, redo=redo.get(unit.name, 0))
    return found


def _images(
    config: SelectConfig, chunk: Chunk, wanted: Mapping[tuple[str, str], deque[Row]]
) -> Iterator[tuple[Row, bytes | None]]:
    """The wanted rows with their images' bytes, in the order of the plan."""
    store = config.source(config.embeddings_run)
    units = plan_units(store, {block.unit for block in chunk.blocks})
    waiting: deque[tuple[Row, Future[bytes | None]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="beamclip-shards") as pool:
        for name in sorted(units):
            unit = units[name]
            for item in read_unit(unit.kind, read_unit_rows(store, unit), config.sources):
                rows = wanted.get((item.image_id, item.uri))
                if not rows or isinstance(item, Failure):
                    continue
                waiting.append((rows.popleft(), pool.submit(_bytes_of, item, config.fetch)))
                if len(waiting) >= _THREADS:
                    row, future = waiting.popleft()
                    yield row, future.result()
        while waiting:
            row, future = waiting.popleft()
            yield row, future.result()


def _bytes_of(item: ImageRef, options: FetchOptions) -> bytes | None:
    if item.payload is not None:
        return item.payload
    try:
        return fetch(item.url, options)
    except ImageError:
        return None


class _Shards:
    """Packs pairs into tars, each built in memory and sent by one put."""

    def __init__(self, store: Store, *, stem: str) -> None:
        self._store = store
        self._stem = stem
        self._buffer = io.BytesIO()
        self._tar: tarfile.TarFile | None = None
        self._pairs = 0
        self._names: list[str] = []

    def add(self, key: str, row: Row, data: bytes) -> None:
        """One more pair: the image, its caption and its facts under one key."""
        if self._tar is None:
            self._buffer = io.BytesIO()
            self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        facts = {name: value for name, value in row.items() if name not in _LEFT_OUT}
        extra = json.loads(row["extra"]) if row["extra"] else {}
        members = {
            _SUFFIXES.get(row["format"], row["format"].lower()): data,
            "txt": (row["caption"] or "").encode(),
            "json": json.dumps({**extra, **facts}, sort_keys=True, ensure_ascii=False, default=str).encode(),
        }
        for suffix, content in members.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        self._pairs += 1
        if self._pairs >= _PAIRS or self._buffer.tell() >= _BYTES:
            self._send()

    def close(self) -> list[str]:
        """Send what is open; the names of all shards."""
        self._send()
        return self._names

    def _send(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        name = f"{self._stem}-{len(self._names):04d}.tar"
        self._store.write(name, self._buffer.getvalue())
        self._names.append(name)
        self._tar, self._pairs = None, 0
