"""Inventory reports: S3 Inventory and Storage Insights, by their manifests and file by file, and bad ones."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import RequestError, UnitKind
from clip_transforms.sources import PlanItem, SourceOptions, list_objects, scan
from clip_transforms.storage import Store
from tests.helpers import image_bytes, make_image
from tests.inventory_kit import (
    GCS_ID,
    gcs_manifest,
    gcs_row,
    gcs_shard,
    s3_csv,
    s3_manifest,
    s3_row,
    write_gcs_report,
    write_s3_report,
)
from tests.runs import all_rows, beamclip
from tests.servers import Server, gcs_server, s3_server
from tests.test_label_stores import downloaded, options_of

ODD = "photos/odd +#1?[x] é%20.JPG"
DELETED = datetime.datetime(2026, 1, 2)


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    """A Google server's counterpart: S3."""
    with pytest.MonkeyPatch.context() as patch, s3_server() as running:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield running


@pytest.fixture(scope="module")
def gcs() -> Iterator[Server]:
    """A Google Cloud Storage server."""
    with gcs_server() as running:
        yield running


def found(url: str | Path, **options: Any) -> list[PlanItem]:
    return list(scan([str(url)], SourceOptions(**options)))


def told(items: list[PlanItem]) -> list[tuple[str, int | None, str | None]]:
    return [(item.uri, item.size, item.version) for item in items]


def refused(url: str | Path, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        found(url, **options)
    return str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("style", ["CSV", "Parquet"])
def test_an_s3_report_lists_what_the_bucket_lists(s3: Server, style: str) -> None:
    bucket = Store(s3.url, s3.storage_options)
    names = ["photos/a.jpg", ODD, "photos/b.png"]
    for name in names:
        bucket.write(name, name.encode())
    listed = {entry.url: (entry.size, entry.version) for entry in list_objects(s3.url, s3.storage_options)}
    rows = [
        s3_row(name, listed[f"s3://bucket/{name}"][0], listed[f"s3://bucket/{name}"][1]) for name in names
    ]
    old = s3_row("photos/a.jpg", 9, "0ld", IsLatest=False, VersionId="1")
    gone = s3_row("photos/gone.jpg", IsDeleteMarker=True, VersionId="2")
    others = [s3_row("photos/notes.md", 5, "e"), s3_row("photos/", 0, "e")]
    url = write_s3_report(bucket, [[rows[0], old, gone], [*others, *rows[1:]]], style=style)
    items = found(url, storage_options=s3.storage_options)
    assert told(items) == [(f"s3://bucket/{name}", *listed[f"s3://bucket/{name}"]) for name in names]
    assert {(item.kind, item.rows, item.extra, item.image_id) for item in items} == {
        (UnitKind.REFS, 1, None, None)
    }
    every = found(url, storage_options=s3.storage_options, format="images")
    assert [item.uri.rpartition("/")[2] for item in every] == ["a.jpg", "notes.md", ODD[7:], "b.png"]
    assert len(found(url, storage_options=s3.storage_options, sample=0.5, seed=3)) == 2


@pytest.mark.parametrize("style", ["csv", "parquet"])
@pytest.mark.parametrize(("header", "delimiter"), [(True, ","), (False, "|")])
def test_a_storage_insights_report_lists_objects(
    tmp_path: Path, style: str, header: bool, delimiter: str
) -> None:
    odd = 'photos/a+b %20,"quoted"\n.jpg'
    old = gcs_row("photos/a.jpg", 3, "11", timeDeleted=DELETED)
    generation: Any = 12 if style == "parquet" else "12"
    old = {**old, "generation": generation}
    batches = [
        [gcs_row("photos/a.jpg", 3, generation), old, gcs_row("x.txt", 1, generation)],
        [gcs_row(odd, 4)],
    ]
    url = write_gcs_report(Store(str(tmp_path)), batches, style=style, header=header, delimiter=delimiter)
    assert told(found(url)) == [("gs://bucket/photos/a.jpg", 3, "12"), (f"gs://bucket/{odd}", 4, None)]


def test_one_file_of_a_report_is_enough_where_it_names_its_columns(tmp_path: Path) -> None:
    rows = [gcs_row("a.jpg", 1, "7"), gcs_row("b.jpg", 2, "8")]
    csv, parquet = tmp_path / "shard.csv", tmp_path / "shard.parquet"
    csv.write_bytes(gcs_shard(rows))
    parquet.write_bytes(
        gcs_shard([{**row, "generation": int(row["generation"])} for row in rows], style="parquet")
    )
    expected = [("gs://bucket/a.jpg", 1, "7"), ("gs://bucket/b.jpg", 2, "8")]
    assert told(found(csv)) == told(found(parquet)) == expected
    assert told(found(tmp_path, format="manifest")) == expected * 2
    pq.write_table(pa.table({"bucket": ["b", "b"], "key": ["a+b.jpg", "x.tif"]}), parquet)
    assert told(found(parquet)) == [("s3://b/a+b.jpg", None, None), ("s3://b/x.tif", None, None)]


def test_a_table_of_your_own_keeps_its_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("bucket,key,uid,caption,stars,size\nb,a.jpg,u1,a cat,5,10\nb,b.jpg,,,4,\n")
    first, second = found(path, carry=(("size", "int64"),))
    assert (first.image_id, first.caption, first.extra) == ("u1", "a cat", '{"size":"10","stars":"5"}')
    assert (second.image_id, second.caption, second.size) == (None, None, None)
    assert "--carry" in refused(path, carry=(("stars", "bool"),))
    assert "no such column" in refused(path, id_column="nothing")


def test_a_column_of_urls_or_of_images_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"bucket": ["b"], "key": ["k"], "url": ["s3://b/a.jpg"]}), path)
    assert [item.kind for item in found(path)] == [UnitKind.PARQUET]
    pq.write_table(pa.table({"bucket": ["b"], "key": ["k"], "image": [b"bytes"]}), path)
    assert [item.kind for item in found(path)] == [UnitKind.PARQUET]


