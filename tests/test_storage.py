"""Stores: whole objects, create-only puts, retries, listings, and the probe before a run."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import tenacity

from clip_transforms import retries, storage_local
from clip_transforms.elements import RequestError, StoreError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.storage import Store
from clip_transforms.storage_errors import http_status, is_exists, is_missing, is_transient
from tests import faulty_store
from tests.store_kit import check_commits, check_races, check_store


@pytest.fixture(params=["local", "memory", "faulty"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind that needs no server."""
    if request.param == "memory":
        yield Store(f"memory://{tmp_path.name}/run")
        with contextlib.suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
        return
    prefix = "" if request.param == "local" else "faulty://"
    yield Store(f"{prefix}{tmp_path}/run")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Store]:
    """Makes a faulty store; keywords are its variables, e.g. at=1, action="flaky"."""
    monkeypatch.setattr(retries, "RETRY_WAIT", tenacity.wait_none())

    def make(**variables: object) -> Store:
        for name, value in variables.items():
            monkeypatch.setenv(f"FAULTY_{name.upper()}", str(value))
        monkeypatch.setattr(faulty_store, "_count", 0)
        return Store(f"faulty://{tmp_path}/run")

    return make


def test_every_store_behaves_alike(store: Store) -> None:
    check_store(store)


def test_of_racing_creates_one_wins(store: Store) -> None:
    check_races(store)


def test_two_attempts_at_each_unit_leave_one(store: Store) -> None:
    check_commits(store)


def test_a_local_root_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("run", "./run/", f"file://{tmp_path}/run", f"local://{tmp_path}/run"):
        assert Store(url).root == f"{tmp_path}/run"
    assert Store("gs://bucket/run/").root == "gs://bucket/run"
    assert Store("/").join("a") == "/a"
    (tmp_path / "a::b").mkdir()
    Store(f"{tmp_path}/a::b/#[x]?").write("c", b"1")
    assert (tmp_path / "a::b" / "#[x]?" / "c").read_bytes() == b"1"


def test_the_options_are_not_shown() -> None:
    assert repr(Store("gs://bucket/run", {"token": "secret"})) == "Store('gs://bucket/run')"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_names_stay_below_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name below"):
        Store(str(tmp_path)).write(name, b"")
    with pytest.raises(ValueError, match="not a name below"):
        Store(str(tmp_path)).delete([name])


