"""Fetching from real servers on loopback: HTTP, S3 and GCS over the wire, memory and local files."""

from __future__ import annotations

import asyncio
import ftplib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from clip_transforms.elements import ImageError, Reason, RequestError, Stage
from clip_transforms.fetch import FetchOptions, connect, connected, fetch, fetch_async
from clip_transforms.fetch_errors import classify
from clip_transforms.filesystems import open_filesystem

BODY = bytes(range(256)) * 8


class Handler(BaseHTTPRequestHandler):
    """`/status/404`, `/flaky/503` (fails twice), ... ; S3 and GCS ask for the same under other paths."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]
    stop: threading.Event

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        type(self).seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        path = self.path.partition("?")[0].replace("%2F", "/")
        word, _, rest = path.partition("what/")[2].removeprefix("o/").partition("/")
        getattr(self, f"do_{word}", self.do_whole)(rest)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(body))))
        self.end_headers()
        self.wfile.write(body)

    def do_whole(self, _: str) -> None:
        self.answer(200, BODY)

    def do_ranged(self, size: str) -> None:
        body = BODY[: int(size or len(BODY))]
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        if not body:
            return self.answer(416, b"<Code>InvalidRange</Code>", Content_Range="bytes */0")
        part = body[int(first) : int(last) + 1]
        return self.answer(206, part, Content_Range=f"bytes 0-{len(part) - 1}/{len(body)}")

    def do_short(self, _: str) -> None:
        if "Range" not in self.headers:
            return self.answer(200, BODY)
        return self.answer(206, BODY[:100], Content_Range=f"bytes 0-99/{len(BODY)}")

    def do_odd416(self, _: str) -> None:
        self.answer(416 if "Range" in self.headers else 200, BODY)

    def do_empty(self, _: str) -> None:
        self.answer(200)

    def do_status(self, status: str) -> None:
        self.answer(int(status), b"secret request id 123")

    def do_flaky(self, status: str) -> None:
        asked = sum(path == self.path for path, _ in type(self).seen)
        self.answer(int(status) if asked < 3 else 200, BODY, Retry_After="7")

    def do_redirect(self, _: str) -> None:
        self.answer(302, Location="/what/whole/")

    def do_loop(self, _: str) -> None:
        self.answer(302, Location="/what/loop/")

    def do_hang(self, _: str) -> None:
        type(self).stop.wait(30)

    def do_drip(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not type(self).stop.wait(0.05):
            try:
                self.wfile.write(b"x")
            except OSError:
                return
        self.close_connection = True

    def do_endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for _chunk in range(2000):
                self.wfile.write(bytes(2**20))
            type(self).seen.append(("all of it was read", {}))
        except OSError:
            pass

    def do_broken(self, _: str) -> None:
        self.answer(200, BODY[:100], length="2048")
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[str]:
    Handler.seen, Handler.stop = [], threading.Event()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/what/"
    Handler.stop.set()
    http.shutdown()
    http.server_close()
    thread.join()


def allowing(**options: Any) -> FetchOptions:
    """Options that let the test's servers be reached, which are on loopback (tests/test_url_guard.py has the guard)."""
    return FetchOptions(allow_private_urls=True, **options)


def on_the_loop(url: str, options: FetchOptions, *, sleep: Callable[[float], object] = time.sleep) -> bytes:
    """`fetch` as the engine does it: awaited on the client's loop, or in this thread where there is none."""

    async def wait(seconds: float) -> None:
        sleep(seconds)

    found = connect(url, options, sleep=sleep)
    if found is None:
        return fetch(url, options, sleep=sleep)
    again = connected(url, options)
    assert again is not None and again.store is found.store
    waiting = asyncio.run_coroutine_threadsafe(fetch_async(again, options, sleep=wait), again.loop)
    return waiting.result(30)


