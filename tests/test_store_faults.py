"""Stores and fetch on real servers that fail now and then: what is retried, how often, and what is not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import aiohttp
import pytest
import tenacity

from clip_transforms import retries
from clip_transforms.elements import ImageError, Reason, StoreError
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.retries import ATTEMPTS, retried
from clip_transforms.sources import list_objects
from clip_transforms.storage import Store
from tests.flaky_proxy import Fault, FlakyProxy, flaky_proxy
from tests.servers import gcs_server, s3_server

DATA = bytes(range(256)) * 4
PASSING: tuple[Fault, ...] = (503, 429, 500, "close", "cut")


@pytest.fixture(
    scope="module",
    params=[pytest.param(gcs_server, marks=pytest.mark.gcs), pytest.param(s3_server, marks=pytest.mark.s3)],
    ids=["gcs", "s3"],
)
def server(request: pytest.FixtureRequest) -> Iterator[FlakyProxy]:
    """Each kind of server in turn, behind a proxy."""
    with request.param() as running, flaky_proxy(running) as proxy:
        yield proxy


@pytest.fixture
def proxy(server: FlakyProxy) -> FlakyProxy:
    """The proxy, passing everything on."""
    server.fail(None)
    return server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clients would have waited, in order; our own retries do not wait."""
    asked: list[float] = []
    sleep = asyncio.sleep

    async def short(delay: float, result: object = None) -> object:
        if delay > 0:
            asked.append(delay)
        return await sleep(min(delay, 0.001), result)

    monkeypatch.setattr(asyncio, "sleep", short)
    monkeypatch.setattr(retries, "RETRY_WAIT", tenacity.wait_none())
    return asked


@pytest.fixture
def store(proxy: FlakyProxy, request: pytest.FixtureRequest) -> Store:
    """A folder of the bucket for each test, with the object `here`."""
    found = Store(f"{proxy.server.url}/{request.function.__name__}", proxy.server.storage_options)
    found.write("here", DATA)
    return found


def impatient(proxy: FlakyProxy) -> dict[str, object]:
    """Storage options of a client that gives a silent server up after 0.2 s."""
    options = dict(proxy.server.storage_options)
    if proxy.server.url.startswith("s3"):
        options["config_kwargs"] = {"read_timeout": 0.2}
    else:
        options["requests_timeout"] = aiohttp.ClientTimeout(total=None, sock_read=0.2)
    return options


def fetched(store: Store, name: str = "here", **options: object) -> bytes:
    given = FetchOptions(storage_options=store.storage_options, **options)  # type: ignore[arg-type]
    return fetch(store.join(name), given, sleep=lambda seconds: None)


def is_s3(store: Store) -> bool:
    return store.root.startswith("s3")


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_retried(proxy: FlakyProxy, store: Store, fault: Fault) -> None:
    def twice() -> None:
        proxy.fail(fault, first=2)

    twice()
    assert store.read("here") == DATA
    twice()
    store.write("new", b"new")
    twice()
    assert store.exists("here")
    twice()
    assert {entry.name: entry.size for entry in store.list()} == {"here": len(DATA), "new": 3}
    twice()
    found = list_objects(store.root, store.storage_options)
    assert {entry.url: entry.size for entry in found} == {store.join("here"): len(DATA), store.join("new"): 3}
    twice()
    with store.open("here") as file:
        assert file.read() == DATA
    twice()
    assert fetched(store) == DATA
    assert len(proxy.seen) == 3
    twice()
    store.delete(["here", "new"])
    proxy.fail(None)
    assert list(store.list()) == []


def test_a_silent_server_is_asked_again(proxy: FlakyProxy) -> None:
    store = Store(f"{proxy.server.url}/silent", impatient(proxy))
    store.write("here", DATA)
    for action, found in (
        (lambda: store.read("here"), DATA),
        (lambda: [entry.name for entry in store.list()], ["here"]),
        (lambda: fetched(store), DATA),
        (lambda: store.write("here", DATA), None),
    ):
        proxy.fail("silence", first=2)
        assert action() == found
        assert len(proxy.seen) == 3
    patient = Store(store.root, proxy.server.storage_options)
    proxy.fail("silence", first=1)
    assert fetched(patient, timeout_s=0.5) == DATA  # the deadline of fetch's attempt is earlier


def test_of_a_put_whose_answer_was_lost_the_object_is_there(proxy: FlakyProxy, store: Store) -> None:
    proxy.fail("lost", first=1)
    store.write("new", b"1")
    assert len(proxy.seen) == 2 and store.read("new") == b"1"
    proxy.fail("lost", first=1)
    assert not store.create("mine", b"mine")  # the second put finds the first's object
    assert store.read("mine") == b"mine"
    proxy.fail("lost", first=1)
    store.probe()
    proxy.fail("lost", first=1)
    store.delete(["new", "mine"])
    assert [entry.name for entry in store.list()] == ["here"]


