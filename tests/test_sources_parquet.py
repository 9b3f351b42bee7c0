"""Parquet inputs: units of row groups, references and image bytes, lazy reading, and files that fail."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, Stage, StoreError, UnitKind
from clip_transforms.sources import PlanItem, SourceOptions, image_id_of, limit_items, read_unit, scan
from clip_transforms.sources.opening import InputStream
from tests.sources_kit import plan_of, read_all, read_items, summary

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], *, group: int = 1000, schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=group)
    return path


def slices(path: Path, **options: Any) -> list[PlanItem]:
    return list(scan([str(path)], SourceOptions(**options)))


def test_row_groups_are_gathered_into_units(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"uri": [f"{row}.jpg" for row in range(95)]}, group=10)
    items = slices(path, unit_rows=35)
    assert [(item.rows, item.row_groups, item.pointer_offset) for item in items] == [
        (30, (0, 1, 2), 0),
        (30, (3, 4, 5), 30),
        (35, (6, 7, 8, 9), 60),
    ]
    assert {(item.kind, item.uri, item.size) for item in items} == {
        (UnitKind.PARQUET, str(path), path.stat().st_size)
    }
    assert [item.row_groups for item in slices(path, unit_rows=5)] == [(group,) for group in range(10)]
    assert [item.rows for item in slices(path, unit_rows=1000)] == [95]


def test_references_with_ids_captions_extra_and_carry(tmp_path: Path) -> None:
    columns = {
        "uid": [1, None],
        "url": ["https://h/a.jpg?sig=1", "sub/b.jpg"],
        "TEXT": ["a cat", None],
        "score": [0.5, float("nan")],
        "when": [datetime.datetime(2024, 5, 6), None],
        "tags": [["x", "y"], []],
        "md5": pa.array([b"0123", b"4567"], pa.binary(4)),
        "n": pa.array([7, None], pa.int32()),
    }
    path = write(tmp_path / "m.parquet", columns)
    first, second = read_all([path], SourceOptions(carry=(("n", "int64"), ("score", "float64"))))
    assert isinstance(first, ImageRef)
    assert isinstance(second, ImageRef)
    assert (first.image_id, first.uri, first.url) == ("1", "https://h/a.jpg", "https://h/a.jpg?sig=1")
    assert (first.caption, first.carry, first.payload) == ("a cat", (7, 0.5), None)
    assert first.extra == '{"tags":["x","y"],"when":"2024-05-06T00:00:00"}'
    assert (second.uri, second.caption) == (f"{tmp_path}/sub/b.jpg", None)
    assert second.image_id == image_id_of(f"{tmp_path}/sub/b.jpg")
    assert second.carry[0] is None


def test_hugging_face_images(tmp_path: Path) -> None:
    cells = [
        {"bytes": b"one", "path": "a.jpg"},
        {"bytes": None, "path": "b.jpg"},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"six", "path": None},
    ]
    columns = {"image": pa.array(cells, HF), "label": list(range(6)), "url": ["http://h/x"] * 6}
    path = write(tmp_path / "train-0.parquet", columns, group=2)
    found = read_all([path], SourceOptions(unit_rows=2))
    assert summary(found) == [
        (f"{path}#0", "one"),
        (f"{tmp_path}/b.jpg", ""),
        (f"{path}#2", "empty"),
        (f"{path}#3", "empty"),
        (f"{path}#4", "empty"),
        (f"{path}#5", "six"),
    ]
    assert isinstance(found[0], ImageRef)
    assert found[0].extra == '{"image.path":"a.jpg","label":0,"url":"http://h/x"}'
    assert (found[0].image_id, found[0].size) == (image_id_of(f"{path}#0"), 3)
    assert isinstance(found[1], ImageRef)
    assert found[1].url == f"{tmp_path}/b.jpg"
    assert [row.message for row in found if isinstance(row, Failure)] == [
        "row 2 has an image of no bytes",
        "row 3 has neither bytes nor a path",
        "row 4 has neither bytes nor a path",
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "x.parquet", {"data": pa.array([b"abc", b"toolong"], kind), "id": ["i", "j"]})
    found = read_all([path], SourceOptions(max_bytes=5))
    assert summary(found) == [(f"{path}#0", "abc"), (f"{path}#1", "too_many_bytes")]
    assert [row.image_id for row in found] == ["i", "j"]


def test_which_column_is_the_image(tmp_path: Path) -> None:
    both = write(tmp_path / "b.parquet", {"jpg": [b"x"], "url": ["http://h/a"], "md5": [b"q"]})
    assert summary(read_all([both])) == [(f"{both}#0", "x")]
    assert summary(read_all([both], SourceOptions(format="manifest"))) == [("http://h/a", "")]
    assert summary(read_all([both], SourceOptions(image_column="url"))) == [("http://h/a", "")]
    assert summary(read_all([both], SourceOptions(image_column="md5"))) == [(f"{both}#0", "q")]
    hashed = write(tmp_path / "h.parquet", {"md5": [b"x"], "url": ["http://h/a"]})
    assert summary(read_all([hashed])) == [("http://h/a", "")]
    category = write(tmp_path / "d.parquet", {"path": pa.array(["a.jpg"] * 2).dictionary_encode()})
    assert summary(read_all([category])) == [(f"{tmp_path}/a.jpg", "")] * 2


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": [1]}, {}, "has no column that points at images; looked for uri, url, path, image_path"),
        ({"uri": [1]}, {}, "column 'uri' is int64; expected strings"),
        (
            {"image": [b"x"], "png": [b"y"]},
            {},
            "several columns of bytes (image, png); choose with --image-column",
        ),
        ({"uri": ["x"]}, {"format": "parquet-images"}, "has no column of image bytes; found uri"),
        ({"uri": ["x"]}, {"image_column": "img"}, "--image-column img"),
        ({"uri": ["x"]}, {"id_column": "uid"}, "--id-column uid"),
        ({"uri": ["x"], "n": [1]}, {"carry": (("n", "int32"),)}, "--carry n:int32"),
        ({"uri": ["x"], "n": ["1"]}, {"carry": (("n", "int64"),)}, "has string, which may not fit"),
        ({"uri": []}, {}, "the tables have no rows"),
    ],
)
def test_an_unusable_table_is_an_error_at_once(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    schema = pa.schema([("uri", pa.string())]) if columns == {"uri": []} else None
    path = write(tmp_path / "x.parquet", columns, schema=schema)
    with pytest.raises(RequestError) as caught:
        scan([str(path)], SourceOptions(**options))
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all, but long enough to have a footer"])
def test_what_is_no_parquet_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(RequestError, match=r"x\.parquet is not a readable Parquet file"):
        scan([str(tmp_path / "x.parquet")], SourceOptions())


def test_a_folder_of_parquet_alone_is_found(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", {"image": [b"x"]})
    found = summary(read_all([tmp_path]))
    assert sorted(found) == [(f"{tmp_path}/{number}.parquet#0", "x") for number in range(3)]


def test_a_vanished_changed_or_damaged_file_gives_every_row_as_a_failure(tmp_path: Path) -> None:
    cells = pa.array([bytes([row]) * 3000 for row in range(40)])
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"image": cells}), path, row_group_size=20, compression="none", use_dictionary=False
    )
    first, second = slices(path, unit_rows=20)
    good = path.read_bytes()
    wanted = [f"{path}#{row}" for row in range(20, 40)]

    path.write_bytes(good + b"x")
    changed = read_items([second], SourceOptions())
    assert [row.uri for row in changed] == wanted
    assert {row.message for row in changed if isinstance(row, Failure)} == {
        f"{path} has changed since it was planned"
    }
    path.unlink()
    gone = read_items([second], SourceOptions())
    assert [row.uri for row in gone] == wanted
    assert {(row.stage, row.reason) for row in gone if isinstance(row, Failure)} == {
        (Stage.FETCH, Reason.NOT_FOUND)
    }
    at = good.index(b"\x14" * 3000) - 40
    path.write_bytes(good[:at] + b"\xff" * 40 + good[at + 40 :])
    broken = read_items([second], SourceOptions())
    assert [row.uri for row in broken] == wanted
    assert {row.reason for row in broken if isinstance(row, Failure)} == {Reason.DECODE_ERROR}
    assert [row.uri for row in read_items([first], SourceOptions())] == [f"{path}#{row}" for row in range(20)]


def test_a_store_that_fails_for_now_fails_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", {"image": [b"x" * 100] * 10})
    table = plan_of(slices(path))
    real = InputStream.read

    def reset(self: InputStream, count: int = -1) -> bytes:
        self.error = ConnectionResetError("reset")
        raise self.error

    monkeypatch.setattr(InputStream, "read", reset)
    with pytest.raises(StoreError, match=r"x\.parquet cannot be read: ConnectionResetError"):
        list(read_unit(UnitKind.PARQUET, table, SourceOptions()))
    monkeypatch.setattr(InputStream, "read", real)
    assert len(list(read_unit(UnitKind.PARQUET, table, SourceOptions()))) == 10


def test_image_bytes_are_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    cells = [bytes([row % 251]) * 200_000 for row in range(400)]
    pq.write_table(
        *(pa.table({"image": cells}), path),
        row_group_size=400,
        compression="none",
        use_dictionary=False,
        write_batch_size=8,  # else all 400 rows are one page, the least that can be read
    )
    (item,) = slices(path)
    before = pa.total_allocated_bytes()
    peak = count = 0
    for row in read_unit(UnitKind.PARQUET, plan_of([item]), SourceOptions()):
        assert isinstance(row, ImageRef)
        assert row.payload == cells[count]
        count += 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == 400
    assert peak < 20_000_000  # of 80,000,000 in the row group


def test_sample_and_limit_in_a_slice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"uri": [f"/{row}.jpg" for row in range(300)]}, group=50)
    every = [row.uri for row in read_all([path])]
    sampled = SourceOptions(sample=0.3, seed=5, unit_rows=100)
    some = [row.uri for row in read_all([path], sampled)]
    assert 60 < len(some) < 120
    assert set(some) < set(every)
    items = list(limit_items(scan([str(path)], SourceOptions(unit_rows=100)), 130, SourceOptions()))
    assert [(item.rows, item.max_rows) for item in items] == [(100, None), (30, 30)]
    assert [row.uri for row in read_items(items, SourceOptions())] == every[:130]
    few = list(limit_items(scan([str(path)], sampled), 40, sampled))
    assert [row.uri for row in read_items(few, sampled)] == some[:40]
    csv_of_the_same = tmp_path / "m.csv"
    csv_of_the_same.write_text("uri\n" + "\n".join(every))
    assert [row.uri for row in read_all([csv_of_the_same], sampled)] == some


def test_parquet_in_memory_store(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    path = write(tmp_path / "m.parquet", {"path": ["img/a.jpg"], "image": [b"abc"]})
    fs.pipe_file("/sets/m.parquet", path.read_bytes())
    try:
        assert summary(read_all(["memory://sets/m.parquet"])) == [("memory://sets/m.parquet#0", "abc")]
        options = SourceOptions(format="manifest")
        assert summary(read_all(["memory://sets/m.parquet"], options)) == [("memory://sets/img/a.jpg", "")]
    finally:
        fs.store.clear()
