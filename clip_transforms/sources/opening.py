"""Opening inputs for reading, and telling a store's errors apart."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeVar, cast

from clip_transforms.elements import Reason, RequestError, StoreError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.object_reader import open_object
from clip_transforms.sources.urls import canonical_uri, is_http, is_local, scrub

_T = TypeVar("_T")
#: Read ahead of a remote stream, in bytes; also its largest buffer.
BLOCK_BYTES = 4 * 2**20


class InputStream:
    """An input opened for reading, that remembers which error its store raised and knows its size.

    Libraries such as Arrow turn an error of the stream beneath them into one of their own; `error` tells
    what really happened. Usable as a binary file.
    """

    def __init__(self, raw: BinaryIO, size: int | None, *, can_seek: bool = True) -> None:
        self._raw = raw
        self._can_seek = can_seek
        self.size = size  # bytes; None where the server does not tell
        self.error: Exception | None = None
        self.closed = False

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; all that is left with -1."""
        return self._noted(lambda: self._raw.read(count))

    def readline(self, limit: int = -1) -> bytes:
        """The next line with its line end; at most `limit` bytes."""
        return self._noted(lambda: self._raw.readline(limit))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte; raises what the store raises where it cannot."""
        return self._noted(lambda: self._raw.seek(offset, whence))

    def tell(self) -> int:
        """The byte that is read next."""
        return self._raw.tell()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """Whether `seek` works."""
        return self._can_seek and self._raw.seekable()

    def writable(self) -> bool:
        """False."""
        return False

    def flush(self) -> None:
        """Nothing: the stream is read only."""

    def close(self) -> None:
        """Give the connection or the file back."""
        self.closed = True
        self._raw.close()

    def _noted(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except Exception as error:
            self.error = error
            raise

    def __enter__(self) -> InputStream:
        """Use as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def open_input(url: str, storage_options: Mapping[str, object], *, sequential: bool = False) -> InputStream:
    """Open an input for reading from its start; raises what the store raises.

    sequential: it is read once from front to back. A web server then sends it in one answer, which also
    those can that know no ranges; such a stream cannot seek.
    """
    if is_local(url):
        path = canonical_uri(url)
        mode = os.stat(path).st_mode  # noqa: PTH116 (a name may be bytes that are not UTF-8)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder")
        if not stat.S_ISREG(mode):
            raise PermissionError(f"{path} is not a regular file")
        raw = open(path, "rb", buffering=2**18)  # noqa: SIM115
        return InputStream(raw, os.fstat(raw.fileno()).st_size)
    fs, path = open_filesystem(url, storage_options)
    if sequential and is_http(url):
        size = fs.info(path).get("size")
        streamed = io.BufferedReader(fs.open(path, "rb", block_size=0), 2**18)
        return InputStream(streamed, size, can_seek=False)
    remote = open_object(fs, path, block_size=BLOCK_BYTES)
    size = getattr(remote, "size", None)
    # fsspec's own readline copies a whole block for every line.
    return InputStream(
        io.BufferedReader(cast(io.RawIOBase, remote), 2**18), None if size is None else int(size)
    )


def knows_ranges(url: str, storage_options: Mapping[str, object]) -> bool:
    """Whether any part of the input can be asked for; raises what the store raises."""
    if not is_http(url):
        return True
    fs, path = open_filesystem(url, storage_options)
    return bool(fs.info(path).get("partial"))


def reason_of(error: BaseException) -> Reason | None:
    """Why an input cannot be read for good; None where another attempt may succeed.

    >>> reason_of(FileNotFoundError()).value, reason_of(ConnectionResetError())
    ('not_found', None)
    """
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and type(cause).__module__.partition(".")[0] == "aiohttp":
        return reason_of(cause) if cause else None  # fsspec says so of every web server's refusal
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return Reason.NOT_FOUND
    if isinstance(error, PermissionError) or (
        isinstance(error, OSError) and str(error).startswith("Forbidden")
    ):
        return Reason.FORBIDDEN
    if isinstance(error, UnicodeError):
        return Reason.BAD_NAME
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)) or not str(status).isdigit():
        return None
    code = int(str(status))
    if code in (404, 410):
        return Reason.NOT_FOUND
    if code in (401, 403, 407):
        return Reason.FORBIDDEN
    return Reason.HTTP_ERROR if 400 <= code < 500 and code not in (408, 425, 429) else None


def lasting_reason(error: Exception, url: str) -> Reason:
    """Why an input on a worker cannot be read; raises StoreError where the bundle should be tried again.

    A web server that does not answer is a fact about the input; an object store's outage is not.
    """
    reason = reason_of(error)
    if reason is not None:
        return reason
    if is_http(url):
        timed_out = isinstance(error, (asyncio.TimeoutError, TimeoutError))
        return Reason.TIMEOUT if timed_out else Reason.HTTP_ERROR
    raise StoreError(f"{canonical_uri(url)} cannot be read: {type(error).__name__}") from error


def refusal(url: str, error: Exception, what: str = "read") -> RequestError | StoreError:
    """The error for a launcher that cannot read an input: the user's to mend, or the store's."""
    uri = canonical_uri(url)
    reason = reason_of(error)
    if isinstance(error, RequestError):
        return error
    if reason is Reason.NOT_FOUND:
        return RequestError(f"--input {uri} was not found; check its spelling, bucket and credentials")
    if reason is None and not is_http(url) and isinstance(error, (OSError, asyncio.TimeoutError)):
        return StoreError(f"{uri} could not be {what} ({type(error).__name__}); try again")
    why = "access is denied" if reason is Reason.FORBIDDEN else f"{type(error).__name__}: {scrub(str(error))}"
    return RequestError(f"--input {uri} cannot be {what}: {why}")
