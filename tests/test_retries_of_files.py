"""Retries of what failed for more than one image's sake: whole shards out of reach, and a thousand dead links."""

from __future__ import annotations

import csv
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers import image_bytes, make_image
from tests.runs import beamclip, rows, summary


def shard(count: int) -> bytes:
    """A tar of `count` pictures."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            data = image_bytes(make_image(number, (32, 32)))
            info = tarfile.TarInfo(f"{number:05d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Shards(BaseHTTPRequestHandler):
    """`/0.tar` is a shard, so is `/1.tar` once the server is whole again."""

    body = b""
    whole = False

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        good = self.path == "/0.tar" or type(self).whole or self.command == "HEAD"
        body = type(self).body if good else b"secret"
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1 if last else None] if good else body
        ranged = good and "Range" in self.headers
        self.send_response(404 if not good else 206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)


@pytest.fixture
def server() -> Iterator[str]:
    Shards.body, Shards.whole = shard(6), False
    http = ThreadingHTTPServer(("127.0.0.1", 0), Shards)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_shard_that_was_out_of_reach_gives_all_its_images_to_a_retry(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shards = [f"{server}/0.tar", f"{server}/1.tar"]
    options = ("--encoder", "fake", "--max-failure-rate", 1, "--allow-private-urls", "--format", "webdataset")
    assert (
        beamclip("embed", "--quiet", "--input", *shards, "--output", run, *options) == 1
    )  # whatever the rate
    assert (len(rows(run, "embeddings")), len(rows(run, "failures"))) == (6, 1)
    told = f"1 shards could not be read, or not to their end ({shards[1]})"
    assert told in capsys.readouterr().err
    assert beamclip("status", run) == 1
    assert told in capsys.readouterr().out
    Shards.whole = True
    retry = ("--retry-failed", "--max-failure-rate", 1, "--allow-private-urls")
    assert beamclip("embed", "--quiet", "--output", run, *retry) == 0
    uris = sorted(row["uri"] for row in rows(run, "embeddings"))
    assert uris == sorted(f"{one}#{number:05d}" for one in shards for number in range(6))
    assert not list((run / "failures").glob("*.parquet"))
    assert beamclip("status", run) == 0
    assert summary(run)["lost_shards"] == {"count": 0, "examples": []}


def test_a_retry_of_a_thousand_dead_links_reaches_the_one_that_was_mended(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    make_image(0, (32, 32)).save(good)
    listed = tmp_path / "images.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([["path"], [good], *([tmp_path / f"gone{n}.png"] for n in range(1100))])
    run = tmp_path / "run"
    options = ("--encoder", "fake", "--max-failure-rate", 1)
    assert beamclip("embed", "--quiet", "--input", listed, "--output", run, *options) == 0
    make_image(1, (32, 32)).save(tmp_path / "gone1099.png")
    assert beamclip("embed", "--quiet", "--output", run, "--retry-failed", "--max-failure-rate", 1) == 0
    assert (len(rows(run, "embeddings")), len(rows(run, "failures"))) == (2, 1099)
