"""The guard against urls that lead into the reader's own network, with real servers on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_transforms import host_turns, url_guard
from clip_transforms.elements import Failure, ImageError, ImageRef, Reason, Stage
from clip_transforms.engine.fetchers import Fetchers
from clip_transforms.fetch import FetchOptions, connect, fetch, fetch_async
from clip_transforms.fetch_errors import FetchProblem
from clip_transforms.sources import scan
from clip_transforms.sources.options import SourceOptions
from tests.runs import beamclip
from tests.sources_kit import read_items

BODY = b"an image"
BLOCKED = "leads to a private address; --allow-private-urls lets it"


class Handler(BaseHTTPRequestHandler):
    """`/ok` is BODY; `/to?URL` redirects there; `/busy` says once that a pause of a second is wanted."""

    seen: ClassVar[list[tuple[str, str, float]]] = []
    now = most = 0
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        cls = type(self)
        path, _, rest = self.path.partition("?")
        with cls.lock:
            cls.seen.append((self.headers["Host"], path, time.monotonic()))
            cls.now += 1
            cls.most = max(cls.most, cls.now)
            asked = sum(seen == path for _, seen, _ in cls.seen)
        if path.startswith("/slow"):
            time.sleep(0.05)
        busy = path == "/busy" and asked == 1
        self.send_response(302 if path == "/to" else 429 if busy else 200)
        if path == "/to":
            self.send_header("Location", unquote(rest))
        if busy:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        with cls.lock:
            cls.now -= 1
        self.wfile.write(BODY)


@pytest.fixture
def port() -> Iterator[int]:
    """A server on all of 127.0.0.0/8."""
    Handler.seen, Handler.now, Handler.most = [], 0, 0
    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """127.0.0.2 plays the public internet; what names resolve to may be changed between requests."""
    names = {"public.test": ["127.0.0.2"], "inside.test": ["127.0.0.1"]}
    known, real = socket.getaddrinfo, url_guard.is_public

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host not in names:
            return known(host, port, *rest, **more)
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(url_guard, "is_public", lambda address: address == "127.0.0.2" or real(address))
    return names


def options(**more: Any) -> FetchOptions:
    """Options with a client of the test's own, so that no connection of another test is still open."""
    return FetchOptions(storage_options={"headers": {"X-Test": f"{time.monotonic_ns()}"}}, **more)


def problem(url: str, given: FetchOptions | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(url, given or options(), sleep=lambda _: pytest.fail("tried again"))
    return caught.value


def is_blocked(url: str, given: FetchOptions | None = None) -> bool:
    error = problem(url, given)
    found = error.stage, error.reason, error.attempts, error.message
    return found == (Stage.FETCH, Reason.BLOCKED_ADDRESS, 1, BLOCKED)


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1"),
        *("168.63.129.16", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:7f00:1"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::", "100::1", "4000::1"),
        "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo, client 127.0.0.1
        *("", "name", "1.2.3", "1.2.3.4.5"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not url_guard.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1"),
        *("169.253.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"),
        "2a00:1450::8a",
    ],
)
def test_addresses_that_are(address: str) -> None:
    assert url_guard.is_public(address)


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "127.1", "127.0.0.1."),
        *("localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0", "0.0.0.0"),
        *("169.254.169.254", "user:pw@127.0.0.1"),
    ],
)
def test_no_spelling_gets_through(port: int, host: str) -> None:
    assert is_blocked(f"http://{host}:{port}/ok")
    assert is_blocked(f"HTTPS://{host}:{port}/ok")
    assert not Handler.seen


def test_the_flag_lets_them_through(port: int) -> None:
    assert fetch(f"http://127.0.0.1:{port}/ok", options(allow_private_urls=True)) == BODY


def test_names_are_judged_by_where_they_lead(port: int, internet: dict[str, list[str]]) -> None:
    assert fetch(f"http://public.test:{port}/ok", options()) == BODY
    assert is_blocked(f"http://inside.test:{port}/ok")
    internet["both.test"] = ["127.0.0.1", "127.0.0.2"]  # the address that is not public is not tried
    assert fetch(f"http://both.test:{port}/ok", options()) == BODY
    assert [host for host, _, _ in Handler.seen] == [f"public.test:{port}", f"both.test:{port}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.test", "0x7f.1", "[::1]", "169.254.169.254"])
def test_redirects_are_judged_too(port: int, internet: dict[str, list[str]], host: str) -> None:
    public = f"http://public.test:{port}"
    assert fetch(f"{public}/to?{public}/ok", options()) == BODY
    Handler.seen.clear()
    assert is_blocked(f"{public}/to?http://{host}:{port}/ok")
    assert is_blocked(f"{public}/to?{public}/to?http://{host}:{port}/ok")
    assert "/ok" not in [path for _, path, _ in Handler.seen]


