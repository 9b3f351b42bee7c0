"""Opens fsspec file systems as beamclip needs them: one client a process, and listings never cached."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clip_transforms.client_options import GCS, HTTP, S3, client_options
from clip_transforms.elements import RequestError

# gcsfs 2026 otherwise asks a gRPC service for each bucket's type, and waits a minute where that is out of
# reach. It reads this when it is imported, so it must be set before; a value that the user has set stays.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

#: In these a name is taken letter by letter: `::` is no chain of urls.
_UNCHAINED = GCS | S3 | HTTP | {"file", "memory", "az", "abfs", "abfss", "adl"}
_EXTRAS = {**dict.fromkeys(GCS, "gcs"), **dict.fromkeys(S3, "s3")}
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)(?=://|::[^:]*://)")

_clients: dict[tuple[object, ...], Any] = {}
_idle: dict[tuple[object, ...], queue.LifoQueue[Any]] = {}
_made: dict[tuple[object, ...], tuple[Mapping[str, Any], str]] = {}
_lock = threading.RLock()


class BadUrlError(RequestError):
    """A url that leads to no store; `problem` says why, without the url."""

    def __init__(self, message: str, *, problem: str = "not a valid url") -> None:
        super().__init__(message)
        self.problem = problem


def protocol_of(url: str) -> str:
    """The lower-case scheme of an fsspec url, of a chained one the outermost; `file` for a plain path.

    >>> protocol_of("gs://bucket/run"), protocol_of("simplecache::s3://b/k"), protocol_of("/data/x://run")
    ('gs', 'simplecache', 'file')
    """
    match = _PROTOCOL.match(url)
    scheme = match[1].lower() if match else "file"
    return "file" if scheme == "local" else scheme


def shown(url: str) -> str:
    """A url as it may be printed: no user, password, query or fragment of a remote url, nor of a chain's links.

    >>> shown("https://me:secret@host/a/w.safetensors?sig=abc")
    'https://host/a/w.safetensors'
    >>> shown("simplecache::https://me:secret@host/a.zip?sig=abc"), shown("/models/a#b.pt")
    ('simplecache::https://host/a.zip', '/models/a#b.pt')
    """
    if is_chain(url):
        return "::".join(shown(link) for link in url.split("::"))
    match = re.match(r"(\w[\w+.-]*://)(?:[^/?#]*@)?([^?#]*)", url)
    return match[1] + match[2] if match and match[1] not in ("file://", "local://") else url


def open_filesystem(
    url: str, storage_options: Mapping[str, object] | None = None, *, hidden_retries: bool = True
) -> tuple[Any, str]:
    """The file system of `url` and the path within it.

    Object stores and HTTP have one client for all threads of the process and equal options; other file
    systems are fsspec's own, one a thread. Listings are never cached: other processes write to the same
    folders. HTTP takes of the options only client_options.HTTP_OPTIONS, so that one set serves a run that
    reads from several places. In names of object stores `::`, `?` and `#` are letters like others.

    hidden_retries: whether the client may repeat failed requests by itself, where it can be told not to
    (clip_transforms.retries says who repeats how often).

    Raises RequestError where the library for the scheme is not installed or the options do not fit it; of its
    kinds BadUrlError where the scheme is unknown or the url is none; and what the client raises when it is
    made, for example where credentials cannot be read.
    """
    if is_chain(url):
        return _open_chain(url, storage_options or {})
    place = _find(url, storage_options or {}, hidden_retries=hidden_retries)
    if not place.family.async_impl:
        return place.connect(), place.path
    with _lock:
        if place.key not in _clients:
            _clients[place.key] = place.connect(skip_instance_cache=True)
        return _clients[place.key], place.path


def opened_filesystem(
    url: str, storage_options: Mapping[str, object], *, hidden_retries: bool = True
) -> tuple[Any, str] | None:
    """As `open_filesystem`, of an asyncio client that is open already; None if it is not. Connects to nothing."""
    if is_chain(url):
        return None
    place = _find(url, storage_options, hidden_retries=hidden_retries)
    client = _clients.get(place.key)
    return None if client is None else (client, place.path)


@contextlib.contextmanager
def borrow_filesystem(url: str, storage_options: Mapping[str, object]) -> Iterator[tuple[Any, str]]:
    """A file system that nobody else uses meanwhile, and the path in it; kept for the next if all went well.

    For clients that are not safe for threads (ftp, sftp, hdfs, ...). Raises what `open_filesystem` does.
    """
    if is_chain(url):
        yield _open_chain(url, {**storage_options, "skip_instance_cache": True})
        return
    place = _find(url, storage_options)
    with _lock:
        idle = _idle.setdefault(place.key, queue.LifoQueue())
    try:
        filesystem = idle.get_nowait()
    except queue.Empty:
        filesystem = place.connect(skip_instance_cache=True)
    yield filesystem, place.path
    idle.put(filesystem)


def is_blocking(url: str) -> bool:
    """Whether the url's file system has no asyncio client. Connects to nothing; raises BadUrlError, RequestError."""
    return is_chain(url) or not _class_of(protocol_of(url), url).async_impl


