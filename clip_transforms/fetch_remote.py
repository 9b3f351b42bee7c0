"""One attempt to read a remote object: on the event loop of its store's client or in a thread, with a deadline.

Retries hidden in the clients. s3fs multiplies its own five by botocore's five: both are turned off here, so
that an attempt is one request. gcsfs asks up to six times on 408, 429, 500 to 504 and lost connections, with waits
of 1, 2, 4, 8 and 16 seconds (and up to one more each), and offers no switch: this happens inside an attempt and
ends with its timeout, so that four attempts at a server that stays down are 24 requests. aiohttp repeats a request
once where a kept-alive connection turns out to be closed. tests/test_store_faults.py counts them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

from clip_transforms.client_options import GET_CLIENT, HTTP
from clip_transforms.elements import Reason
from clip_transforms.fetch_errors import FetchProblem, status_problem
from clip_transforms.filesystems import (
    BadUrlError,
    borrow_filesystem,
    is_blocking,
    open_filesystem,
    opened_filesystem,
    unfit_options,
)

_GRACE_S = 2.0  # for a cancelled request to clean up before it is given up
_BLOCKING_CALLS = threading.BoundedSemaphore(64)  # bounds the threads that a hanging store can hold
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_CHARACTERS_OF_A_URL = re.compile(r"[!#-;=?-Z_a-z~\[\]]+")


class AsyncObject(NamedTuple):
    """An object of a store whose asyncio client is open in this process; read on the client's own loop."""

    store: Any
    scheme: str
    url: str
    path: str
    storage_options: Mapping[str, object]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `read` is to be awaited."""
        loop: asyncio.AbstractEventLoop = self.store.loop
        return loop

    async def read(self, *, max_bytes: int, timeout_s: float) -> bytes:
        """At most max_bytes + 1 bytes, in one ranged request; ends within timeout_s (and 2 s), also where the
        client swallows its cancellation. Raises FetchProblem, RequestError, TimeoutError or what the client raises.
        """
        with _named_problems(self.url, self.storage_options):
            # Written out, as asyncio.wait takes twice as long, and this is asked once an image.
            loop = asyncio.get_running_loop()
            waiting: asyncio.Future[None] = loop.create_future()
            reading = loop.create_task(self._request(max_bytes))
            reading.add_done_callback(partial(_wake, waiting))
            deadline = loop.call_later(timeout_s, _wake, waiting)
            try:
                await waiting
                if not reading.done():
                    reading.add_done_callback(_heard)
                    reading.cancel()
                    await asyncio.wait({reading}, timeout=_GRACE_S)
                    raise TimeoutError
            finally:
                deadline.cancel()
                reading.cancel()  # of no effect on what has ended
            if reading.cancelled():  # by the client itself: who cancels us ends the wait above
                raise ConnectionError
            return bytes(reading.result())

    def _request(self, max_bytes: int) -> Coroutine[Any, Any, bytes]:
        if self.scheme in HTTP:
            return _read_http(self.store, self.url, max_bytes)
        request: Coroutine[Any, Any, bytes] = self.store._cat_file(self.path, start=0, end=max_bytes + 1)
        return request


def async_object(
    scheme: str, url: str, *, storage_options: Mapping[str, object], connect: bool, guarded: bool
) -> AsyncObject | None:
    """The object to read with asyncio; None where its store has no asyncio client.

    connect: open the client if it is not open yet, which may take a while; else the answer is None then.
    guarded: http(s) reaches public addresses only.
    Raises FetchProblem, RequestError (a package is missing, an option is unknown), or what the client raises.
    """
    if scheme == "memory":
        return None
    with _named_problems(url, storage_options):
        if connect and is_blocking(url):  # such a store is never open already
            return None
        place = (open_filesystem if connect else opened_filesystem)(
            url,
            _guarded(storage_options) if guarded and scheme in HTTP else storage_options,
            hidden_retries=False,
        )
    if place is None:
        return None
    store, path = place
    return AsyncObject(store=store, scheme=scheme, url=url, path=path, storage_options=storage_options)


def _guarded(storage_options: Mapping[str, object]) -> Mapping[str, object]:
    from clip_transforms.guarded_client import guarded_session  # imports aiohttp

    return {**storage_options, GET_CLIENT: guarded_session}


def read_blocking(
    scheme: str, url: str, *, max_bytes: int, timeout_s: float, storage_options: Mapping[str, object]
) -> bytes:
    """At most max_bytes + 1 bytes from a store without an asyncio client (sftp, ftp, hdfs, memory, ...).

    Ends within timeout_s; a thread that hangs is left behind. Raises as AsyncObject.read.
    """
    with _named_problems(url, storage_options):
        if scheme == "memory":
            store, path = open_filesystem(url, storage_options, hidden_retries=False)
            return bytes(store.cat_file(path, start=0, end=max_bytes + 1))
        return _in_thread(lambda: _read_blocking(url, max_bytes, storage_options), timeout_s)


def wait_for(found: AsyncObject, *, max_bytes: int, timeout_s: float) -> bytes:
    """`found.read` from another thread than its loop's."""
    future = asyncio.run_coroutine_threadsafe(
        found.read(max_bytes=max_bytes, timeout_s=timeout_s), found.loop
    )
    try:
        return future.result(timeout_s + 2 * _GRACE_S)
    except concurrent.futures.TimeoutError:
        future.cancel()  # where the loop itself hangs
        raise


