"""A file system `faulty://<absolute path>` that fails or dies at the n-th write; import to register.

It goes through all code for object stores, with a local folder behind it and atomic create-only puts. What it
does is said by environment variables, so that it also works in a process of its own:

| variable            | meaning                                                                         |
|---------------------|---------------------------------------------------------------------------------|
| `FAULTY_AT`         | which operation, from 1; unset or 0: none                                       |
| `FAULTY_WHEN`       | `before` the operation or `after` it (default before)                           |
| `FAULTY_ACTION`     | `raise` (final error), `flaky` (a timeout, which is retried), `kill` (SIGKILL)   |
| `FAULTY_OPERATIONS` | what counts: `put`, `delete`, or `put,delete` (default put)                     |
| `FAULTY_MATCH`      | only names that contain this count                                              |
| `FAULTY_COUNTER`    | a file that counts over processes; it tells a test how many operations there were |

`flaky` after a put is a lost answer: the object is there, and the client puts it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from clip_transforms.storage_local import LocalFiles

_lock = threading.Lock()
_count = 0


class FaultyFileSystem(AbstractFileSystem):
    """See the module."""

    protocol = "faulty"
    root_marker = "/"
    cachable = False
    atomic_create = True  # clip_transforms.storage_remote

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._files = LocalFiles("/")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("faulty://").strip("/")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """One put."""
        name = self._strip_protocol(path)[1:]

        def put() -> None:
            if mode != "create":
                self._files.write(name, value)
            elif not self._files.create(name, value):
                raise FileExistsError(path)

        _with_fault("put", name, put)

    def rm_file(self, path: str) -> None:
        """One delete."""
        name = self._strip_protocol(path)[1:]
        _with_fault("delete", name, lambda: Path("/", name).unlink())

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Of a file or folder."""
        path = self._strip_protocol(path)
        kind = "directory" if os.path.isdir(path) else "file"
        found = os.stat(path)
        return {"name": path, "size": found.st_size, "type": kind, "mtime": found.st_mtime_ns}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The entries of a folder."""
        with os.scandir(self._strip_protocol(path)) as entries:
            found = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    if entry.is_file() or _holds_files(entry.path):
                        found.append(self.info(entry.path))
        return found if detail else [entry["name"] for entry in found]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise ValueError("objects are written by one put")
        return open(self._strip_protocol(path), "rb")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """The bytes of a file."""
        with self._open(path) as file:
            return file.read()[start:end]


def _holds_files(folder: str) -> bool:
    """An object store has no empty folders."""
    return any(files for _, _, files in os.walk(folder))


def _with_fault(operation: str, name: str, action: Callable[[], None]) -> None:
    hit = _is_due(operation, name)
    after = os.environ.get("FAULTY_WHEN", "before") == "after"
    if hit and not after:
        _fail(name)
    action()
    if hit and after:
        _fail(name)


def _is_due(operation: str, name: str) -> bool:
    if operation not in os.environ.get("FAULTY_OPERATIONS", "put").split(","):
        return False
    if os.environ.get("FAULTY_MATCH", "") not in name:
        return False
    return _next() == int(os.environ.get("FAULTY_AT", "0"))


def _next() -> int:
    global _count
    path = os.environ.get("FAULTY_COUNTER")
    if not path:
        with _lock:
            _count += 1
            return _count
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(str(number))
        return number


def _fail(name: str) -> None:
    action = os.environ.get("FAULTY_ACTION", "raise")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "flaky":
        raise TimeoutError(f"no answer for {name}")
    raise OSError(errno.EIO, "the store failed", name)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