def test_one_request_in_twenty_fails(proxy: FlakyProxy, store: Store) -> None:
    rng = random.Random(7)
    failed: list[str] = []

    def fault(number: int, request: str) -> Fault:
        if rng.random() >= 0.05:
            return None
        failed.append(request)
        return rng.choice((*PASSING, "lost"))

    proxy.fault = fault
    names = [f"objects/{number}" for number in range(80)]
    for name in names:
        if not store.create(name, name.encode()):
            assert store.read(name) == name.encode()  # ours, after a lost answer
    assert {entry.name for entry in store.list("objects")} == set(names)
    assert all(store.read(name) == name.encode() for name in names)
    assert all(fetched(store, name) == name.encode() for name in names)
    store.delete(names)
    assert [entry.name for entry in store.list()] == ["here"]
    assert len(failed) > 10


@pytest.mark.parametrize("status", [403, 404])
def test_what_stays_is_said_at_once(proxy: FlakyProxy, store: Store, waits: list[float], status: int) -> None:
    asked: dict[str, int] = {}

    def say(name: str, action: object, error: type[Exception]) -> None:
        proxy.fail(status)
        with pytest.raises(error):
            action()  # type: ignore[operator]
        asked[name] = len(proxy.seen)

    missing = FileNotFoundError if status == 404 else StoreError
    say("read", lambda: store.read("here"), missing)
    say("open", lambda: store.open("here"), missing)
    say("write", lambda: store.write("new", b""), StoreError)
    say("create", lambda: store.create("new", b""), StoreError)
    say("list", lambda: list(store.list()), StoreError)
    if status == 403:
        say("exists", lambda: store.exists("here"), StoreError)
        say("delete", lambda: store.delete(["here"]), StoreError)
    opened = asked.pop("open")  # gcsfs and s3fs look for the object and for a folder of its name
    assert set(asked.values()) == {1} and opened <= 3

    proxy.fail(status)
    with pytest.raises(ImageError) as caught:
        fetched(store)
    assert caught.value.reason is (Reason.NOT_FOUND if status == 404 else Reason.FORBIDDEN)
    assert (caught.value.attempts, len(proxy.seen)) == (1, 1)
    assert waits == []


@pytest.mark.parametrize(
    ("fault", "gcs", "s3"), [(503, 30, 125), (500, 30, 25), (429, 30, 25), ("cut", 30, 5)]
)
def test_retries_end_and_are_as_many_as_documented(
    proxy: FlakyProxy, store: Store, waits: list[float], fault: Fault, gcs: int, s3: int
) -> None:
    proxy.fail(fault)
    with pytest.raises(StoreError, match="cannot read"):
        store.read("here")
    assert len(proxy.seen) == (s3 if is_s3(store) else gcs)
    if not is_s3(store):  # five times 1, 2, 4, 8 and 16 s, each and up to 1 s more
        assert 5 * 31 <= sum(waits) <= 5 * 36
    waits.clear()
    proxy.fail(fault)
    with pytest.raises(ImageError) as caught:
        fetched(store)
    assert caught.value.attempts == 4
    assert len(proxy.seen) == (4 if is_s3(store) else 24)


def test_a_page_that_fails_is_asked_for_again_and_no_other(
    proxy: FlakyProxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More failures than a client stands by itself: the listing goes on where it was."""
    for number in range(6):
        store.write(f"page/{number}", b"1")
    monkeypatch.setattr("clip_transforms.listing_pages.PAGE", 2)
    found = store.list("page")
    names = [next(found).name, next(found).name]
    proxy.fail(503, first=26)
    names += [entry.name for entry in found]
    assert sorted(names) == [f"page/{number}" for number in range(6)]
    assert len(proxy.seen) == 26 + 2


def test_our_waits_grow_at_random_and_end() -> None:
    waits: list[float] = []

    def fail() -> None:
        raise TimeoutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "RETRY_WAIT", tenacity.wait_random_exponential(multiplier=0.2, max=20))
        for _ in range(50):
            with pytest.raises(TimeoutError):
                retried(fail, what="read", sleep=waits.append)
    assert len(waits) == 50 * (ATTEMPTS - 1)
    for number in range(ATTEMPTS - 1):
        of_number = waits[number :: ATTEMPTS - 1]
        assert 0 <= min(of_number) < max(of_number) <= 0.2 * 2**number
    assert len(set(waits)) > 100


def test_a_final_error_is_not_repeated() -> None:
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise PermissionError(13, "no")

    with pytest.raises(PermissionError):
        retried(refuse, what="read", sleep=lambda seconds: pytest.fail("waited"))
    assert calls == [1]
