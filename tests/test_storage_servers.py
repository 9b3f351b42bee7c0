"""The store on real Google Cloud Storage and S3 servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clip_transforms import listing_pages
from clip_transforms.elements import RequestError
from clip_transforms.lease import Lease
from clip_transforms.sources import list_objects
from clip_transforms.storage import Store
from tests.servers import Server, gcs_server, s3_server
from tests.store_kit import check_commits, check_races, check_store


@pytest.fixture(
    scope="module",
    params=[pytest.param(gcs_server, marks=pytest.mark.gcs), pytest.param(s3_server, marks=pytest.mark.s3)],
    ids=["gcs", "s3"],
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server of each kind for this module."""
    with request.param() as running:
        yield running


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> Store:
    """A folder of the bucket for each test."""
    return Store(f"{server.url}/{request.function.__name__}", server.storage_options)


def test_it_behaves_as_every_store(store: Store) -> None:
    check_store(store)


def test_of_racing_creates_one_wins(store: Store) -> None:
    check_races(store)


def test_two_attempts_at_each_unit_leave_one(store: Store) -> None:
    check_commits(store)


def test_listings_are_paged(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"objects/{number}" for number in range(23)}
    for name in names:
        store.write(name, b"1")
    monkeypatch.setattr(listing_pages, "PAGE", 5)
    versions = {entry.name: entry.version for entry in store.list()}
    assert set(versions) == names
    found = list_objects(store.root, server.storage_options, prefix="objects/1")
    assert {entry.url.removeprefix(f"{store.root}/"): entry.version for entry in found} == {
        name: version for name, version in versions.items() if name.startswith("objects/1")
    }
    store.delete(names)
    assert list(store.list()) == []


# aiohttp warns of every body over 1 MiB that gcsfs hands it as bytes.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_a_large_object_is_sent_whole(server: Server, store: Store) -> None:
    blocks = 55 if server.url.startswith("gs") else 8  # gcsfs would split an object over 50 MiB
    data = bytes(range(256)) * (blocks << 12)
    store.write("large", data)
    assert store.read("large") == data
    assert not store.create("large", data)


def test_a_lease_is_exclusive(store: Store) -> None:
    with Lease.acquire(store, run_id="one"), pytest.raises(RequestError, match="run one"):
        Lease.acquire(store, run_id="two")
    Lease.acquire(store, run_id="two").release()


def test_a_missing_bucket_is_named(server: Server) -> None:
    scheme = server.url.split("://")[0]
    with pytest.raises(RequestError, match=f"{scheme}://nowhere/run: there is no such bucket"):
        Store(f"{scheme}://nowhere/run", server.storage_options).probe()
