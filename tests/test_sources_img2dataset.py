"""img2dataset's folders: each url is one row, in both of its output modes, as it writes them and as made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import Failure, ImageRef, RequestError
from clip_transforms.sources import SourceOptions, image_id_of, scan
from tests.helpers import image_bytes, make_image
from tests.runs import beamclip
from tests.sources_kit import read_all, tar_bytes

IMG2DATASET = SourceOptions(format="img2dataset")
ERRORS = {
    "HTTP Error 404: Not Found": ("fetch", "not_found"),
    "HTTP Error 403: Forbidden": ("fetch", "forbidden"),
    "HTTP Error 503: x": ("fetch", "http_error"),
    "timed out": ("fetch", "timeout"),
    "Use of image disallowed by X-Robots-Tag directive": ("fetch", "forbidden"),
    "<urlopen error [Errno 111] Connection refused>": ("fetch", "http_error"),
}


def write_table(path: Path, **more: Any) -> None:
    """Two images, a failure for each of ERRORS, and one that could not be resized."""
    errors = [None, None, *ERRORS, "Image decoding error"]
    states = ["success", "success", *["failed_to_download"] * len(ERRORS), "failed_to_resize"]
    columns = {
        "uid": [f"id{place}" for place in range(len(errors))],
        "caption": [f"caption {place}" for place in range(len(errors))],
        "url": [f"http://h/{place}.jpg" for place in range(len(errors))],
        "key": [f"{place:09d}" for place in range(len(errors))],
        "status": states,
        "error_message": errors,
        **more,
    }
    pq.write_table(pa.table(columns), path)


def write_shard(path: Path) -> Path:
    members = [(f"{place:09d}.jpg", f"image {place}".encode()) for place in range(2)]
    path.write_bytes(tar_bytes(members))
    write_table(path.with_suffix(".parquet"))
    return path


def told(found: list[ImageRef | Failure]) -> list[tuple[str, str]]:
    return [(row.stage.value, row.reason.value) for row in found if isinstance(row, Failure)]


def test_urls_that_are_not_in_the_shard_are_failures(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "00000.tar")
    found = read_all([tmp_path], IMG2DATASET)
    assert [row.uri for row in found] == [f"{path}#{place:09d}" for place in range(9)]
    assert [row.image_id for row in found] == [image_id_of(row.uri) for row in found]
    assert told(found) == [*ERRORS.values(), ("decode", "decode_error")]
    assert found[2].message == "img2dataset: failed_to_download: HTTP Error 404: Not Found"  # type: ignore[union-attr]
    assert len(read_all([tmp_path])) == 2  # without --format what is in the shard counts


def test_a_limit_a_sample_and_ids_hold_for_them_too(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar")
    members = [
        (f"{place:09d}.{kind}", data)
        for place in range(2)
        for kind, data in (("jpg", b"x"), ("json", json.dumps({"uid": f"id{place}"}).encode()))
    ]
    (tmp_path / "00000.tar").write_bytes(tar_bytes(members))
    found = read_all([tmp_path], SourceOptions(format="img2dataset", id_column="uid"))
    assert [row.image_id for row in found] == [f"id{place}" for place in range(9)]
    sampled = read_all([tmp_path], SourceOptions(format="img2dataset", id_column="uid", sample=0.5))
    assert 0 < len(sampled) < 9
    assert {row.image_id for row in sampled} < {row.image_id for row in found}


def test_a_shard_that_is_cut_tells_both(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "00000.tar")
    path.write_bytes(path.read_bytes()[:2048])
    found = read_all([tmp_path], IMG2DATASET)
    assert told(found)[-1] == ("fetch", "truncated_shard")
    assert len(told(found)) == len(ERRORS) + 2


@pytest.mark.parametrize("beside", ["nothing", "another's", "junk"])
def test_without_its_table_the_shard_counts(tmp_path: Path, beside: str) -> None:
    path = write_shard(tmp_path / "00000.tar")
    (tmp_path / "00000_stats.json").write_text('{"successes": 2}')
    table = path.with_suffix(".parquet")
    table.unlink()
    if beside == "another's":
        pq.write_table(pa.table({"status": ["failed"], "x": [1]}), table)
    elif beside == "junk":
        table.write_bytes(b"junk")
    assert [isinstance(row, ImageRef) for row in read_all([tmp_path], IMG2DATASET)] == [True, True]


@pytest.mark.parametrize("options", [IMG2DATASET, SourceOptions()])
def test_its_parquet_output(tmp_path: Path, options: SourceOptions) -> None:
    jpg = pa.array([b"one", b"two", *[None] * (len(ERRORS) + 1)], pa.binary())
    write_table(tmp_path / "00000.parquet", jpg=jpg)
    found = read_all([tmp_path], options)
    assert [row.image_id for row in found] == [f"id{place}" for place in range(9)]
    assert [row.payload for row in found if isinstance(row, ImageRef)] == [b"one", b"two"]
    assert [row.caption for row in found if isinstance(row, ImageRef)] == ["caption 0", "caption 1"]
    assert told(found) == [*ERRORS.values(), ("decode", "decode_error")]


def test_its_tables_alone_are_not_downloaded_again(tmp_path: Path) -> None:
    write_table(tmp_path / "00000.parquet")
    with pytest.raises(RequestError, match="has no column of image bytes"):
        scan([str(tmp_path)], IMG2DATASET)


# --- what img2dataset writes --------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Of five pictures one is missing and one is no picture."""

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        number = int(self.path[1:-4])
        body = b"no picture" if number % 5 == 2 else image_bytes(make_image(number))
        if number % 5 == 1:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def pictures() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def program() -> str:
    """`python -m venv .cache/img2dataset && .cache/img2dataset/bin/pip install img2dataset` makes it."""
    found = shutil.which("img2dataset", path=str(Path(__file__).parent.parent / ".cache/img2dataset/bin"))
    if found is None:
        pytest.skip("img2dataset is not installed")
    return found