def test_a_redirect_to_another_scheme_is_no_way_out(
    port: int, internet: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for target in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"):
        error = problem(f"http://public.test:{port}/to?{target}")
        assert (error.reason, error.attempts) == (Reason.BAD_NAME, 1)


def test_a_name_that_changes_its_mind_is_judged_at_each_connection(
    port: int, internet: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, given = f"http://public.test:{port}/ok", options()
    found = connect(url, given)
    assert found is not None
    assert fetch(url, given) == BODY
    internet["public.test"] = ["127.0.0.1"]

    async def forget() -> None:
        (await found.store.set_session()).connector.clear_dns_cache()  # it holds for ten seconds

    asyncio.run_coroutine_threadsafe(forget(), found.loop).result(10)
    assert is_blocked(url, given)


def test_a_proxy_may_be_private_and_addresses_behind_it_may_not(port: int) -> None:
    given = FetchOptions(storage_options={"proxy": f"http://127.0.0.1:{port}", "headers": {"X": "proxy"}})
    assert fetch("http://public.test/ok", given) == BODY
    assert [host for host, _, _ in Handler.seen] == ["public.test"]
    for host in ("127.0.0.1", "169.254.169.254", "0x7f.1"):
        assert is_blocked(f"http://{host}/ok", given)
    assert len(Handler.seen) == 1


# --- schemes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("ftp://host/a.jpg", "ftp"),
        ("sftp://host/a", "sftp"),
        ("github://o:r@main/a", "github"),
        ("zip://a.jpg::/data/x.zip", "zip"),
        ("SSH://host/a.jpg", "ssh"),
    ],
)
def test_schemes_beyond_the_list(url: str, scheme: str) -> None:
    error = problem(url)
    assert (error.reason, error.attempts) == (Reason.BLOCKED_ADDRESS, 1)
    assert error.message == f"urls of the scheme '{scheme}' are not opened; --allow-private-urls lets it"


@pytest.mark.parametrize("schemes", [(), ("simplecache", "zip")])
def test_http_inside_a_chain_is_not_guarded_and_so_not_opened(port: int, schemes: tuple[str, ...]) -> None:
    error = problem(f"zip://a.jpg::http://127.0.0.1:{port}/ok", options(schemes=schemes))
    assert error.reason is Reason.BLOCKED_ADDRESS
    assert not Handler.seen


