"""The encoded bytes behind a url or path, with limits on size, time and attempts."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from clip_transforms.elements import ImageError, Reason, RequestError, Stage
from clip_transforms.fetch_errors import FetchProblem, classify
from clip_transforms.fetch_remote import read_remote
from clip_transforms.retries import REPEATS

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
    """

    max_bytes: int = 100 * 2**20
    timeout_s: float = 60.0  # of one attempt, from the request to the last byte
    attempts: int = 4
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)  # may hold credentials

    def __post_init__(self) -> None:
        for name in ("max_bytes", "timeout_s", "attempts"):
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

    Raises ImageError (stage fetch), whose message holds neither url nor credentials, and RequestError where
    the machine lacks a store's package or a storage option does not exist.

    >>> fetch("/no/such/file", FetchOptions())
    Traceback (most recent call last):
    clip_transforms.elements.ImageError: not found
    """
    retrying = Retrying(
        stop=stop_after_attempt(options.attempts),
        wait=_pause,
        retry=retry_if_exception(lambda error: isinstance(error, FetchProblem) and error.transient),
        before_sleep=lambda state: REPEATS.note(),  # noqa: ARG005
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(_attempt, url, options)
    except FetchProblem as error:
        problem = error
    # Raised outside the handler: a chained exception would carry urls into tracebacks.
    raise ImageError(
        Stage.FETCH, problem.reason, problem.message, attempts=retrying.statistics["attempt_number"]
    )


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, FetchProblem) and error.retry_after else 0.0
    return max(_BACKOFF(state), min(asked, _LONGEST_PAUSE_S))


def _attempt(url: str, options: FetchOptions) -> bytes:
    try:
        data = _read(url, options)
    except (FetchProblem, RequestError):
        raise
    except Exception as error:  # noqa: BLE001  a store's client may raise anything
        problem = classify(error, timeout_s=options.timeout_s)
    else:
        if 0 < len(data) <= options.max_bytes:
            return data
        if data:
            problem = FetchProblem(Reason.TOO_MANY_BYTES, f"more than {options.max_bytes} bytes")
        else:
            problem = FetchProblem(Reason.EMPTY, "no bytes")
    raise problem


def _read(url: str, options: FetchOptions) -> bytes:
    match = _SCHEME.match(url)
    if match is None:
        return _read_local(url, options.max_bytes)
    scheme = match[1].lower()
    if scheme in _LOCAL_SCHEMES:
        return _read_local(url[match.end() :], options.max_bytes)
    return read_remote(
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
