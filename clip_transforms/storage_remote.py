"""A folder of an object store (any fsspec file system) as a store: one put an object, listings in pages."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, BinaryIO, cast

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem, protocol_of
from clip_transforms.storage_errors import is_exists, is_missing
from clip_transforms.storage_local import TEMPORARY

#: Schemes whose `pipe_file(..., mode="create")` is one conditional put. fsspec's own default looks first and
#: writes then, so for all others a probe would prove nothing. A file system class of your own that does
#: better says so with a class attribute `atomic_create = True`.
ATOMIC = frozenset({"gs", "gcs", "s3", "s3a", "memory", "az", "abfs", "abfss", "adl"})
_PAGE = 1000
_GCS_FIELDS = "nextPageToken,items(name,size,generation)"
_VERSION_KEYS = ("etag", "ETag", "mtime", "created")
_VERSION_KEYS = ("etag", "ETag", "mtime", "created")
_DELETERS = 32
_memory_lock = threading.RLock()  # memory:// looks first and writes then, but lives in one process


class RemoteFiles:
    """Objects below `url`. Errors are those of the store's client, but for FileNotFoundError."""

    def __init__(self, url: str, storage_options: Mapping[str, object]) -> None:
        self.url = url
        self.protocol = protocol_of(url)
        self.filesystem, self.path = open_filesystem(url, storage_options)

    def read(self, name: str) -> bytes:
        try:
            return bytes(self.filesystem.cat_file(self._path(name)))
        except Exception as error:
            if is_missing(error) and not isinstance(error, FileNotFoundError):
                raise FileNotFoundError(name) from error
            raise

    def open(self, name: str, block_size: int) -> BinaryIO:
        if self.protocol == "memory":  # hands out one shared file object with one position
            return io.BytesIO(self.read(name))
        return cast(BinaryIO, self.filesystem.open(self._path(name), "rb", block_size=block_size))

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
            return bool(self.filesystem.info(self._path(name))["type"] == "file")
        except FileNotFoundError:
            return False

    def list(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """(name, size, version) of the objects below, a page at a time."""
        start = f"{self.path}/{folder}".rstrip("/") + "/"
        for path, size, version in list_objects(self.filesystem, start):
            yield path[len(self.path) + 1 :], size, version

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
            while batch := list(islice(waiting, _PAGE)):
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
        elif self.protocol in ("gs", "gcs", "s3", "s3a"):
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


def list_objects(filesystem: Any, start: str) -> Iterator[tuple[str, int, str]]:
    """(path, size, version) of all objects whose path (bucket, then key) begins with `start`.

    Pages through the store's own listing: fsspec's `find` keeps every name, and on gcsfs stops silently at
    10,000,000. version is what changes when the object does: generation, etag or modification time.
    """
    protocols = (
        filesystem.protocol if isinstance(filesystem.protocol, (tuple, list)) else (filesystem.protocol,)
    )
    bucket, _, prefix = start.partition("/")
    if "gs" in protocols:
        yield from _list_gcs(filesystem, bucket, prefix)
    elif "s3" in protocols:
        yield from _list_s3(filesystem, bucket, prefix)
    else:
        yield from _list_other(filesystem, start)


def _list_gcs(filesystem: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    token: str | None = None
    while True:
        query = {"prefix": prefix or None, "pageToken": token, "maxResults": _PAGE, "fields": _GCS_FIELDS}
        query = {key: value for key, value in query.items() if value is not None}
        page = filesystem.call("GET", "b/{}/o", bucket, json_out=True, **query)
        for item in page.get("items", ()):
            if not item["name"].endswith("/"):  # the console's folder markers
                yield f"{bucket}/{item['name']}", int(item.get("size", 0)), str(item.get("generation", ""))
        token = page.get("nextPageToken")
        if not token:
            return


def _list_s3(filesystem: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    query: dict[str, object] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _PAGE}
    while True:
        page = filesystem.call_s3("list_objects_v2", **query)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"{bucket}/{item['Key']}", int(item["Size"]), str(item.get("ETag", "")).strip('"')
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def _list_other(filesystem: Any, start: str) -> Iterator[tuple[str, int, str]]:
    """A folder at a time; bounded by the largest folder."""
    waiting = [start.rsplit("/", 1)[0]]
    while waiting:
        try:
            entries = filesystem.ls(waiting.pop(), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry["type"] == "directory":
                waiting.append(entry["name"])
            elif entry["name"].startswith(start) and TEMPORARY not in entry["name"]:
                version = next(
                    (entry[key] for key in ("etag", "ETag", "mtime", "created") if entry.get(key)), ""
                )
                yield str(entry["name"]), int(entry["size"] or 0), str(version)
