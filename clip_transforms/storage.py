"""The store of a run: a folder, local or remote, of objects written whole and created only if absent."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from clip_transforms.elements import ForbiddenError, RequestError, StoreError
from clip_transforms.filesystems import protocol_of
from clip_transforms.retries import retried
from clip_transforms.storage_errors import is_forbidden, is_missing
from clip_transforms.storage_local import LocalFiles
from clip_transforms.storage_remote import RemoteFiles

_T = TypeVar("_T")
_BLOCK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object as the listing shows it."""

    name: str  # '/'-separated, relative to the store's root
    size: int  # bytes
    version: str  # generation, etag or modification time: changes when the object does


class Store:
    """A folder of a local disk, of Google Cloud Storage, S3, memory, or of any fsspec file system.

    url: a path, or an fsspec url. storage_options: what fsspec's file system takes (keys, endpoint, ...).
    `root` is the url, or for local folders the absolute path without a scheme. A store is picklable, opens
    its connection on first use and may be used by several threads. It never shows half an object: local
    files are written under a temporary name, synced and renamed; remote ones are sent by one put.
    Throttling, server errors, timeouts and lost connections are retried (clip_transforms.retries says how
    often); all else raises StoreError at once.
    """

    def __init__(self, url: str, storage_options: Mapping[str, object] | None = None) -> None:
        self._local = protocol_of(url) == "file"
        if self._local:
            url = os.path.abspath(re.sub("^(file|local)://", "", url, flags=re.I))  # noqa: PTH100 (keeps links)
        self.root = url if url == "/" else url.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self._lock = threading.Lock()
        self._opened: tuple[int, LocalFiles | RemoteFiles] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.root, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Store({self.root!r})"  # the options may hold keys

    def join(self, *names: str) -> str:
        """The full url (or absolute path) of a name below the root.

        >>> Store("gs://bucket/run/").join("embeddings", "part-0.parquet")
        'gs://bucket/run/embeddings/part-0.parquet'
        """
        return "/".join((self.root.rstrip("/"), *names))

    def read(self, name: str) -> bytes:
        """The whole object; FileNotFoundError where it is absent."""
        return self._do("read", name, lambda files: files.read(name))

    def open(self, name: str, *, block_size: int = _BLOCK) -> BinaryIO:
        """A seekable reader, remotely by blocks of `block_size` bytes; FileNotFoundError if it is absent."""
        return self._do("open", name, lambda files: files.open(name, block_size))

    def write(self, name: str, data: bytes) -> None:
        """Put the whole object at once; an older one of that name is replaced."""
        self._do("write", name, lambda files: files.write(name, data))

    def create(self, name: str, data: bytes) -> bool:
        """Put the whole object only if the name is free; False if it is taken.

        False is no proof that somebody else has it: where the answer to a put was lost, the client repeats
        it and finds its own object. Put something of your own into `data` and read it back to know.
        """
        return self._do("create", name, lambda files: files.create(name, data))

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name (a folder is none)."""
        return self._do("look for", name, lambda files: files.exists(name))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects below the folder `prefix`, recursively, in no promised order, one page in memory.

        Objects that come or go meanwhile may be listed or not; a folder that is not there lists nothing.
        """
        folder = prefix.strip("/")
        try:
            for name, size, version in self._files().list(folder):
                yield StoredObject(name=name, size=size, version=version)
        except RequestError:
            raise
        except Exception as error:
            raise self._error("list", folder, error) from error

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Names of the folders directly below the folder `prefix`, sorted."""
        folder = prefix.strip("/")
        return self._do("list", folder, lambda files: tuple(sorted(files.folders(folder))))

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are fine."""
        wanted = [_checked(name) for name in names]
        self._do("delete from", "", lambda files: files.delete(wanted))

    def delete_temporaries(self, prefix: str = "") -> None:
        """Remove temporary files that killed writers left below the folder `prefix` (local disks only)."""
        self._do("clean", prefix, lambda files: files.delete_temporaries(prefix.strip("/")))

    def probe(self) -> None:
        """Check that objects can be written and are created only if absent; leaves nothing behind.

        Raises RequestError where not: no permission, no such bucket, a store that only reads, a file system
        without hard links, or a server that ignores the condition.
        """
        files = self._files()
        files.check()
        made = files.missing_folders() if isinstance(files, LocalFiles) else ()
        name = f".beamclip-probe-{uuid.uuid4().hex}"
        try:
            self._probe_create(name)
        except StoreError as error:
            cause = error.__cause__ or error
            why = "there is no such bucket or folder" if is_missing(cause) else _line(cause)
            raise RequestError(
                f"cannot write to the output {self.root}: {why}; "
                "give another --output, or the rights to create, read and delete there"
            ) from error
        finally:
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _probe_create(self, name: str) -> None:
        try:
            first, second = self.create(name, b"first"), self.create(name, b"second")
            found = self.read(name)
        except FileNotFoundError as error:
            raise StoreError(f"{self.join(name)} was written and cannot be read") from error
        finally:
            self.delete([name])
        # A lost answer to the first put makes it say False as well: what counts is whose bytes are there.
        if second or found != b"first":
            raise RequestError(
                f"{self.root} replaces an object that should be created only if absent (first put: {first}, "
                f"second: {second}); this store cannot keep two workers apart: give another --output"
            )

    def _files(self) -> LocalFiles | RemoteFiles:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():  # a connection does not survive a fork
                files = LocalFiles(self.root) if self._local else RemoteFiles(self.root, self.storage_options)
                self._opened = (os.getpid(), files)
            return self._opened[1]

    def _do(self, what: str, name: str, action: Callable[[LocalFiles | RemoteFiles], _T]) -> _T:
        _checked(name)
        files = self._files()
        try:
            return retried(lambda: action(files), what=f"{what} {self.join(name)}")
        except RequestError:
            raise
        except Exception as error:  # each store's client has its own exceptions
            if is_missing(error) and what in ("read", "open"):
                raise FileNotFoundError(self.join(name)) from error
            raise self._error(what, name, error) from error

    def _error(self, what: str, name: str, error: Exception) -> StoreError:
        kind = ForbiddenError if is_forbidden(error) else StoreError
        return kind(
            f"cannot {what} {self.join(name) if name else self.root}: {type(error).__name__}: {_line(error)}"
        )


def _line(error: BaseException) -> str:
    """What a client says, in one line."""
    return " ".join(str(error).split())


def _checked(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not a name below a store's root")
    return name
