"""The encoded bytes behind a url or path, with limits on size, time and attempts."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    BaseRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from clip_transforms.client_options import HTTP
from clip_transforms.elements import ImageError, Reason, RequestError, Stage
from clip_transforms.fetch_errors import FetchProblem, classify
from clip_transforms.fetch_remote import AsyncObject, async_object, read_blocking, wait_for
from clip_transforms.host_turns import turn
from clip_transforms.retries import REPEATS
from clip_transforms.url_guard import check_url

T = TypeVar("T")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL_SCHEMES = ("file", "local")
_NOT_OPENABLE = (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP)  # sockets, devices without a driver
_BACKOFF = wait_exponential(multiplier=0.5, max=20.0) + wait_random(0.0, 0.5)
_LONGEST_PAUSE_S = 30.0  # that a server's Retry-After may ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """Limits on one image.

    storage_options go to the fsspec client of the url's store; http(s) takes of them only what
    `client_options.HTTP_OPTIONS` names, so that one set serves a run that reads from several places.

    By default http(s) urls reach public addresses only, and the schemes of `url_guard.SCHEMES` alone are opened,
    for urls come from data. schemes are allowed beyond these.
    """

    max_bytes: int = 100 * 2**20
    timeout_s: float = 60.0  # of one attempt, from the request to the last byte
    attempts: int = 4
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)  # may hold credentials
    allow_private_urls: bool = False  # any address and any scheme
    schemes: tuple[str, ...] = ()
    per_host: int = 8  # http(s) requests at a time to one host, of those under way on an event loop

    def __post_init__(self) -> None:
        for name in ("max_bytes", "timeout_s", "attempts", "per_host"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be above 0")


def fetch(url: str, options: FetchOptions, *, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """The object's bytes: at least one, at most `options.max_bytes`. Safe to call from many threads.

    url is an absolute local path (or `file://` and a path), or an fsspec url; for stores the name is taken
    literally (`#`, `?`, `[`, `%`), http(s) urls are sent as they are. One request with a `Range` of
    max_bytes + 1 enforces the limit; http(s) bodies are streamed, so a server that ignores it is cut off.

    Timeouts, 408, 429, 5xx and broken connections are tried `attempts` times with exponential backoff and
    jitter (0.5 s, doubling, at most 20 s; `Retry-After` up to 30 s is kept to); all else fails at once. A
    local read has no deadline: the operating system cannot end one.

    What `options` guards against is a `blocked_address` problem, found at the first attempt.

    Raises ImageError (stage fetch), whose message holds neither url nor credentials, and RequestError where
    the machine lacks a store's package or a storage option does not exist.

    >>> fetch("/no/such/file", FetchOptions())
    Traceback (most recent call last):
    clip_transforms.elements.ImageError: not found
    """
    return _retrying(_attempt, url, options, sleep=sleep)


def connect(
    url: str, options: FetchOptions, *, sleep: Callable[[float], None] = time.sleep
) -> AsyncObject | None:
    """The object for `fetch_async`, its store's client opened; None where `fetch` is to read it. Raises as `fetch`."""
    scheme, _ = _split(url)
    return None if scheme is None else _retrying(_connect, url, options, sleep=sleep)


def connected(url: str, options: FetchOptions) -> AsyncObject | None:
    """As `connect`, but None too where the client is not open yet, or anything is wrong; does not wait."""
    scheme, _ = _split(url)
    if scheme is None:
        return None
    try:
        return _found(scheme, url, options, connect=False)
    except Exception:  # noqa: BLE001  `connect` is to say what it is
        return None


async def fetch_async(
    found: AsyncObject, options: FetchOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> bytes:
    """`fetch` of what `connect` has found, to be awaited on `found.loop`: no thread waits for the answer.

    Requests to one host take turns: `options.per_host` at a time, and none begins while the host has asked
    another for a pause.
    """
    try:  # tenacity takes twice as long as the rest of an attempt that succeeds, as nearly all do
        return await _attempt_async(found, options, first=True)
    except FetchProblem as error:
        known = [error]

    async def attempt() -> bytes:
        if known:
            raise known.pop()
        return await _attempt_async(found, options, first=False)

    retrying = AsyncRetrying(**_policy(options), sleep=sleep)
    try:
        return await retrying(attempt)
    except FetchProblem as error:
        problem = error
    raise _image_error(problem, retrying)


def _retrying(
    attempt: Callable[[str, FetchOptions], T],
    url: str,
    options: FetchOptions,
    *,
    sleep: Callable[[float], None],
) -> T:
    retrying = Retrying(**_policy(options), sleep=sleep)
    try:
        return retrying(attempt, url, options)
    except FetchProblem as error:
        problem = error
    # Raised outside the handler: a chained exception would carry urls into tracebacks.
    raise _image_error(problem, retrying)


def _policy(options: FetchOptions) -> dict[str, Any]:
    return {
        "stop": stop_after_attempt(options.attempts),
        "wait": _pause,
        "retry": retry_if_exception(_may_pass),
        "before_sleep": _note,
        "reraise": True,
    }


def _note(state: RetryCallState) -> None:  # noqa: ARG001
    REPEATS.note()


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, FetchProblem) and error.transient


