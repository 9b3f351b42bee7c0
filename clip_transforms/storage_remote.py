"""A folder of an object store (any fsspec file system) as a store: one put an object."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, BinaryIO, cast

from clip_transforms.client_options import GCS, S3
from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem, protocol_of
from clip_transforms.listing_pages import list_entries, stat_entry
from clip_transforms.object_reader import open_object
from clip_transforms.storage_errors import is_exists, is_missing
from clip_transforms.storage_local import TEMPORARY

#: Schemes whose `pipe_file(..., mode="create")` is one conditional put. fsspec's own default looks first and
#: writes then, so for all others a probe would prove nothing. A file system class of your own that does
#: better says so with a class attribute `atomic_create = True`.
ATOMIC = GCS | S3 | {"memory", "az", "abfs", "abfss", "adl"}
_DELETERS = 32
_DELETE_BATCH = 1000  # names in memory
_memory_lock = threading.RLock()  # memory:// looks first and writes then, but lives in one process


class RemoteFiles:
    """Objects below `url`. Errors are those of the store's client, but for FileNotFoundError."""

    def __init__(self, url: str, storage_options: Mapping[str, object]) -> None:
        self.url = url
        self.protocol = protocol_of(url)
        self.filesystem, path = open_filesystem(url, storage_options)
        self.path = path.rstrip("/")

    def read(self, name: str) -> bytes:
        try:
            if self.protocol in S3:
                return _read_s3(self.filesystem, self._path(name))
            return bytes(self.filesystem.cat_file(self._path(name)))
        except Exception as error:
            if is_missing(error) and not isinstance(error, FileNotFoundError):
                raise FileNotFoundError(name) from error
            raise

    def open(self, name: str, block_size: int) -> BinaryIO:
        if self.protocol == "memory":  # hands out one shared file object with one position
            return io.BytesIO(self.read(name))
        return open_object(self.filesystem, self._path(name), block_size=block_size)

    def write(self, name: str, data: bytes) -> None:
        self._put(name, data, mode="overwrite")

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._put(name, data, mode="create")
        except Exception as error:
            if is_exists(error):
                return False
            raise
        return True

    def exists(self, name: str) -> bool:
        # fsspec's own `exists` answers False to every error, also to "forbidden".
        try:
            stat_entry(self.filesystem, self._path(name))
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def list(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """(name, size, version) of the objects below, a page at a time."""
        keeps_folders = self.protocol not in GCS | S3
        try:
            for entry in list_entries(self.filesystem, f"{self.path}/{folder}".rstrip("/")):
                if not (keeps_folders and TEMPORARY in entry.name):
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    yield name, entry.size or 0, entry.version or ""
        except (FileNotFoundError, NotADirectoryError):
            if not keeps_folders:  # no such bucket
                raise

    def folders(self, folder: str) -> Iterator[str]:
        try:
            entries = self.filesystem.ls(f"{self.path}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry["type"] == "directory":
                yield str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]

    def delete(self, names: Iterable[str]) -> None:
        waiting = iter(names)
        with ThreadPoolExecutor(_DELETERS, thread_name_prefix="beamclip-delete") as pool:
            while batch := list(islice(waiting, _DELETE_BATCH)):
                for _ in pool.map(self._delete_one, batch):
                    pass

    def delete_temporaries(self, folder: str) -> None:
        """Nothing to do: an object store shows an object when it is whole, or not at all."""

    def check(self) -> None:
        """Raise RequestError where the store is not known to create objects only if absent."""
        if self.protocol not in ATOMIC and not getattr(self.filesystem, "atomic_create", False):
            raise RequestError(
                f"{self.url}: {self.protocol}:// cannot create an object only if it is absent, which is what "
                "keeps two workers from writing one result twice; give a folder, gs:// or s3:// as --output"
            )

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _put(self, name: str, data: bytes, *, mode: str) -> None:
        path = self._path(name)
        if self.protocol == "memory":
            with _memory_lock:
                self.filesystem.pipe_file(path, data, mode=mode)
        elif self.protocol in GCS | S3:
            # Both clients split larger objects into several requests; one request has one answer.
            self.filesystem.pipe_file(path, data, mode=mode, chunksize=max(len(data) + 1, 50 << 20))
        else:
            self.filesystem.pipe_file(path, data, mode=mode)

    def _delete_one(self, name: str) -> None:
        try:
            self.filesystem.rm_file(self._path(name))
        except Exception as error:
            if not is_missing(error):
                raise


def _read_s3(filesystem: Any, path: str) -> bytes:
    """The object by one GET.

    s3fs's `cat_file` asks for the size first, and lays its five retries around its five retries: 625 requests
    (at 15 s each) to a server that says nothing.
    """
    from fsspec.asyn import sync

    bucket, key, _ = filesystem.split_path(path)

    async def get() -> bytes:
        answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return bytes(await body.read())

    return cast(bytes, sync(filesystem.loop, get))
