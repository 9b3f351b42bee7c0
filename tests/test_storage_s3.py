"""The store on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import Server, s3_server
from store_kit import check_commits, check_races, check_store

from clip_transforms import storage_remote
from clip_transforms.elements import RequestError
from clip_transforms.lease import Lease
from clip_transforms.storage import Store

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for this module."""
    with s3_server() as running:
        yield running


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> Store:
    """A folder of the bucket for each test."""
    return Store(f"{server.url}/{request.node.name}", server.storage_options)


def test_it_behaves_as_every_store(store: Store) -> None:
    check_store(store)


def test_of_racing_creates_one_wins(store: Store) -> None:
    check_races(store)


def test_two_attempts_at_each_unit_leave_one(store: Store) -> None:
    check_commits(store)


def test_listings_are_paged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"objects/{number}" for number in range(23)}
    for name in names:
        store.write(name, b"1")
    monkeypatch.setattr(storage_remote, "_PAGE", 5)
    assert {entry.name for entry in store.list()} == names
    store.delete(names)
    assert list(store.list()) == []


def test_a_large_object_is_sent_whole(store: Store) -> None:
    data = bytes(range(256)) * (8 << 12)
    store.write("large", data)
    assert store.read("large") == data
    assert not store.create("large", data)


def test_a_lease_is_exclusive(store: Store) -> None:
    with Lease.acquire(store, run_id="one"), pytest.raises(RequestError, match="run one"):
        Lease.acquire(store, run_id="two")
    Lease.acquire(store, run_id="two").release()


def test_a_missing_bucket_is_named(server: Server) -> None:
    with pytest.raises(RequestError, match=r"s3://nowhere/run: there is no such bucket"):
        Store("s3://nowhere/run", server.storage_options).probe()