def _image_error(problem: FetchProblem, retrying: BaseRetrying) -> ImageError:
    attempts = retrying.statistics["attempt_number"]
    return ImageError(Stage.FETCH, problem.reason, problem.message, attempts=attempts)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, FetchProblem) and error.retry_after else 0.0
    return max(_BACKOFF(state), min(asked, _LONGEST_PAUSE_S))


def _attempt(url: str, options: FetchOptions) -> bytes:
    with _classified(options):
        return _checked(_read(url, options), options)


async def _attempt_async(found: AsyncObject, options: FetchOptions, *, first: bool) -> bytes:
    if found.scheme not in HTTP:
        return await _request(found, options)
    async with turn(found.url, limit=options.per_host, first=first):
        return await _request(found, options)


async def _request(found: AsyncObject, options: FetchOptions) -> bytes:
    with _classified(options):
        data = await found.read(max_bytes=options.max_bytes, timeout_s=options.timeout_s)
        return _checked(data, options)


def _connect(url: str, options: FetchOptions) -> AsyncObject | None:
    scheme, _ = _split(url)
    with _classified(options):
        return _found(scheme or "", url, options, connect=True)


def _found(scheme: str, url: str, options: FetchOptions, *, connect: bool) -> AsyncObject | None:
    if not options.allow_private_urls:
        check_url(url, schemes=options.schemes)
    guarded = not options.allow_private_urls
    storage_options = options.storage_options
    return async_object(scheme, url, storage_options=storage_options, connect=connect, guarded=guarded)


class _classified:
    """Turns what a store's client raises into a FetchProblem."""

    __slots__ = ("_options",)

    def __init__(self, options: FetchOptions) -> None:
        self._options = options

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (FetchProblem, RequestError)):
            raise classify(error, timeout_s=self._options.timeout_s) from error


def _checked(data: bytes, options: FetchOptions) -> bytes:
    if not data:
        raise FetchProblem(Reason.EMPTY, "no bytes")
    if len(data) > options.max_bytes:
        raise FetchProblem(Reason.TOO_MANY_BYTES, f"more than {options.max_bytes} bytes")
    return data


def _split(url: str) -> tuple[str | None, str]:
    """(scheme of a remote url or None, the path where it is local).

    >>> _split("gs://bucket/a.jpg"), _split("/a.jpg"), _split("file:///a.jpg")
    (('gs', ''), (None, '/a.jpg'), (None, '/a.jpg'))
    """
    match = _SCHEME.match(url)
    if match is None:
        return None, url
    scheme = match[1].lower()
    return (None, url[match.end() :]) if scheme in _LOCAL_SCHEMES else (scheme, "")


def _read(url: str, options: FetchOptions) -> bytes:
    scheme, path = _split(url)
    if scheme is None:
        return _read_local(path, options.max_bytes)
    found = _found(scheme, url, options, connect=True)
    if found is not None:
        return wait_for(found, max_bytes=options.max_bytes, timeout_s=options.timeout_s)
    return read_blocking(
        scheme,
        url,
        max_bytes=options.max_bytes,
        timeout_s=options.timeout_s,
        storage_options=options.storage_options,
    )


def _read_local(path: str, max_bytes: int) -> bytes:
    """At most max_bytes + 1 bytes of a regular file; a pipe or a device is refused, never waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # a NUL, or characters that no file name has
        raise FetchProblem(Reason.BAD_NAME, "not a valid file name") from None
    except OSError as error:
        if error.errno in _NOT_OPENABLE:
            raise FetchProblem(Reason.NOT_FOUND, "not a regular file") from None
        raise
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FetchProblem(Reason.NOT_FOUND, "not a regular file")
        if status.st_size > max_bytes:
            raise FetchProblem(Reason.TOO_MANY_BYTES, f"more than {max_bytes} bytes")
        data = file.read(min(status.st_size, max_bytes) + 1)
        while len(data) <= max_bytes and (more := file.read(min(2**20, max_bytes + 1 - len(data)))):
            data += more  # it grows, or reading came short
    return data