@pytest.mark.img2dataset
@pytest.mark.parametrize("mode", ["webdataset", "parquet"])
def test_every_url_is_one_row(tmp_path: Path, pictures: str, mode: str) -> None:
    urls = [f"{pictures}/{number}.jpg" for number in range(30)]
    rows = {
        "URL": urls,
        "TEXT": [f"picture {number}" for number in range(30)],
        "uid": [f"{n:032x}" for n in range(30)],
    }
    pq.write_table(pa.table(rows), tmp_path / "urls.parquet")
    command = [program(), "--url_list", str(tmp_path / "urls.parquet"), "--input_format", "parquet"]
    command += ["--url_col", "URL", "--caption_col", "TEXT", "--save_additional_columns", '["uid"]']
    command += ["--output_format", mode, "--output_folder", str(tmp_path / "made"), "--image_size", "64"]
    command += ["--number_sample_per_shard", "20", "--processes_count", "1", "--thread_count", "4"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    run = tmp_path / "run"
    asked = ["--format", "img2dataset", "--id-column", "uid", "--encoder", "fake", "--quiet"]
    assert beamclip("filter", "--keep-top", "0.5", "--input", tmp_path / "made", *asked, "--output", run) == 0
    embedded = ds.dataset(str(run / "embeddings")).to_table().to_pylist()
    failed = ds.dataset(str(run / "failures")).to_table().to_pylist()
    assert sorted(row["image_id"] for row in embedded + failed) == rows["uid"]
    assert Counter(row["reason"] for row in failed) == {"not_found": 6, "decode_error": 6}
    pairs = ds.dataset(str(run / "pairs")).to_table().to_pylist()
    assert sorted(row["image_id"] for row in pairs) == sorted(row["image_id"] for row in embedded)
    assert Counter(row["drop_reason"] for row in pairs) == {None: 10, "below_cut": 8}
    for row in embedded:
        number = int(row["image_id"], 16)
        assert number % 5 not in (1, 2)
        assert row["caption"] == f"picture {number}"
        assert json.loads(row["extra"])["url"] == urls[number]
