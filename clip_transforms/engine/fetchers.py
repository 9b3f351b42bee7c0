"""The engine's way to an image's bytes: on the event loop of a store's client, or in threads where it has none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from functools import partial
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from clip_transforms.client_options import HTTP
from clip_transforms.fetch import FetchOptions, connect, connected, fetch, fetch_async
from clip_transforms.fetch_remote import AsyncObject
from clip_transforms.host_turns import host_of, is_paused

T = TypeVar("T")
In = TypeVar("In", contravariant=True)
_PAUSES_S = 1.0  # between two looks whether the pause of a host is over
_NO_HOST = "/"  # of stores, which are not asked in turns; no host is called so


class Fetched(Protocol[In]):
    """Where fetches end: each item that `begin` wanted ends in one call of `arrived` or `missed`."""

    def begin(self, item: In) -> bool:
        """Whether the item is still wanted, asked right before its fetch."""
        ...

    def arrived(self, item: In, data: bytes, seconds: float) -> None: ...
    def missed(self, item: In, error: BaseException) -> None: ...
    def broken(self, error: BaseException) -> None: ...


class Fetchers(Generic[T]):
    """Fetches up to `limit` images at a time from stores with an asyncio client, and as many from others.

    A thread that waits for an answer costs more than the request: it is woken twice an image. So a client
    that has an event loop is asked there, and threads only read what has none, and open clients.
    """

    def __init__(self, outlet: Fetched[T], options: FetchOptions, *, limit: int, name: str) -> None:
        self._outlet = outlet
        self._options = options
        self._limit = limit
        self._closed = False
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopFetcher[T]] = {}
        self._queue: SimpleQueue[tuple[T, str] | None] = SimpleQueue()
        for number in range(limit):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def put(self, item: T, url: str) -> None:
        """Begin; does not wait."""
        found = connected(url, self._options)
        if found is None:
            self._queue.put((item, url))
        else:
            self._await(item, found)

    def close(self) -> None:
        """End soon; what is under way is forgotten."""
        self._closed = True
        for _ in range(self._limit):
            self._queue.put(None)
        with self._lock:
            for fetcher in self._loops.values():
                fetcher.close()

    def _await(self, item: T, found: AsyncObject) -> None:
        loop = found.loop
        fetcher = self._loops.get(loop)
        if fetcher is None:
            with self._lock:
                if self._closed:
                    return
                fetcher = self._loops.setdefault(
                    loop, _LoopFetcher(self._outlet, self._options, limit=self._limit, loop=loop)
                )
        fetcher.put(item, found)

    def _work(self) -> None:
        try:
            while (job := self._queue.get()) is not None and not self._closed:
                self._read(*job)
        except BaseException as error:  # noqa: BLE001  a thread must not die in silence
            self._outlet.broken(error)

    def _read(self, item: T, url: str) -> None:
        started = time.perf_counter()
        try:
            found = connect(url, self._options)
            if found is None and not self._outlet.begin(item):
                return
            data = b"" if found is not None else fetch(url, self._options)
        except BaseException as error:  # noqa: BLE001  one image must not end the thread
            self._outlet.missed(item, error)
            return
        if found is not None:
            self._await(item, found)
        else:
            self._outlet.arrived(item, data, time.perf_counter() - started)


class _LoopFetcher(Generic[T]):
    """The fetches on one event loop. All but `put` and `close` runs there, so that nothing needs a lock.

    Of one web host no more are begun than it may be asked at a time, and none while it wants a pause: the images of
    other hosts are not held up by it.
    """

    def __init__(
        self, outlet: Fetched[T], options: FetchOptions, *, limit: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._outlet = outlet
        self._options = options
        self._limit = limit
        self._loop = loop
        self._waiting: deque[tuple[T, AsyncObject]] = deque()
        self._by_host: dict[str, deque[tuple[T, AsyncObject]]] = {}
        self._asked: Counter[str] = Counter()  # fetches that run, by host
        self._running: set[asyncio.Task[None]] = set()
        self._woken = False
        self._later: asyncio.TimerHandle | None = None

    def put(self, item: T, found: AsyncObject) -> None:
        self._waiting.append((item, found))
        if not self._woken:  # else `_start` is still to come, and will see the item
            self._woken = True
            self._loop.call_soon_threadsafe(self._start)

    def close(self) -> None:
        self._waiting.clear()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._waiting.clear()
        self._by_host.clear()
        for task in list(self._running):
            task.cancel()

    def _start(self) -> None:
        self._woken = False
        self._sort()
        while len(self._running) < self._limit and (host := self._next_host()) is not None:
            queue = self._by_host[host]
            item, found = queue.popleft()
            if not queue:
                del self._by_host[host]
            task = self._loop.create_task(self._fetch(item, found))
            self._asked[host] += 1
            self._running.add(task)
            task.add_done_callback(partial(self._ended, host))
        if self._later is not None:
            self._later.cancel()
        room = self._by_host and len(self._running) < self._limit
        self._later = self._loop.call_later(_PAUSES_S, self._start) if room else None

    def _sort(self) -> None:
        while self._waiting:
            try:
                item, found = self._waiting.popleft()
            except IndexError:  # closed meanwhile
                return
            host = host_of(found.url) if found.scheme in HTTP else _NO_HOST
            self._by_host.setdefault(host, deque()).append((item, found))

    def _next_host(self) -> str | None:
        """The first host that may be asked now; one that wants a pause only where nothing else is to be done."""
        limit = self._options.per_host
        paused = None
        for host in self._by_host:
            if host == _NO_HOST:
                return host
            if self._asked[host] < limit:
                if not is_paused(host, limit=limit):
                    return host
                paused = paused or host
        return None if self._running else paused

    def _ended(self, host: str, task: asyncio.Task[None]) -> None:
        self._asked[host] -= 1
        if not self._asked[host]:
            del self._asked[host]
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._outlet.broken(error)
        self._start()

    async def _fetch(self, item: T, found: AsyncObject) -> None:
        if not self._outlet.begin(item):
            return
        started = time.perf_counter()
        try:
            data = await fetch_async(found, self._options)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  one image must not end the loop
            self._outlet.missed(item, error)
        else:
            self._outlet.arrived(item, data, time.perf_counter() - started)