def test_readers_never_see_half_an_object(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("object", b"0" * 200_000)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.write("object", str(number % 10).encode() * 200_000)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(60):
            data = store.read("object")
            assert len(data) == 200_000 and len(set(data)) == 1
            assert [entry.name for entry in store.list()] == ["object"]
    finally:
        stop.set()
        thread.join()


def test_a_failing_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(str(tmp_path / "run"))
    store.write("kept", b"1")
    monkeypatch.setattr(os, "fsync", full)
    for put in (store.write, store.create):
        with pytest.raises(StoreError, match="No space left on device"):
            put("new", b"1" * 1000)
    assert os.listdir(tmp_path / "run") == ["kept"]


def test_a_write_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    """With a real limit on the size of files: the bytes up to it are written, then the write fails."""
    code = (
        "import resource, sys; from clip_transforms.storage import Store; "
        "from clip_transforms.elements import StoreError; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); store = Store(sys.argv[1])\n"
        "for put in (store.write, store.create):\n"
        "    try: put('object', b'1' * 100_000)\n"
        "    except StoreError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.count("File too large") == 2
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_goes_with_its_last_object(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete(["a/b/c"])
    assert sorted(os.listdir(tmp_path / "run" / "a")) == ["d"]
    store.delete(["a/d"])
    assert os.listdir(tmp_path / "run") == []  # the root stays


def test_temporary_files_are_hidden_and_can_be_removed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("parts/one", b"1")
    (tmp_path / "parts" / ".tmp-0123").write_bytes(b"half")
    assert [entry.name for entry in store.list()] == ["parts/one"]
    store.delete_temporaries("parts")
    assert os.listdir(tmp_path / "parts") == ["one"]


def test_a_writer_whose_temporary_file_was_removed_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store(str(tmp_path)), []
    original = storage_local._write_through

    def removed(path: Path, data: bytes) -> None:
        original(path, data)
        calls.append(path)
        if len(calls) % 2:
            store.delete_temporaries()

    monkeypatch.setattr(storage_local, "_write_through", removed)
    store.write("one", b"1")
    assert store.create("two", b"2")
    assert (store.read("one"), store.read("two"), len(calls)) == (b"1", b"2", 4)


def test_a_link_whose_answer_was_lost_is_known_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lost(source: Any, target: Any) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lost)
    assert Store(str(tmp_path)).create("one", b"1")


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Any, target: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(RequestError, match=r"no hard links.*give another --output"):
        Store(str(tmp_path / "run")).probe()
    assert os.listdir(tmp_path) == []


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    Store(str(tmp_path / "kept")).probe()
    Store(str(tmp_path / "new" / "deep" / "run")).probe()
    Store(f"faulty://{tmp_path}/kept").probe()
    assert os.listdir(tmp_path) == ["kept"] and os.listdir(tmp_path / "kept") == []


def test_the_probe_refuses_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RequestError, match="is a file; give a folder"):
        Store(str(tmp_path / "run")).probe()
    with pytest.raises(RequestError, match="cannot write to the output"):
        Store(str(tmp_path / "run" / "deeper")).probe()


def test_the_probe_refuses_a_folder_without_rights() -> None:
    """In a process that is not root, which may write anywhere."""
    code = (
        "import os, sys; from clip_transforms.storage import Store\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: Store(sys.argv[1]).probe()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", code, f"{folder}/run"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    refused = f"RequestError cannot write to the output {folder}/run: [Errno 13] Permission denied"
    assert run.stdout.startswith(refused)


def test_the_probe_refuses_what_cannot_create_only_if_absent(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/run", f"simplecache::file://{tmp_path}"):
        with pytest.raises(RequestError, match="--output"):
            Store(url).probe()
    with pytest.raises(RequestError, match="cannot be used"):
        Store("nosuch://bucket/run").probe()


def test_the_probe_notices_a_server_that_ignores_the_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = faulty_store.FaultyFileSystem.pipe_file
    monkeypatch.setattr(
        faulty_store.FaultyFileSystem, "pipe_file", lambda self, path, value, mode="": put(self, path, value)
    )
    with pytest.raises(RequestError, match="replaces an object that should be created only if absent"):
        Store(f"faulty://{tmp_path}/run").probe()


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(imported, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # type: ignore[arg-type]
    for url in ("gs://bucket/run", "simplecache::gs://bucket/run"):
        with pytest.raises(RequestError, match=r"pip install 'beamclip\[gcs\]'"):
            open_filesystem(url)


def test_a_timeout_is_retried(faulty: Callable[..., Store]) -> None:
    store = faulty(at=1, action="flaky", when="before")
    store.write("one", b"1")
    assert store.read("one") == b"1" and faulty_store._count == 2


def test_a_create_whose_answer_was_lost_finds_its_own_object(faulty: Callable[..., Store]) -> None:
    store = faulty(at=1, action="flaky", when="after")
    assert not store.create("one", b"mine")
    assert store.read("one") == b"mine"


def test_the_probe_stands_a_lost_answer(faulty: Callable[..., Store]) -> None:
    faulty(at=1, action="flaky", when="after").probe()


def test_a_final_error_is_not_retried(faulty: Callable[..., Store]) -> None:
    store = faulty(at=1, action="raise")
    with pytest.raises(StoreError, match=r"cannot write .*/run/one: OSError: .*the store failed"):
        store.write("one", b"1")
    assert faulty_store._count == 1
    assert list(store.list()) == []


def test_retries_end(faulty: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = faulty()
    calls = []

    def never(self: object, path: str, value: bytes, mode: str = "") -> None:
        calls.append(path)
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(faulty_store.FaultyFileSystem, "pipe_file", never)
    with pytest.raises(StoreError, match="ConnectionResetError"):
        store.write("one", b"1")
    assert len(calls) == 5


def _botocore(status: int) -> OSError:
    error = OSError(errno.EINVAL, "translated by s3fs")
    error.__cause__ = Exception()
    error.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error


def _gcsfs(status: int) -> Exception:
    error = Exception("HttpError of gcsfs")
    error.code = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("make", [_botocore, _gcsfs])
def test_errors_are_told_apart_by_status(make: Callable[[int], Exception]) -> None:
    statuses = (400, 401, 403, 404, 408, 409, 412, 429, 500, 502, 503, 504)
    assert [http_status(make(status)) for status in statuses] == list(statuses)
    assert [s for s in statuses if is_transient(make(s))] == [408, 409, 429, 500, 502, 503, 504]
    assert [s for s in statuses if is_exists(make(s))] == [412]
    assert [s for s in statuses if is_missing(make(s))] == [404]


def test_other_errors_are_told_apart() -> None:
    transient = type("ServerTimeoutError", (Exception,), {})()
    assert (
        is_transient(transient)
        and is_transient(OSError(errno.ESTALE, ""))
        and is_transient(EOFError()) is False
    )
    assert not is_transient(OSError("Forbidden: https://storage.googleapis.com/..."))  # gcsfs: 403
    assert not is_transient(OSError(errno.ENOSPC, ""))
    assert is_exists(FileExistsError()) and is_missing(NotADirectoryError())
    assert http_status(SimpleNamespace(__cause__=None, code="NoSuchKey")) is None  # type: ignore[arg-type]
