"""How the engine fetches from a store with an asyncio client: limits, ends, and clients that misbehave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from clip_transforms.elements import ImageError, Reason, RequestError
from clip_transforms.engine.fetchers import Fetchers
from clip_transforms.fetch import FetchOptions

WAIT_S = 20


class Store(AsyncFileSystem):
    """`slowly://ok/7` is b"7" after a while; `missing`, `stuck` (swallows its cancellation) and `odd` are others."""

    protocol = "slowly"
    now = most = asked = opened = 0
    refuses = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        type(self).opened += 1
        if type(self).refuses:
            raise TypeError("an unexpected keyword argument")

    async def _cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        kind, _, name = path.partition("/")
        cls = type(self)
        cls.asked += 1
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        try:
            return await getattr(self, kind)(name)
        finally:
            cls.now -= 1

    async def ok(self, name: str) -> bytes:
        await asyncio.sleep(0.02)
        return name.encode()

    async def missing(self, name: str) -> bytes:
        raise FileNotFoundError(name)

    async def odd(self, name: str) -> bytes:
        raise RuntimeError("secret")

    async def gone(self, name: str) -> bytes:
        waited: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waited.cancel()
        return await waited

    async def stuck(self, name: str) -> bytes:
        for _ in range(50):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue
        return b"too late"


class Outlet:
    """Keeps what comes, and wakes who waits for it."""

    def __init__(self, unwanted: str = "") -> None:
        self.ends: list[tuple[str, object]] = []
        self.unwanted = unwanted
        self.changed = threading.Condition()

    def begin(self, item: str) -> bool:
        return item != self.unwanted

    def arrived(self, item: str, data: bytes, seconds: float) -> None:
        self._end(item, data)

    def missed(self, item: str, error: BaseException) -> None:
        self._end(item, error)

    def broken(self, error: BaseException) -> None:
        self._end("broken", error)

    def _end(self, item: str, outcome: object) -> None:
        with self.changed:
            self.ends.append((item, outcome))
            self.changed.notify_all()

    def wait(self, count: int) -> dict[str, object]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ends) >= count, WAIT_S), self.ends
        assert len(self.ends) == count == len(dict(self.ends))
        return dict(self.ends)


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    Store.now = Store.most = Store.asked = Store.opened = 0
    Store.refuses = False
    fsspec.register_implementation("slowly", Store, clobber=True)
    yield
    fsspec.register_implementation("slowly", Store, clobber=True)


def fetchers(outlet: Outlet, *, limit: int = 4, **options: Any) -> Fetchers[str]:
    # A client of the test's own: the store's options are part of what tells clients apart.
    unlike = {"mark": f"{id(outlet)}-{time.monotonic()}"}
    given = FetchOptions(storage_options=unlike, schemes=("slowly",), **options)
    return Fetchers(outlet, given, limit=limit, name="test-fetch")


def test_every_item_ends_once_and_no_more_than_the_limit_run() -> None:
    outlet = Outlet()
    fetching = fetchers(outlet)
    for number in range(40):
        fetching.put(str(number), f"slowly://ok/{number}")
    assert outlet.wait(40) == {str(number): str(number).encode() for number in range(40)}
    assert (Store.most, Store.asked, Store.opened) == (4, 40, 1)
    fetching.close()


def test_failures_are_their_own_images() -> None:
    outlet = Outlet(unwanted="unwanted")
    fetching = fetchers(outlet, attempts=1)
    fetching.put("unwanted", "slowly://ok/0")
    for kind in ("missing", "odd", "gone", "ok"):
        fetching.put(kind, f"slowly://{kind}/1")
    ends = outlet.wait(4)
    reasons = {name: end.reason for name, end in ends.items() if isinstance(end, ImageError)}
    assert reasons == {"missing": Reason.NOT_FOUND, "odd": Reason.HTTP_ERROR, "gone": Reason.HTTP_ERROR}
    assert ends["ok"] == b"1"
    assert Store.asked == 4
    fetching.close()


def test_a_client_that_swallows_its_cancellation_holds_nobody_up() -> None:
    outlet = Outlet()
    fetching = fetchers(outlet, limit=1, timeout_s=0.1, attempts=1)
    started = time.monotonic()
    fetching.put("stuck", "slowly://stuck/1")
    fetching.put("next", "slowly://ok/2")
    ends = outlet.wait(2)
    assert isinstance(ends["stuck"], ImageError) and ends["stuck"].reason is Reason.TIMEOUT
    assert ends["next"] == b"2"
    assert time.monotonic() - started < 10
    fetching.close()


def test_a_store_that_cannot_be_opened_is_said_for_each_image() -> None:
    Store.refuses = True
    outlet = Outlet()
    fetching = fetchers(outlet)
    for name in "ab":
        fetching.put(name, f"slowly://ok/{name}")
    assert {type(end) for end in outlet.wait(2).values()} == {RequestError}
    fetching.close()


def test_nothing_comes_after_the_close() -> None:
    outlet = Outlet()
    fetching = fetchers(outlet, limit=2)
    fetching.put("first", "slowly://ok/1")
    outlet.wait(1)
    for number in range(20):
        fetching.put(str(number), f"slowly://ok/{number}")
    fetching.close()
    time.sleep(0.2)
    before = len(outlet.ends)
    time.sleep(0.2)
    assert len(outlet.ends) == before < 20
    assert Store.now == 0
