"""A proxy on loopback in front of a storage server, which fails the requests it is told to, and counts all.

| fault         | what the client sees                                                   |
|---------------|------------------------------------------------------------------------|
| a status      | that answer, in the store's own words; the server is not asked         |
| `"silence"`   | no answer, and the connection stays open                               |
| `"close"`     | the connection is closed without an answer; the server is not asked    |
| `"lost"`      | the same, but the server did what it was asked                         |
| `"cut"`       | the first half of the answer's body, then the connection is closed     |
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import Server

Fault = int | str | None
_HOPS = {"connection", "transfer-encoding", "content-length", "keep-alive"}
_S3_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


class RandomFaults:
    """A share of all requests fails, each as often as its own name and the seed say; counts those made again.

    silences: how many of the failures may be a silent server, which takes the time of a client's patience. A request
    is made again if one of the same method, path and body comes after it failed.
    """

    def __init__(self, share: float, *, seed: int, silences: int) -> None:
        self.share = share
        self.seed = seed
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()  # by fault
        self.again = 0
        self.waiting: Counter[str] = Counter()  # that failed and did not come again
        self._silences = silences  # left

    @staticmethod
    def identity(request: str, body: bytes) -> str:
        return f"{request} {hashlib.sha256(body).hexdigest() if body else ''}"

    def decide(self, request: str, body: bytes) -> Fault:
        name = self.identity(request, body)
        self.asked[name] += 1
        if self.waiting[name]:
            self.waiting[name] -= 1
            self.again += 1
        chance = random.Random(f"{self.seed} {name} {self.asked[name]}")
        if chance.random() >= self.share:
            return None
        method = request.split(" ")[0]
        own = {"GET": ("cut",), "HEAD": ()}.get(method, ("lost",))
        fault = chance.choice((503, 429, "close", *own, *(["silence"] if self._silences > 0 else [])))
        self._silences -= fault == "silence"
        self.failed[f"{fault}"] += 1
        self.waiting[name] += 1
        return fault

    def undo(self, fault: Fault, request: str, body: bytes) -> None:
        """A fault that did not come about: there was nothing to cut."""
        self.failed[f"{fault}"] -= 1
        self.waiting[self.identity(request, body)] -= 1


class FlakyProxy(ThreadingHTTPServer):
    """`fault(number, request)` says what happens to the request, which is e.g. "GET /path"; numbers are from 1."""

    daemon_threads = True

    def __init__(self, behind: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        endpoint = f"http://127.0.0.1:{self.server_port}"
        options = {**behind.storage_options, "endpoint_url": endpoint}
        self.behind = behind
        self.server = replace(behind, endpoint=endpoint, storage_options=options)
        self.fault: Callable[[int, str], Fault] = lambda number, request: None
        self.random: RandomFaults | None = None  # in place of `fault`
        self.silence_s = 60.0
        self.seen: list[str] = []
        self.headers: list[tuple[str, dict[str, str]]] | None = None  # of all requests, where it is a list
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def fail(self, fault: Fault, *, first: int = 1_000_000, match: str = "") -> None:
        """Let the first requests that contain `match` fail so, and count from now."""
        self.random = None
        with self._lock:
            self.seen.clear()
        matched: list[str] = []

        def decide(number: int, request: str) -> Fault:
            if match not in request:
                return None
            matched.append(request)
            return fault if len(matched) <= first else None

        self.fault = decide

    def next_fault(self, request: str, body: bytes) -> Fault:
        """What happens to this request; counts it."""
        with self._lock:
            self.seen.append(request)
            if self.random is not None:
                return self.random.decide(request, body)
            return self.fault(len(self.seen), request)

    def nothing_to_cut(self, request: str, body: bytes) -> None:
        """The fault was "cut", and the answer is none that a client reads."""
        with self._lock:
            if self.random is not None:
                self.random.undo("cut", request, body)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    server: FlakyProxy
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it with the body
        return go_on

    def do_GET(self) -> None:
        body = self._body()
        request = f"{self.command} {self.path}"
        if self.server.headers is not None:
            self.server.headers.append((request, dict(self.headers.items())))
        fault = self.server.next_fault(request, body)
        if isinstance(fault, int):
            self._answer(fault, *self._refusal(fault))
        elif fault in ("silence", "close"):
            if fault == "silence":
                self.server.stop.wait(self.server.silence_s)
            self.close_connection = True
        else:
            answer = self._ask(body)
            if self.server.random and fault == "cut" and (answer[0] >= 300 or len(answer[2]) < 2):
                self.server.nothing_to_cut(request, body)
                fault = None
            self.close_connection = fault is not None
            if fault != "lost":
                self._answer(*answer, cut=fault == "cut")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _refusal(self, status: int) -> tuple[list[tuple[str, str]], bytes]:
        if self.server.behind.url.startswith("s3"):
            code = _S3_CODES[status]
            return [("Content-Type", "application/xml")], f"<Error><Code>{code}</Code></Error>".encode()
        error = {"error": {"code": status, "message": "refused by the test"}}
        return [("Content-Type", "application/json")], json.dumps(error).encode()

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(
            self.server.behind.endpoint.removeprefix("http://"), timeout=30
        )
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in _HOPS | {"expect"}
        }
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        size = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                size = value
            if name.lower() not in _HOPS:
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)


@contextlib.contextmanager
def flaky_proxy(behind: Server) -> Iterator[FlakyProxy]:
    """A proxy in front of the server, that passes everything on until it is told to fail."""
    proxy = FlakyProxy(behind)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