def is_chain(url: str) -> bool:
    """Whether the url is one of fsspec's chains.

    >>> is_chain("zip://a.jpg::s3://bucket/x.zip"), is_chain("gs://bucket/i::j.jpg")
    (True, False)
    """
    return "::" in url and protocol_of(url) not in _UNCHAINED


def unfit_options(url: str, storage_options: Mapping[str, object], error: Exception) -> RequestError:
    """The error for storage options that a client refuses; names them, but not their values."""
    names = ", ".join(sorted(storage_options)) or "(none)"
    return RequestError(
        f"the storage options {names} do not fit {protocol_of(url)}:// ({error}); "
        "see the fsspec documentation of that store"
    )


class _Place(NamedTuple):
    """Where a url leads: the class and options of its file system, and the path in it. Made once an image."""

    family: Any
    url: str
    path: str
    given: Mapping[str, object]  # the user's options
    options: Mapping[str, Any]  # and what we and the url add
    spelt: str  # these options, as a key
    hidden_retries: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What tells one client from another; the process too, as an event loop does not survive a fork."""
        return os.getpid(), self.family, self.hidden_retries, self.spelt

    def connect(self, **how: object) -> Any:
        try:
            filesystem = self.family(**self.options, **how)
        except (TypeError, ValueError, KeyError) as error:
            raise unfit_options(self.url, self.given, error) from error
        if not self.hidden_retries and protocol_of(self.url) in S3:
            filesystem.retries = 1
        return filesystem


def _find(url: str, storage_options: Mapping[str, object], *, hidden_retries: bool = True) -> _Place:
    protocol = protocol_of(url)
    family = _class_of(protocol, url)
    options, spelt = _options(protocol, storage_options, hidden_retries=hidden_retries)
    if match := _PROTOCOL.match(url):
        url = match[1].lower() + url[match.end() :]
    try:
        # Of gs:// and s3:// these would be versions of objects, read out of names with # or ?.
        inside = {} if protocol in GCS | S3 else family._get_kwargs_from_urls(url)
        path = str(family._strip_protocol(url))
    except ValueError as error:
        raise BadUrlError(f"{shown(url)} cannot be used: not a valid url") from error
    if inside:
        options = {**options, **inside}
        spelt = repr(sorted(options.items()))
    return _Place(family, url, path, storage_options, options, spelt, hidden_retries)


def _options(
    protocol: str, storage_options: Mapping[str, object], *, hidden_retries: bool
) -> tuple[Mapping[str, Any], str]:
    """A client's options, and these spelt out; made once, as every single image is looked up by them."""
    key = (protocol, hidden_retries, repr(sorted(storage_options.items())))
    if key not in _made:
        options = client_options(protocol, storage_options, hidden_retries=hidden_retries)
        _made[key] = options, repr(sorted(options.items()))
    return _made[key]


def _class_of(protocol: str, url: str) -> Any:
    import fsspec  # takes 60 ms, and `beamclip --help` needs none of it

    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        problem = f"no store is known for the scheme {protocol!r}"
        raise BadUrlError(f"{shown(url)} cannot be used: {problem}", problem=problem) from error
    except ImportError as error:
        raise _missing_library(url, error) from error


def _missing_library(url: str, error: ImportError) -> RequestError:
    extras = [_EXTRAS[scheme] for link in url.split("::") if (scheme := protocol_of(link)) in _EXTRAS]
    mend = f"pip install 'beamclip[{extras[0]}]'" if extras else f"install what fsspec needs for it ({error})"
    return RequestError(f"{shown(url)} needs a library that is not installed; {mend}, on workers too")


def _open_chain(url: str, storage_options: Mapping[str, object]) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url, **{**storage_options, "use_listings_cache": False})
    except ImportError as error:
        raise _missing_library(url, error) from error
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{shown(url)}: this chain of urls or its --storage-option values cannot be used: {error}"
        ) from error
    return filesystem, str(path)
