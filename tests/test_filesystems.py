"""Opening file systems: which clients are shared, what they are told, and what a url means."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from clip_transforms.elements import RequestError
from clip_transforms.fetch import FetchOptions, fetch
from clip_transforms.filesystems import (
    BadUrlError,
    borrow_filesystem,
    is_chain,
    open_filesystem,
    protocol_of,
    shown,
)
from clip_transforms.storage import Store
from clip_transforms.url_guard import schemes_of

REGISTRY = importlib.import_module("fsspec.registry")._registry  # as an attribute it is a view of itself
GCS = {"token": "anon", "project": "p", "endpoint_url": "http://127.0.0.1:9"}
S3 = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"}


@pytest.mark.parametrize(("url", "options"), [("gs://one/a", GCS), ("s3://one/a", S3), ("http://one/a", {})])
def test_all_threads_share_one_client_for_equal_options(url: str, options: dict[str, object]) -> None:
    urls = [url, url.replace("one", "two")] * 8
    with ThreadPoolExecutor(8) as pool:
        clients = {id(client) for client, _ in pool.map(lambda each: open_filesystem(each, options), urls)}
    assert len(clients) == 1
    assert id(open_filesystem(url, {**options, "client_kwargs": {"trust_env": True}})[0]) not in clients
    assert fsspec.filesystem(url.split(":")[0], **options) is not open_filesystem(url, options)[0]


def _id_of_client(pipe: Any) -> None:
    pipe.send(id(open_filesystem("gs://bucket/a", GCS)[0]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads
def test_a_forked_process_has_its_own() -> None:
    here, there = multiprocessing.Pipe()
    mine = open_filesystem("gs://bucket/a", GCS)[0]
    child = multiprocessing.get_context("fork").Process(target=_id_of_client, args=(there,))
    child.start()
    assert here.poll(20) and here.recv() != id(mine)
    child.join(20)
    assert child.exitcode == 0


def test_what_each_client_is_told() -> None:
    for url, options in (("gs://b/a", GCS), ("s3://b/a", S3), ("memory://a", {}), ("http://b/a", {})):
        client, _ = open_filesystem(url, options)
        assert not client.dircache.use_listings_cache

    gcs = open_filesystem("gs://b/a", GCS)[0].requests_timeout
    http = open_filesystem("http://b/a")[0].client_kwargs["timeout"]
    assert (gcs.total, gcs.sock_read, http.total, http.sock_read) == (None, 60.0, None, 60.0)
    assert open_filesystem("gs://b/a", {**GCS, "requests_timeout": 7})[0].requests_timeout == 7

    config = {"read_timeout": 3}
    store = open_filesystem("s3://b/a", {**S3, "config_kwargs": config})[0]
    assert store.config_kwargs == {"read_timeout": 3, "max_pool_connections": 100}
    assert (store.retries, config) == (5, {"read_timeout": 3})
    bare = open_filesystem("s3://b/a", S3, hidden_retries=False)[0]
    assert bare.retries == 1 and type(bare).retries == 5
    assert bare.config_kwargs["retries"] == {"mode": "standard", "total_max_attempts": 1}


def test_http_takes_its_options_only() -> None:
    client, path = open_filesystem("HTTPS://host/a/?b=%20", {**GCS, "headers": {"X": "1"}})
    assert client.kwargs == {"headers": {"X": "1"}}
    assert path == "https://host/a/?b=%20"


def test_gcsfs_is_imported_with_its_question_for_the_buckets_type_off() -> None:
    code = (
        "import os, sys; from clip_transforms.filesystems import open_filesystem; "
        "assert not {'gcsfs', 'fsspec'} & set(sys.modules); open_filesystem('gs://b/a', {'token': 'anon'}); "
        "import gcsfs; print(os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'], gcsfs.GCSFileSystem.__module__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["false", "gcsfs.core"]


class Strict(AbstractFileSystem):
    """Refuses options that it does not know, as the connection of sftp does; counts its objects."""

    protocol = "ssh"
    made: list[str]

    def __init__(self, host: str, username: str = "") -> None:
        super().__init__()
        self.host = host
        type(self).made.append(host)

    _get_kwargs_from_urls = staticmethod(lambda url: {"host": url.split("/")[2]})

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        if self.host == "broken":
            raise ConnectionResetError
        return self.host.encode()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Strict]]:
    Strict.made = []
    monkeypatch.setitem(REGISTRY, "ssh", Strict)
    yield Strict
    Strict.clear_instance_cache()


def test_no_option_reaches_a_client_that_does_not_know_it(strict: type[Strict]) -> None:
    assert open_filesystem("ssh://host/a", {"username": "me"})[0].host == "host"
    with pytest.raises(RequestError, match=r"options pasword do not fit ssh:// .*unexpected keyword"):
        open_filesystem("ssh://host/a", {"pasword": "hush"})


def test_a_blocking_client_is_lent_to_one_at_a_time_and_kept(strict: type[Strict]) -> None:
    with (
        borrow_filesystem("ssh://one/a", {}) as (first, _),
        borrow_filesystem("ssh://one/b", {}) as (second, _),
    ):
        assert first is not second
    with borrow_filesystem("ssh://one/c", {}) as (again, _):
        assert again in (first, second)
    with pytest.raises(ConnectionResetError), borrow_filesystem("ssh://broken/c", {}) as (broken, path):
        broken.cat_file(path)
    with borrow_filesystem("ssh://broken/c", {}) as (new, _):
        assert new is not broken
    assert strict.made == ["one", "one", "broken", "broken"]


def test_the_host_of_a_url_counts_before_that_of_the_options(strict: type[Strict]) -> None:
    for host in ("one", "two"):
        assert (
            fetch(f"ssh://{host}/a", FetchOptions(storage_options={"host": "three"}, schemes=("ssh",)))
            == host.encode()
        )


def test_a_chain_of_urls(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("a.jpg", b"inside")
    url = f"zip://a.jpg::file://{tmp_path}/x.zip"
    filesystem, path = open_filesystem(url)
    assert filesystem.cat_file(path) == b"inside"
    assert fetch(url, FetchOptions(schemes=schemes_of([url]))) == b"inside"
    with pytest.raises(RequestError, match="chain of urls"):
        open_filesystem("zip://a.jpg::nosuch://b/x.zip")


def test_names_that_look_like_a_chain_or_a_url(tmp_path: Path) -> None:
    for name in ("a::b", "x://y", "file::z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "c.jpg").write_bytes(b"1")
        assert protocol_of(f"{tmp_path}/{name}") == "file"
        store = Store(f"{tmp_path}/{name}")
        assert [entry.name for entry in store.list()] == ["c.jpg"]
        filesystem, path = open_filesystem(f"{tmp_path}/{name}/c.jpg")
        assert filesystem.cat_file(path) == b"1"
    assert Store("FILE:///a/b").root == "/a/b"
    for url in ("gs://bucket/i::j.jpg", "s3://bucket/i::j.jpg?versionId=1", "gs://bucket/a#12"):
        filesystem, path = open_filesystem(url, GCS if url.startswith("gs") else S3)
        assert (path, filesystem.version_aware, is_chain(url)) == (url.split("://")[1], False, False)


def test_a_url_that_leads_nowhere() -> None:
    with pytest.raises(BadUrlError, match="nosuch://host/a cannot be used: no store is known for") as caught:
        open_filesystem("nosuch://me:secret@host/a?sig=secret")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problem) == (str(caught.value), "no store is known for the scheme 'nosuch'")
    with pytest.raises(BadUrlError, match=r"ftp://host:port/a cannot be used: not a valid url"):
        open_filesystem("ftp://host:port/a")


def test_a_slow_connection_holds_up_nobody_elses_listing(strict: type[Strict]) -> None:
    """Blocking clients connect outside the lock."""
    begun, release = threading.Event(), threading.Event()

    class Slow(Strict):
        def __init__(self, host: str) -> None:
            begun.set()
            release.wait(20)
            super().__init__(host)

    REGISTRY["ssh"] = Slow
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_filesystem, "ssh://host/a")
        assert begun.wait(20)
        assert open_filesystem("memory://a")[1] == "/a"
        release.set()
        assert waiting.result(20)[0].host == "host"


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("simplecache::https://me:pw@host/x?sig=1", "simplecache::https://host/x"),
        ("zip://a.jpg::s3://k:s@bucket/b.zip", "zip://a.jpg::s3://bucket/b.zip"),
        ("zip://a.jpg::simplecache::ftp://me:p@ss@host/b.zip", "zip://a.jpg::simplecache::ftp://host/b.zip"),
        ("gs://bucket/a::b@c.jpg", "gs://bucket/a::b@c.jpg"),
        ("/data/a::b.jpg", "/data/a::b.jpg"),
    ],
)
def test_what_is_printed_of_a_url_holds_no_credentials_in_any_link_of_a_chain(url: str, printed: str) -> None:
    assert shown(url) == printed


def test_an_error_about_a_chain_does_not_tell_its_password() -> None:
    with pytest.raises(RequestError, match="nosuch") as raised:
        open_filesystem("nosuch::https://me:secret@host/x")
    assert "secret" not in str(raised.value)
