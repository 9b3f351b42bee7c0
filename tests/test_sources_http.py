"""Inputs on a real web server: with and without ranges or sizes, with credentials, missing and forbidden."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, StoreError, UnitKind
from clip_transforms.sources import PlanItem, SourceOptions, read_unit, scan, with_private_inputs
from tests.sources_kit import plan_of, read_all, read_items, summary, tar_bytes, tar_item


class Site(http.server.ThreadingHTTPServer):
    """Serves `files` from memory; `secret` must be in the query where it is set."""

    daemon_threads = True
    files: dict[str, bytes]
    ranges = True
    sizes = True
    secret = ""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        data = self.server.files.get(path)
        if data is None or self.server.secret not in query or path.startswith("/down/"):
            self.send_error(404 if data is None else 503 if path.startswith("/down/") else 403)
            return
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            self.send_response(200)
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.server.sizes:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A web server with a shard, a manifest with signed urls, a Parquet file and an image."""
    pq.write_table(pa.table({"image": [b"x", b"y"]}), tmp_path / "p.parquet")
    server = Site(("127.0.0.1", 0), Handler)
    lines = [f"https://host/{row}.jpg?sig={row}" for row in range(50)]
    server.files = {
        "/s/x.tar": tar_bytes([("a.jpg", b"A" * 600_000), ("b.jpg", b"B")]),
        "/s/m.csv": ("uri\na.jpg\n" + "\n".join(lines)).encode(),
        "/s/p.parquet": (tmp_path / "p.parquet").read_bytes(),
        "/s/i.jpg": b"image",
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("ranges", "sizes"), [(True, True), (False, True), (False, False)])
def test_shards_and_manifests_need_neither_ranges_nor_sizes(site: Site, ranges: bool, sizes: bool) -> None:
    site.ranges, site.sizes = ranges, sizes
    base = site.base
    found = read_all([f"{base}/s/x.tar"])
    assert [(row.uri, row.size) for row in found if isinstance(row, ImageRef)] == [
        (f"{base}/s/x.tar#a", 600_000),
        (f"{base}/s/x.tar#b", 1),
    ]
    items = list(scan([f"{base}/s/m.csv"], SourceOptions()))
    picked = [items[0], items[7], items[3], items[50]]  # also against the order of the file
    urls = [row.url for row in read_items(picked, SourceOptions()) if isinstance(row, ImageRef)]
    assert urls == [f"{base}/s/a.jpg", *(f"https://host/{row}.jpg?sig={row}" for row in (6, 2, 49))]
    site.files["/s/x.tar"] = site.files["/s/x.tar"][:-9_000]
    assert summary(read_all([f"{base}/s/x.tar"]))[-1] == (f"{base}/s/x.tar", "truncated_shard")


def test_pointers_of_one_unit_share_a_stream_without_ranges(site: Site) -> None:
    site.ranges = False
    items = list(scan([f"{site.base}/s/m.csv"], SourceOptions()))
    table = plan_of([items[9], items[4], items[20]])
    urls = [row.url for row in read_unit(UnitKind.REFS, table, SourceOptions()) if isinstance(row, ImageRef)]
    assert urls == [f"https://host/{row}.jpg?sig={row}" for row in (8, 3, 19)]


def test_parquet_and_images_over_http(site: Site) -> None:
    base = site.base
    assert summary(read_all([f"{base}/s/p.parquet"])) == [
        (f"{base}/s/p.parquet#0", "x"),
        (f"{base}/s/p.parquet#1", "y"),
    ]
    # Images are not asked for while listing: a dead link is a failure row of the fetch.
    assert [item.uri for item in scan([f"{base}/s/{{i,gone}}.jpg"], SourceOptions())] == [
        *(f"{base}/s/i.jpg", f"{base}/s/gone.jpg"),
    ]


def test_credentials_in_an_input_reach_workers_but_not_the_plan(site: Site) -> None:
    site.secret = "token=s3cr3t"
    inputs = [f"{site.base}/s/{name}?token=s3cr3t" for name in ("x.tar", "m.csv", "p.parquet", "i.jpg")]
    options = with_private_inputs(inputs, SourceOptions())
    items = list(scan(inputs, options))
    assert "s3cr3t" not in repr(items)
    found = read_items(items, options)
    assert len(found) == 2 + 51 + 2 + 1
    assert not [row for row in found if isinstance(row, Failure)]
    assert isinstance(found[-1], ImageRef)
    assert found[-1].url == inputs[-1]
    with pytest.raises(RequestError, match=r"m\.csv cannot be read: access is denied") as caught:
        scan([f"{site.base}/s/m.csv?token=wrong-s3cr3"], SourceOptions())
    assert "s3cr3" not in str(caught.value)


def test_a_shard_that_is_gone_or_forbidden_on_the_worker(site: Site) -> None:
    shard = replace(tar_item(Path("/x")), uri=f"{site.base}/s/gone.tar")
    table = PlanItem(
        kind=UnitKind.PARQUET, uri=f"{site.base}/gone.parquet", rows=2, row_groups=(0,), pointer_offset=5
    )
    assert summary(read_items([shard, table], SourceOptions())) == [
        (shard.uri, "not_found"),
        (f"{table.uri}#5", "not_found"),
        (f"{table.uri}#6", "not_found"),
    ]
    site.secret = "token"
    (row,) = read_items([replace(shard, uri=f"{site.base}/s/x.tar")], SourceOptions())
    assert isinstance(row, Failure)
    assert (row.reason, row.message) == (Reason.FORBIDDEN, "the shard cannot be read: forbidden")


def test_a_server_that_does_not_answer_is_a_failure_not_a_retry() -> None:
    (row,) = read_items([replace(tar_item(Path("/x")), uri="http://127.0.0.1:9/x.tar")], SourceOptions())
    assert isinstance(row, Failure)
    assert row.reason is Reason.HTTP_ERROR


def test_a_server_that_is_down_is_named_without_credentials(site: Site) -> None:
    for name in ("list.csv", "00000.tar", "images.parquet", "urls.txt"):
        site.files[f"/down/{name}"] = b"x"
        url = f"{site.base}/down/{name}?X-Amz-Signature=SECRET1".replace("//", "//me:hunter2@")
        with pytest.raises((RequestError, StoreError)) as caught:
            list(scan([url], SourceOptions()))
        assert "hunter2" not in str(caught.value) and "SECRET1" not in str(caught.value)