class _named_problems:
    """Names what is wrong with a url or with options; a class, as a generator's context takes longer."""

    __slots__ = ("_storage_options", "_url")

    def __init__(self, url: str, storage_options: Mapping[str, object]) -> None:
        self._url = url
        self._storage_options = storage_options

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadUrlError):
            raise FetchProblem(Reason.BAD_NAME, error.problem) from None
        # s3fs and HTTP look at options with the first request.
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            raise unfit_options(self._url, self._storage_options, error) from error


def _wake(waiting: asyncio.Future[None], _ended: object = None) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _heard(reading: asyncio.Future[bytes]) -> None:
    """Take note of how a request that was given up has ended, or asyncio logs what it raised."""
    if not reading.cancelled():
        reading.exception()


def _read_blocking(url: str, max_bytes: int, storage_options: Mapping[str, object]) -> bytes:
    with borrow_filesystem(url, storage_options) as (store, path):
        return bytes(store.cat_file(path, start=0, end=max_bytes + 1))


def _in_thread(read: Callable[[], bytes], timeout_s: float) -> bytes:
    if not _BLOCKING_CALLS.acquire(timeout=timeout_s):
        raise TimeoutError
    result: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(read())
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits
            result.set_exception(error)
        finally:
            _BLOCKING_CALLS.release()

    threading.Thread(target=run, name="beamclip-fetch", daemon=True).start()
    return result.result(timeout_s)


async def _read_http(store: Any, url: str, max_bytes: int) -> bytes:
    data = await _request_http(store, url, max_bytes, ranged=True)
    if data is None:
        data = await _request_http(store, url, max_bytes, ranged=False)
    return data or b""


async def _request_http(store: Any, url: str, max_bytes: int, *, ranged: bool) -> bytes | None:
    """The body, up to max_bytes + 1 bytes; None where the answer to a ranged request is of no use."""
    import aiohttp

    session = await store.set_session()
    options = dict(store.kwargs)
    headers = {"User-Agent": "beamclip", **options.pop("headers", {}), "Accept-Encoding": "identity"}
    if ranged:
        headers["Range"] = f"bytes=0-{max_bytes}"
    timeout = aiohttp.ClientTimeout(total=None)  # the attempt has one deadline, outside
    async with session.get(_as_given(url), headers=headers, timeout=timeout, **options) as response:
        span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(span[3]) if span and span[3] != "*" else None
        if ranged and response.status == 416:
            if response.headers.get("Content-Range", "").strip() == "bytes */0":
                raise status_problem(416)
            return None
        if response.status >= 300:
            raise status_problem(response.status, retry_after=_seconds(response.headers.get("Retry-After")))
        if ranged and response.status == 206 and (span is None or int(span[1]) != 0):
            return None
        if max(total or 0, response.content_length or 0) > max_bytes + (response.status == 206):
            response.close()
            raise FetchProblem(Reason.TOO_MANY_BYTES, f"more than {max_bytes} bytes")
        data = await _body(response, max_bytes)
        cut_short = total is not None and len(data) < total and "Content-Encoding" not in response.headers
        return None if ranged and response.status == 206 and cut_short else data


async def _body(response: Any, max_bytes: int) -> bytes:
    parts = bytearray()
    while chunk := await response.content.readany():
        parts += chunk
        if len(parts) > max_bytes:  # the server ignores the range and does not tell the length
            response.close()
            break
    return bytes(parts)


def _as_given(url: str) -> Any:
    """The url without requoting where it is one already, for a signature covers its exact spelling."""
    import yarl

    return yarl.URL(url, encoded=_CHARACTERS_OF_A_URL.fullmatch(url) is not None)


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.strip().isdigit() else None
