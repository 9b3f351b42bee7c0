"""Parquet parts: names, rolling, row groups, footer, schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.sink import Part, PartWriter, new_attempt, part_owner, part_stem
from clip_transforms.storage import Store
from schemas.embeddings import embeddings_schema
from schemas.failures import FAILURES

SCHEMA = pa.schema([pa.field("image_id", pa.string(), nullable=False), pa.field("value", pa.float64())])


def rows(count: int, start: int = 0) -> pa.Table:
    values = np.random.default_rng(start).random(count)
    return pa.table(
        {"image_id": [str(n) for n in range(start, start + count)], "value": values}, schema=SCHEMA
    )


def writer(folder: Path, **options: int) -> PartWriter:
    return PartWriter(Store(str(folder)), folder="embeddings", schema=SCHEMA, stem="part-x", **options)


def test_parts_are_rolled_by_rows(tmp_path: Path) -> None:
    sink = writer(tmp_path, max_rows=1000)
    for start in range(0, 2500, 50):
        sink.write(rows(50, start))
    parts = sink.close()
    names = [f"embeddings/part-x-{number}.parquet" for number in range(3)]
    assert [(part.name, part.rows) for part in parts] == list(zip(names, (1000, 1000, 500), strict=True))
    assert [part.bytes for part in parts] == [(tmp_path / name).stat().st_size for name in names]
    read = pa.concat_tables(pq.read_table(tmp_path / name) for name in names)
    assert read.column("image_id").to_pylist() == [str(number) for number in range(2500)]
    assert parts[0].folder == "embeddings"


def test_a_table_larger_than_a_part_is_cut(tmp_path: Path) -> None:
    sink = writer(tmp_path, max_rows=4000)
    sink.write(rows(10_000))
    assert [part.rows for part in sink.close()] == [4000, 4000, 2000]


def test_parts_are_rolled_by_bytes(tmp_path: Path) -> None:
    sink = writer(tmp_path, max_bytes=200_000)
    for start in range(0, 100_000, 5000):
        sink.write(rows(5000, start))
    parts = sink.close()
    assert sum(part.rows for part in parts) == 100_000
    assert len(parts) > 3 and max(part.bytes for part in parts) < 250_000


def test_a_full_part_is_sent_at_once(tmp_path: Path) -> None:
    sink = writer(tmp_path, max_rows=100)
    sink.write(rows(150))
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["part-x-0.parquet"]


def test_row_groups_hold_4k_to_64k_rows(tmp_path: Path) -> None:
    sink = writer(tmp_path)
    for start in range(0, 70_000, 700):
        sink.write(rows(700, start))
    for part in sink.close():
        meta = pq.ParquetFile(tmp_path / part.name).metadata
        groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
        assert sum(groups) == part.rows
        assert all(4096 <= count <= 65_536 for count in groups[:-1]) and groups[-1] <= 65_536
        assert meta.row_group(0).column(0).compression == "ZSTD"


def test_wide_rows_make_smaller_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("v", pa.list_(pa.float32(), 2048))])
    sink = PartWriter(Store(str(tmp_path)), folder="embeddings", schema=schema, stem="part-x")
    for _ in range(10):
        flat = pa.array(np.zeros(1000 * 2048, np.float32))
        sink.write(pa.table([pa.FixedSizeListArray.from_arrays(flat, 2048)], schema=schema))
    (part,) = sink.close()
    meta = pq.ParquetFile(tmp_path / part.name).metadata
    assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == [5000, 5000]


def test_the_footer_holds_what_was_given_and_the_schema_version(tmp_path: Path) -> None:
    metadata = {"beamclip.fingerprint": "f1"}
    sink = PartWriter(
        Store(str(tmp_path)), folder="failures", schema=FAILURES, stem="part-x", metadata=metadata
    )
    row = {"image_id": "1", "uri": "u", "stage": "fetch", "reason": "timeout", "message": "m", "attempts": 1}
    for run in ("a", "b"):  # dictionaries differ from batch to batch
        sink.write(pa.Table.from_pylist([{**row, "run_id": run}], schema=FAILURES).to_batches()[0])
    (part,) = sink.close()
    footer = pq.read_metadata(tmp_path / part.name).metadata
    assert footer[b"beamclip.fingerprint"] == b"f1" and footer[b"beamclip.schema_version"] == b"1"
    read = pq.read_table(tmp_path / part.name)
    assert read.schema.equals(FAILURES) and read.column("run_id").to_pylist() == ["a", "b"]


def test_an_embedding_comes_back_as_it_went(tmp_path: Path) -> None:
    schema = embeddings_schema(3)
    sink = PartWriter(Store(str(tmp_path)), folder="embeddings", schema=schema, stem="part-x")
    vectors = np.random.default_rng(1).random((7, 3), np.float32)
    columns = {
        field.name: pa.array(["x"] * 7).cast(field.type)
        if pa.types.is_string(field.type)
        else pa.nulls(7, field.type)
        for field in schema
    }
    columns |= {
        name: pa.array(["f"] * 7).dictionary_encode()
        for name in ("format", "fingerprint", "encoder", "run_id")
    }
    columns |= {
        name: pa.array(range(7), schema.field(name).type)
        for name in ("width", "height", "bytes", "created_at")
    }
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3).cast(
        schema.field("embedding").type
    )
    sink.write(pa.Table.from_pydict(columns, schema=schema))
    (part,) = sink.close()
    read = pq.read_table(tmp_path / part.name)
    assert read.schema.equals(schema)
    back = read.column("embedding").combine_chunks().flatten().to_numpy().reshape(7, 3)
    assert np.array_equal(back, vectors)


def test_rows_of_another_schema_are_refused(tmp_path: Path) -> None:
    sink = writer(tmp_path)
    with pytest.raises(
        ValueError, match=r"got no field image_id; .*; expected no field v, got pyarrow.Field<v: int64>"
    ):
        sink.write(pa.table({"v": [1]}))
    with pytest.raises(
        ValueError, match=r"expected pyarrow.Field<value: double>, got pyarrow.Field<value: float>"
    ):
        sink.write(rows(1).set_column(1, pa.field("value", pa.float32()), pa.array([1.0], pa.float32())))
    with pytest.raises(ValueError, match="fields in another order"):
        sink.write(rows(1).select(["value", "image_id"]))


def test_no_rows_make_no_part(tmp_path: Path) -> None:
    sink = writer(tmp_path)
    sink.write(rows(0))
    assert sink.close() == () and list(tmp_path.iterdir()) == []


def test_discarding_removes_what_was_sent(tmp_path: Path) -> None:
    sink = writer(tmp_path, max_rows=10)
    sink.write(rows(35))
    assert len(list((tmp_path / "embeddings").iterdir())) == 3
    sink.discard()
    assert list(tmp_path.iterdir()) == [] and sink.close() == ()


def test_names_tell_unit_task_and_attempt() -> None:
    unit, attempt = "0123abcd-0001-000042", new_attempt()
    assert len(attempt) == 12 and attempt != new_attempt()
    for task in ("embed", "labels-my-set-2@0a1b2c3d", "retry-1", "redo-12"):
        name = f"embeddings/{part_stem(unit, task=task, attempt=attempt)}-0.parquet"
        owner = part_owner(name)
        assert owner is not None and (owner.unit, owner.task, owner.attempt) == (unit, task, attempt)
    for other in (
        ".tmp-0123",
        "part-1.parquet",
        "part-0123abcd-0001-000042-embed-5f.parquet",
        "x/part-a-b-0.csv",
    ):
        assert part_owner(other) is None
    assert Part(name="a/b", rows=1, bytes=2) == Part(name="a/b", rows=1, bytes=2)