def test_shards_are_listed_too(tmp_path: Path) -> None:
    path = tmp_path / "shards.csv"
    path.write_text("bucket,name\nb,0.tar\nb,1.tar\n")
    assert [(item.kind, item.uri, item.rows) for item in found(path)] == [
        (UnitKind.TAR, "gs://b/0.tar", None),
        (UnitKind.TAR, "gs://b/1.tar", None),
    ]
    path.write_text("bucket,name\nb,0.tar\nb,1.jpg\n")
    assert "both images and tar shards (gs://b/0.tar, gs://b/1.jpg)" in refused(path)


def test_rows_that_are_none_become_failures(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("bucket,name\nb,a.jpg\n,b.jpg\nb\nb,c.jpg,d\nb,e.jpg\n")
    rows = [(item.uri, item.problem_message) for item in found(path)]
    assert rows == [
        ("gs://b/a.jpg", None),
        (f"{path}#1", "row 1 has no bucket or no key"),
        (f"{path}#2", "row 2 has no bucket or no key"),
        (f"{path}#3", "row 3 has more cells than columns"),
        ("gs://b/e.jpg", None),
    ]


def test_manifests_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for text, words in (
        (b"no json", "is not JSON"),
        (b'["a.jpg"]', "no manifest of an inventory report"),
        (s3_manifest({}), "names no files"),
        (s3_manifest({"a": b""}, style="CSV", fileSchema="Bucket, Size"), "no columns with bucket and key"),
        (s3_manifest({"a": b""}, style="ORC"), "files are ORC; configure it to write Parquet or CSV"),
        (gcs_manifest([], 0), "names no files"),
        (gcs_manifest(["x.orc"], 0), "files are orc"),
    ):
        path.write_bytes(text)
        assert words in refused(path), words
    path.write_bytes(gcs_manifest([f"{GCS_ID}_0.csv"], 1))
    assert "was not found" in refused(path)
    assert "is not a readable Parquet file" in refused(path, format="parquet-images")
    nothing = tmp_path / "0.csv.gz"
    nothing.write_bytes(s3_csv([s3_row("a.jpg")]))
    assert "of an inventory report give its manifest.json" in refused(nothing)


def test_a_report_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    url = write_gcs_report(store, [[gcs_row("a.jpg"), gcs_row("b.jpg")]])
    shard = f"reports/{GCS_ID}_0.csv"
    store.write(shard, gcs_shard([gcs_row("a.jpg")]))
    assert "says that it lists 2 objects, and its files have 1 rows" in refused(url)
    url = write_gcs_report(store, [[gcs_row("a.md"), gcs_row("b/")]])
    assert "of its 2 rows none is a current object with .jpg" in refused(url)
    parquet = write_gcs_report(store, [[gcs_row("a.jpg")]], style="parquet")
    store.write(f"reports/{GCS_ID}_0.parquet", b"PAR1 no more")
    assert "cut short or damaged" in refused(parquet)


@pytest.mark.s3
def test_an_s3_file_of_another_size_or_cut_short_is_refused(s3: Server) -> None:
    bucket = Store(s3.url, s3.storage_options)
    data = s3_csv([s3_row(f"{number}.jpg", number) for number in range(1000)])
    for name, there, said, words in (
        ("short.csv.gz", data[:-9], data, "its manifest says"),
        ("cut.csv.gz", data[:-900], data[:-900], "cut short or damaged"),
    ):
        bucket.write(name, there)
        bucket.write("manifest.json", s3_manifest({name: said}))
        assert words in refused(f"{s3.url}/manifest.json", storage_options=s3.storage_options)
    bucket.write("manifest.json", s3_manifest({"not/there.csv.gz": data}))
    assert "s3://bucket/not/there.csv.gz was not found" in refused(
        f"{s3.url}/manifest.json", storage_options=s3.storage_options
    )


@pytest.mark.parametrize(
    "kind", [pytest.param("gcs", marks=pytest.mark.gcs), pytest.param("s3", marks=pytest.mark.s3)]
)
def test_a_run_over_a_report_equals_one_over_the_listing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue(kind)
    bucket = Store(server.url, server.storage_options)
    folder = Store(f"{server.url}/run/photos", server.storage_options)
    for number in range(6):
        folder.write(f"image +{number}.jpg", image_bytes(make_image(number)))
    entries = list(list_objects(folder.root, server.storage_options))
    keys = {entry.url.removeprefix(f"{server.url}/"): entry for entry in entries}
    if kind == "gcs":
        rows = [gcs_row(key, entry.size, entry.version) for key, entry in keys.items()]
        report = write_gcs_report(bucket, [rows[:4], rows[4:]])
    else:
        rows = [s3_row(key, entry.size, entry.version) for key, entry in keys.items()]
        report = write_s3_report(bucket, [rows[:4], rows[4:]])
    shared = ("--prompts", "everyday", "--encoder", "fake", "--quiet", *options_of(server))
    runs = {}
    for name, given in (("listed", f"{folder.root}/*.jpg"), ("reported", report)):
        run = Store(f"{server.url}/{name}", server.storage_options)
        assert beamclip("label", "--input", given, *shared, "--output", run.root) == 0
        runs[name] = all_rows(downloaded(run, tmp_path / name))
    assert len(runs["listed"]["embeddings"]) == 6
    assert runs["reported"] == runs["listed"]
    # Against the bucket's listing nothing has changed: the report's versions are the store's own.
    (extension,) = [json.loads(bucket.read(name)) for name in ("reported/plan/0000/plan.json",)]
    assert extension["config"]["identity"]["input"] == [report]
    assert (
        beamclip("label", "--input", report, *shared, "--output", f"{server.url}/reported", "--resume") == 0
    )
