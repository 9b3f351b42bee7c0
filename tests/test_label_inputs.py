"""`beamclip label` over every kind of input: manifests, Parquet with bytes, webdataset shards, url lists."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.helpers import image_bytes, make_image, write_images
from tests.runs import beamclip, rows, summary

FAKE = ("--prompts", "everyday", "--encoder", "fake", "--quiet")


def label(source: object, run: Path, *more: object) -> int:
    return beamclip("label", "--input", source, *FAKE, "--output", run, *more)


def write_tar(path: Path, samples: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def test_a_manifest_keeps_captions_ids_extra_and_carried_columns(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    lines = [
        {"path": "image00000.jpg", "uid": "a", "caption": "first", "stars": 5, "place": "Ulm"},
        {"path": "image00001.jpg", "uid": "b", "caption": "söcond", "stars": 3, "place": None},
        {"path": "missing.jpg", "uid": "c", "caption": "none", "stars": 1, "place": "Bonn"},
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    run = tmp_path / "run"
    assert label(manifest, run, "--carry", "stars:int32", "--max-failure-rate", 1) == 0
    found = ds.dataset(str(run / "embeddings"), format="parquet").to_table()
    assert found.schema.field("src_stars").type == pa.int32()
    told = [
        (row["image_id"], row["caption"], row["src_stars"], json.loads(row["extra"]))
        for row in rows(run, "embeddings")
    ]
    assert told == [("a", "first", 5, {"place": "Ulm"}), ("b", "söcond", 3, {"place": None})]
    assert [(row["image_id"], row["reason"]) for row in rows(run, "failures")] == [("c", "not_found")]


def test_a_parquet_with_image_bytes_that_did_not_change_is_resumed_and_one_that_did_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(count: int) -> None:
        cells = [image_bytes(make_image(number)) for number in range(count)]
        pq.write_table(pa.table({"image": cells}), source, row_group_size=10)

    source, run = tmp_path / "table.parquet", tmp_path / "run"
    write(25)
    assert label(source, run) == 0
    assert label(source, run, "--resume") == 0
    assert summary(run)["units_before"] == summary(run)["units"]["planned"]
    assert len(rows(run, "embeddings")) == 25
    write(24)
    assert label(source, run, "--resume") == 2
    assert f"changed: {source}" in capsys.readouterr().err


def test_parquet_with_image_bytes_is_pointed_at_and_read_by_row_groups(tmp_path: Path) -> None:
    cells = [{"bytes": image_bytes(make_image(number)), "path": None} for number in range(25)]
    cells[7] = {"bytes": b"broken", "path": None}
    file = tmp_path / "data.parquet"
    pq.write_table(
        pa.table({"image": cells, "text": [f"caption {number}" for number in range(25)]}),
        file,
        row_group_size=4,
    )
    run = tmp_path / "run"
    assert label(file, run, "--unit-size", "8", "--max-failure-rate", 1) == 0
    assert summary(run)["units"]["committed"] == 4
    found = {row["uri"]: row["caption"] for row in rows(run, "embeddings")}
    assert found == {f"{file}#{number}": f"caption {number}" for number in range(25) if number != 7}
    assert [row["uri"] for row in rows(run, "failures")] == [f"{file}#7"]
    plan = next((run / "plan" / "0000").glob("units-*.parquet"))
    assert plan.stat().st_size < file.stat().st_size


def test_shards_give_one_row_an_image_with_captions(tmp_path: Path) -> None:
    for shard in range(3):
        samples: dict[str, bytes] = {}
        for number in range(10):
            samples[f"{number:03d}.jpg"] = image_bytes(make_image(shard * 10 + number))
            samples[f"{number:03d}.txt"] = f"caption {shard} {number}".encode()
        write_tar(tmp_path / f"shard-{shard:05d}.tar", samples)
    run = tmp_path / "run"
    assert label(f"{tmp_path}/shard-{{00000..00002}}.tar", run) == 0
    assert summary(run)["units"]["committed"] == 3
    found = {row["uri"]: row["caption"] for row in rows(run, "embeddings")}
    assert len(found) == 30
    assert found[f"{tmp_path}/shard-00001.tar#004"] == "caption 1 4"


def test_a_truncated_shard_keeps_what_was_read_exits_1_and_is_redone_whole(tmp_path: Path) -> None:
    samples = {f"{number:03d}.jpg": image_bytes(make_image(number)) for number in range(10)}
    whole = write_tar(tmp_path / "shard.tar", samples)
    cut = next(offset for offset in range(512 * 8, len(whole), 512) if whole[offset : offset + 3] == b"005")
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    (tmp_path / "shard.tar").write_bytes(whole[:cut])  # at a member's boundary: reads without any error
    assert label(tmp_path / "shard.tar", run, "--max-failure-rate", 1) == 1
    assert len(rows(run, "embeddings")) == 5
    assert [row["reason"] for row in rows(run, "failures")] == ["truncated_shard"]
    assert beamclip("label", "--output", run, "--retry-failed", "--max-failure-rate", 1, "--quiet") == 1
    assert len(rows(run, "embeddings")) == 5
    (tmp_path / "shard.tar").write_bytes(whole)
    assert beamclip("label", "--output", run, "--retry-failed", "--quiet") == 2  # it changed
    assert beamclip("label", "--output", run, "--resume", "--on-changed", "redo", "--quiet") == 0
    assert label(tmp_path / "shard.tar", fresh) == 0
    assert rows(run, "embeddings") == rows(fresh, "embeddings")
    assert not rows(run, "failures")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server over the test's folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_list_of_urls_counts_dead_links_as_rows_and_ends_well(tmp_path: Path, server: str) -> None:
    write_images(tmp_path, 3)
    urls = [f"{server}/image0000{number}.jpg" for number in range(3)] + [f"{server}/dead.jpg"]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    run = tmp_path / "run"
    assert label(tmp_path / "urls.txt", run, "--allow-private-urls") == 0
    assert [row["uri"] for row in rows(run, "embeddings")] == sorted(
        urls[:3], key=lambda url: next(r["image_id"] for r in rows(run, "embeddings") if r["uri"] == url)
    )
    assert [(row["uri"], row["stage"], row["reason"]) for row in rows(run, "failures")] == [
        (urls[3], "fetch", "not_found")
    ]


def test_signed_urls_leave_no_trace_in_the_output(tmp_path: Path, server: str) -> None:
    write_images(tmp_path, 2)
    secret = "X-Goog-Signature=s3cr3t"
    lines = ["url,caption", f"{server}/image00000.jpg?{secret},a", f"{server}/gone.jpg?{secret},b"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    assert label(tmp_path / "list.csv", run, "--max-failure-rate", 1, "--allow-private-urls") == 0
    assert [row["uri"] for row in rows(run, "embeddings")] == [f"{server}/image00000.jpg"]
    assert [row["uri"] for row in rows(run, "failures")] == [f"{server}/gone.jpg"]
    for path in run.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"s3cr3t" not in data, path
            if path.suffix == ".parquet":
                assert "s3cr3t" not in str(pq.read_table(path).to_pylist()), path


def test_mixed_inputs_of_one_call_are_one_run(images: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x.jpg": image_bytes(make_image(70))})
    run = tmp_path / "run"
    assert beamclip("label", "--input", images, tmp_path / "a.tar", *FAKE, "--output", run) == 0
    assert len(rows(run, "embeddings")) == 13
    assert summary(run)["units"]["committed"] == 2