def test_schemes_that_the_input_names_are_opened(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jpg", BODY)
    url = f"zip://a.jpg::{tmp_path}/x.zip"
    assert fetch(url, FetchOptions(schemes=url_guard.schemes_of([url]))) == BODY
    assert problem(url).reason is Reason.BLOCKED_ADDRESS


def test_the_web_names_no_local_files(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = ["a.jpg", "/b.jpg", "file:///etc/hosts", "memory://x/a.jpg", "simplecache::file:///etc/hosts"]
    pq.write_table(pa.table({"url": listed}), tmp_path / "list.parquet")
    for name, body in (
        ("list.txt", "\n".join(listed).encode()),
        ("list.csv", "\n".join(["url", *listed]).encode()),
        ("list.parquet", (tmp_path / "list.parquet").read_bytes()),
    ):
        monkeypatch.setattr(__name__ + ".BODY", body)
        given = SourceOptions()
        found = list(read_items(list(scan([f"http://127.0.0.1:{port}/{name}"], given)), given))
        good = [row.uri for row in found if isinstance(row, ImageRef)]
        assert good == [f"http://127.0.0.1:{port}/a.jpg", f"http://127.0.0.1:{port}/b.jpg"]
        bad = [row for row in found if isinstance(row, Failure)]
        assert [(row.stage, row.reason) for row in bad] == [(Stage.FETCH, Reason.BLOCKED_ADDRESS)] * 3
        assert all(row.message.endswith("leads from the web to a local file") for row in bad)
        assert len({row.image_id for row in bad}) == 3


# --- turns --------------------------------------------------------------------------------------------------


def fetch_all(urls: list[str], given: FetchOptions) -> list[bytes]:
    """All at once, on the client's loop, as the engine does."""
    found = [connect(url, given) for url in urls]

    async def gather() -> list[bytes]:
        return await asyncio.gather(*(fetch_async(each, given) for each in found if each is not None))

    assert found[0] is not None
    return asyncio.run_coroutine_threadsafe(gather(), found[0].loop).result(30)


@pytest.mark.parametrize("limit", [1, 3])
def test_one_host_is_asked_so_often_at_a_time(port: int, limit: int) -> None:
    urls = [f"http://127.0.0.1:{port}/slow{number}" for number in range(12)]
    assert fetch_all(urls, options(allow_private_urls=True, per_host=limit)) == [BODY] * 12
    assert Handler.most == limit
    assert len(Handler.seen) == 12


def test_hosts_do_not_wait_for_each_other(port: int) -> None:
    urls = [f"http://127.0.0.{host}:{port}/slow" for host in range(1, 6)]
    assert fetch_all(urls, options(allow_private_urls=True, per_host=1)) == [BODY] * 5
    assert Handler.most > 1


def test_a_pause_that_one_is_asked_for_is_kept_by_all(port: int) -> None:
    urls = [f"http://127.0.0.1:{port}/busy"] + [f"http://127.0.0.1:{port}/slow{n}" for n in range(3)]
    assert fetch_all(urls, options(allow_private_urls=True, per_host=1)) == [BODY] * 4
    first, *others = [moment for _, _, moment in Handler.seen]
    assert len(others) == 4
    assert min(others) - first >= 0.95


class Arrivals:
    """Where the engine's fetches end: the items in the order of their arrival."""

    def __init__(self, count: int) -> None:
        self.items: list[str] = []
        self.all = threading.Event()
        self._count = count

    def begin(self, item: str) -> bool:
        return bool(item)

    def arrived(self, item: str, data: bytes, seconds: float) -> None:
        self.items.append(item)
        if len(self.items) == self._count:
            self.all.set()

    def missed(self, item: str, error: BaseException) -> None:
        self.arrived(f"{item} {error}", b"", 0)

    broken = missed  # type: ignore[assignment]


def test_a_slow_host_does_not_hold_the_others_up(port: int) -> None:
    slow = [f"http://127.0.0.1:{port}/slow{number}" for number in range(20)]
    quick = [f"http://127.0.0.3:{port}/ok{number}" for number in range(20)]
    arrivals = Arrivals(40)
    fetchers: Fetchers[str] = Fetchers(
        arrivals, options(allow_private_urls=True, per_host=2), limit=4, name="test-turns"
    )
    for url in slow + quick:
        fetchers.put(url, url)
    assert arrivals.all.wait(20)
    fetchers.close()
    assert sorted(arrivals.items) == sorted(slow + quick)
    assert max(arrivals.items.index(url) for url in quick) < 39  # not last, though put last
    assert sum(url in slow for url in arrivals.items[:20]) < 12
    assert Handler.most <= 4


def test_a_host_that_wants_a_pause_does_not_hold_the_others_up(port: int) -> None:
    busy = [f"http://127.0.0.1:{port}/busy"] + [f"http://127.0.0.1:{port}/ok{number}" for number in range(8)]
    other = [f"http://127.0.0.3:{port}/slow{number}" for number in range(8)]
    arrivals = Arrivals(17)
    fetchers: Fetchers[str] = Fetchers(
        arrivals, options(allow_private_urls=True, per_host=1), limit=2, name="test-pause"
    )
    for url in busy + other:
        fetchers.put(url, url)
    assert arrivals.all.wait(20)
    fetchers.close()
    assert set(arrivals.items[:8]) == set(other)
    assert sorted(arrivals.items) == sorted(busy + other)


def test_what_nobody_waits_for_is_forgotten() -> None:
    async def ask() -> int:
        for number in range(100):
            async with host_turns.turn(f"http://host{number}/a", limit=2, first=True):
                pass
        with pytest.raises(FetchProblem):
            async with host_turns.turn("http://busy/a", limit=2, first=True):
                raise FetchProblem(Reason.HTTP_ERROR, "HTTP 429", retry_after=9.0)
        return len(host_turns._hosts[asyncio.get_running_loop()])

    assert asyncio.run(ask()) == 1


# --- the command --------------------------------------------------------------------------------------------


def failures(run: Path) -> dict[str, dict[str, Any]]:
    return {row["uri"]: row for row in ds.dataset(str(run / "failures")).to_table().to_pylist()}


def test_a_blocked_url_is_one_failure_row(port: int, tmp_path: Path) -> None:
    inside = f"http://127.0.0.1:{port}/ok"
    (tmp_path / "urls.txt").write_text(
        "\n".join([inside, "ftp://127.0.0.1/x.jpg", "http://169.254.169.254/x"])
    )
    args = ["embed", "--input", tmp_path / "urls.txt", "--encoder", "fake", "--quiet", "--output"]
    assert beamclip(*args, tmp_path / "run", "--max-failure-rate", 1) == 0
    found = failures(tmp_path / "run")
    assert len(found) == 3
    assert {(row["stage"], row["reason"], row["attempts"]) for row in found.values()} == {
        ("fetch", "blocked_address", 1)
    }
    assert found[inside]["message"] == BLOCKED
    assert not Handler.seen
    assert beamclip(*args, tmp_path / "open", "--max-failure-rate", 1, "--allow-private-urls") == 0
    found = failures(tmp_path / "open")
    assert found[inside]["reason"] == "not_an_image"