@pytest.fixture(params=["thread", "loop"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test fetches from a thread that waits, and from the loop."""
    if request.param == "loop":
        monkeypatch.setattr(sys.modules[__name__], "get", on_the_loop)


get = fetch


def failure(url: str, **options: object) -> ImageError:
    waits: list[float] = []
    with pytest.raises(ImageError) as caught:
        get(url, allowing(**options), sleep=waits.append)
    error = caught.value
    assert error.stage is Stage.FETCH
    assert len(waits) == error.attempts - 1
    assert error.__cause__ is None and error.__context__ is None
    for secret in ("secret", "127.0.0.1", "0x", "http://"):
        assert secret not in error.message
    return error


# --- HTTP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["whole/", "ranged/", "short/", "odd416/", "redirect/"])
def test_http_bodies(server: str, path: str) -> None:
    assert get(server + path, allowing()) == BODY


def test_one_ranged_request(server: str) -> None:
    get(server + "ranged/", allowing(max_bytes=5000))
    assert len(Handler.seen) == 1
    headers = Handler.seen[0][1]
    assert (headers["range"], headers["accept-encoding"]) == ("bytes=0-5000", "identity")


@pytest.mark.parametrize(
    ("path", "reason", "message", "attempts"),
    [
        ("status/404", Reason.NOT_FOUND, "HTTP 404", 1),
        ("status/410", Reason.NOT_FOUND, "HTTP 410", 1),
        ("status/401", Reason.FORBIDDEN, "HTTP 401", 1),
        ("status/403", Reason.FORBIDDEN, "HTTP 403", 1),
        ("status/400", Reason.HTTP_ERROR, "HTTP 400", 1),
        ("status/429", Reason.HTTP_ERROR, "HTTP 429", 3),
        ("status/500", Reason.HTTP_ERROR, "HTTP 500", 3),
        ("status/408", Reason.TIMEOUT, "HTTP 408", 3),
        ("loop/", Reason.HTTP_ERROR, "too many redirects", 1),
        ("broken/", Reason.HTTP_ERROR, "the connection failed", 3),
        ("empty/", Reason.EMPTY, "no bytes", 1),
        ("ranged/0", Reason.EMPTY, "no bytes", 1),
    ],
)
def test_http_failures(server: str, path: str, reason: Reason, message: str, attempts: int) -> None:
    error = failure(server.replace("//", "//user:secret@") + path + "?signature=secret", attempts=3)
    assert (error.reason, error.message, error.attempts) == (reason, message, attempts)


def test_http_retries_wait_as_the_server_asks(server: str) -> None:
    waits: list[float] = []
    assert get(server + "flaky/503", allowing(), sleep=waits.append) == BODY
    assert waits == [7.0, 7.0]


def test_backoff_grows_and_is_bounded(server: str) -> None:
    waits: list[float] = []
    with pytest.raises(ImageError):
        get(server + "status/500", allowing(attempts=9), sleep=waits.append)
    for number, wait in enumerate(waits):
        assert min(20.0, 0.5 * 2**number) <= wait <= min(20.0, 0.5 * 2**number) + 0.5


def test_limits_on_bytes(server: str) -> None:
    for path in ("whole/", "ranged/", "short/", "redirect/"):
        assert len(get(server + path, allowing(max_bytes=len(BODY)))) == len(BODY)
        error = failure(server + path, max_bytes=len(BODY) - 1)
        assert (error.reason, error.message) == (Reason.TOO_MANY_BYTES, "more than 2047 bytes")


def test_an_endless_body_is_cut_off(server: str) -> None:
    assert failure(server + "endless/", max_bytes=2**20).reason is Reason.TOO_MANY_BYTES
    assert "all of it was read" not in [path for path, _ in Handler.seen]


@pytest.mark.parametrize("path", ["hang/", "drip/"])
def test_a_timeout_ends_the_wait(server: str, path: str) -> None:
    start = time.monotonic()
    error = failure(server + path, timeout_s=0.2, attempts=2)
    assert (error.reason, error.attempts) == (Reason.TIMEOUT, 2)
    assert error.message == "no answer within 0.2 s"
    assert time.monotonic() - start < 2


def test_connections_that_fail() -> None:
    refused = failure("http://127.0.0.1:9/x", attempts=2)
    assert (refused.reason, refused.attempts) == (Reason.HTTP_ERROR, 2)
    assert failure("http:///nothing").reason is Reason.BAD_NAME


def test_urls_are_sent_as_they_are_given(server: str) -> None:
    for path in ("ranged/?a=%2F%2f&b=x+y", "ranged/?q=[1]", "ranged/?q=a%20b"):
        get(server + path, allowing())
        assert Handler.seen[-1][0] == "/what/" + path
    get(server + "whole/a b ü", allowing())
    assert Handler.seen[-1][0] == "/what/whole/a%20b%20%C3%BC"


def test_http_takes_its_options_only(server: str) -> None:
    options = {"headers": {"X-Key": "1"}, "token": "anon", "endpoint_url": "elsewhere"}
    get(server + "ranged/", allowing(storage_options=options))
    assert Handler.seen[-1][1]["x-key"] == "1"
    assert "anon" not in repr(allowing(storage_options=options))


def test_threads_share_one_client(server: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda n: get(f"{server}ranged/{n}", allowing()), range(1, 200)))
    assert [len(body) for body in bodies] == list(range(1, 200))
    clients = {id(open_filesystem(f"http://{host}/", hidden_retries=False)[0]) for host in ("one", "two")}
    assert len(clients) == 1 and open_filesystem("http://one/")[0]


# --- S3 and GCS, their own clients against a server of ours ----------------------------------------------


def s3(server: str) -> dict[str, object]:
    endpoint = server.removesuffix("/what/")
    return {
        "key": "secret",
        "secret": "secret",
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": "x"},
    }


def gcs(server: str) -> dict[str, object]:
    return {"token": "anon", "project": "p", "endpoint_url": server.removesuffix("/what/")}


STORES = pytest.mark.parametrize(("scheme", "options"), [("s3", s3), ("gs", gcs)])


@STORES
def test_stores_read_with_one_ranged_request(server: str, scheme: str, options: object) -> None:
    given = options(server)  # type: ignore[operator]
    assert get(f"{scheme}://what/ranged/", allowing(storage_options=given)) == BODY
    assert len(Handler.seen) == 1
    assert Handler.seen[0][1]["range"] == f"bytes=0-{100 * 2**20}"
    error = failure(f"{scheme}://what/ranged/", storage_options=given, max_bytes=100)
    assert error.reason is Reason.TOO_MANY_BYTES
    assert failure(f"{scheme}://what/ranged/0", storage_options=given).reason is Reason.EMPTY


@STORES
@pytest.mark.parametrize(
    ("status", "reason", "attempts"),
    [(404, Reason.NOT_FOUND, 1), (403, Reason.FORBIDDEN, 1), (400, Reason.HTTP_ERROR, 1)],
)
def test_failures_of_stores(
    server: str, scheme: str, options: object, status: int, reason: Reason, attempts: int
) -> None:
    error = failure(f"{scheme}://what/status/{status}", storage_options=options(server))  # type: ignore[operator]
    assert (error.reason, error.attempts) == (reason, attempts)
    assert len(Handler.seen) == 1


def test_s3_has_no_retries_of_its_own(server: str) -> None:
    error = failure("s3://what/status/503", storage_options=s3(server), attempts=3)
    assert (error.reason, error.message, error.attempts) == (Reason.HTTP_ERROR, "HTTP 503", 3)
    assert len(Handler.seen) == 3


@STORES
def test_a_store_that_hangs(server: str, scheme: str, options: object) -> None:
    start = time.monotonic()
    given = options(server)  # type: ignore[operator]
    error = failure(f"{scheme}://what/hang/", storage_options=given, timeout_s=0.3, attempts=1)
    assert error.reason is Reason.TIMEOUT
    assert time.monotonic() - start < 5


@STORES
def test_names_are_taken_literally(server: str, scheme: str, options: object) -> None:
    given = allowing(storage_options=options(server))  # type: ignore[operator]
    get(f"{scheme}://what/whole/?a#b[c]*%20::d#1", given)
    assert "%3Fa%23b%5Bc%5D" in Handler.seen[-1][0].replace("[", "%5B").replace("]", "%5D")
    assert "%2520::d%231" in Handler.seen[-1][0].replace("%3A", ":")


# --- memory, blocking stores, unknown ones ---------------------------------------------------------------


def test_memory() -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/fetch/a#b?[c].jpg": BODY, "/fetch/empty": b""})
    assert get("memory://fetch/a#b?[c].jpg", allowing()) == BODY
    assert failure("memory://fetch/a#b?[c].jpg", max_bytes=10).reason is Reason.TOO_MANY_BYTES
    assert failure("memory://fetch/empty").reason is Reason.EMPTY
    assert failure("memory://fetch/none").reason is Reason.NOT_FOUND
    store.rm("/fetch", recursive=True)


def test_a_blocking_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(30)
        raise ConnectionResetError

    monkeypatch.setattr(ftplib.FTP, "connect", hang)
    start = time.monotonic()
    error = failure("ftp://host/x.jpg", timeout_s=0.2, attempts=2, storage_options={"host": "host"})
    assert (error.reason, error.attempts) == (Reason.TIMEOUT, 2)
    assert time.monotonic() - start < 2
    released.set()
    again = failure("ftp://host/x.jpg", attempts=2, storage_options={"host": "host"})
    assert (again.reason, again.message, again.attempts) == (Reason.HTTP_ERROR, "the connection failed", 2)


def test_unknown_stores_and_options() -> None:
    error = failure("nosuch://bucket/x.jpg")
    assert (error.reason, error.message) == (Reason.BAD_NAME, "no store is known for the scheme 'nosuch'")
    with pytest.raises(RequestError, match="the storage options anon, nosuch do not fit s3://"):
        get("s3://bucket/key", allowing(storage_options={"nosuch": 1, "anon": True}))
    for name in ("max_bytes", "timeout_s", "attempts"):
        with pytest.raises(RequestError, match=f"{name} is 0; it must be above 0"):
            allowing(**{name: 0})


# --- local -----------------------------------------------------------------------------------------------


def test_local_files(tmp_path: Path) -> None:
    odd = tmp_path / "a#b?[c]%20 ü.jpg"
    odd.write_bytes(BODY)
    assert get(str(odd), allowing()) == BODY
    assert get(f"file://{odd}", allowing()) == BODY
    assert get(str(odd), allowing(max_bytes=len(BODY))) == BODY
    assert failure(str(odd), max_bytes=len(BODY) - 1).reason is Reason.TOO_MANY_BYTES
    assert get("/proc/self/status", allowing()).startswith(b"Name:")  # says its size is 0


def test_local_failures(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("none", Reason.NOT_FOUND),
        ("dangling", Reason.NOT_FOUND),
        ("loop", Reason.NOT_FOUND),
        ("empty/below", Reason.NOT_FOUND),
        ("", Reason.NOT_FOUND),
        ("pipe", Reason.NOT_FOUND),
        ("empty", Reason.EMPTY),
        ("x" * 300, Reason.BAD_NAME),
        ("nul\0", Reason.BAD_NAME),
    ):
        error = failure(str(tmp_path / name))
        assert (error.reason, error.attempts) == (reason, 1), name
        assert str(tmp_path) not in error.message
    assert failure("/dev/zero").message == "not a regular file"


def test_a_local_error_that_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(BODY)
    errors = [OSError(5, "I/O error"), PermissionError(13, "no")]
    genuine = os.open

    def failing(path: str, flags: int, *rest: int) -> int:
        if path == str(tmp_path / "x") and errors:
            raise errors.pop(0)
        return genuine(path, flags, *rest)

    monkeypatch.setattr(os, "open", failing)
    error = failure(str(tmp_path / "x"))
    assert (error.reason, error.attempts) == (Reason.FORBIDDEN, 2)  # the first was tried again
    errors.append(OSError(5, "I/O error"))
    waits: list[float] = []
    assert get(str(tmp_path / "x"), allowing(), sleep=waits.append) == BODY
    assert len(waits) == 1


# --- exceptions of clients that no server here raises ----------------------------------------------------


def test_exceptions_of_clients() -> None:
    import aiohttp
    import botocore.exceptions
    import google.auth.exceptions
    import requests
    from fsspec.exceptions import FSTimeoutError
    from gcsfs.retry import HttpError

    slow_down = botocore.exceptions.ClientError(
        {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject"
    )
    late = botocore.exceptions.ClientError(
        {"Error": {"Code": "RequestTimeout"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "GetObject"
    )
    translated = OSError(16, "busy")
    translated.__cause__ = slow_down
    for error, reason, transient in (
        (translated, Reason.HTTP_ERROR, True),
        (late, Reason.TIMEOUT, True),
        (botocore.exceptions.NoCredentialsError(), Reason.FORBIDDEN, False),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), Reason.TIMEOUT, True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), Reason.HTTP_ERROR, True),
        (HttpError({"code": 429, "message": "slow down"}), Reason.HTTP_ERROR, True),
        (HttpError({"code": "404"}), Reason.NOT_FOUND, False),
        (OSError("Forbidden: https://storage/x\nno"), Reason.FORBIDDEN, False),
        (google.auth.exceptions.DefaultCredentialsError("x"), Reason.FORBIDDEN, False),
        (requests.exceptions.ProxyError(), Reason.HTTP_ERROR, True),
        (requests.exceptions.ReadTimeout(), Reason.TIMEOUT, True),
        (aiohttp.ServerDisconnectedError(), Reason.HTTP_ERROR, True),
        (aiohttp.ClientPayloadError("x"), Reason.HTTP_ERROR, True),
        (aiohttp.InvalidURL("http://x"), Reason.BAD_NAME, False),
        (FSTimeoutError(), Reason.TIMEOUT, True),
        (ConnectionResetError(104, "x"), Reason.HTTP_ERROR, True),
        (ValueError("Bad Request"), Reason.HTTP_ERROR, False),
    ):
        problem = classify(error, timeout_s=5)
        assert (problem.reason, problem.transient) == (reason, transient), error
