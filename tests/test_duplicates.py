"""Ids that come twice: found over embeddings and failures, whatever the partitions."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_transforms import duplicates
from clip_transforms.commits import write_commit
from clip_transforms.duplicates import find_duplicates
from clip_transforms.live import live_parts
from clip_transforms.sink import Part
from clip_transforms.storage import Store
from schemas.duplicates import DUPLICATES
from tests.store_kit import PLAN_ID, attempt, embed, unit_names, write_part


def parts_of(store: Store, *lists: list[str]) -> list[Part]:
    found: list[Part] = []
    for number, ids in enumerate(lists):
        unit = f"{PLAN_ID}-0000-{number:06d}"
        folder = "failures" if number % 2 else "embeddings"
        found += write_part(store, ids, folder=folder, unit=unit, task="embed", attempt="a")
    return found


def written(store: Store) -> list[dict[str, object]]:
    with store.open("duplicates.parquet") as file:
        table = pq.read_table(file)
    assert table.schema.equals(DUPLICATES)
    return table.to_pylist()


def test_rows_of_both_kinds_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    parts = parts_of(store, ["a", "b", "c", "b"], ["c", "d"], ["c"])
    assert find_duplicates(store, parts) == 2
    assert sorted(written(store), key=lambda row: str(row["image_id"])) == [
        {"image_id": "b", "count": 2, "uris": ["gs://b/b", "gs://b/b"]},
        {"image_id": "c", "count": 3, "uris": ["gs://b/c"] * 3},
    ]


@pytest.mark.parametrize("lists", [[], [["a", "b"], ["c"]]])
def test_none_is_an_empty_file(tmp_path: Path, lists: list[list[str]]) -> None:
    store = Store(str(tmp_path))
    assert find_duplicates(store, parts_of(store, *lists)) == 0
    assert written(store) == []


@pytest.mark.parametrize(("partition_ids", "hit_rows"), [(1 << 20, 1 << 20), (30, 1 << 20), (30, 37), (1, 1)])
def test_partitions_change_nothing(
    tmp_path: Path, partition_ids: int, hit_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", 64)
    rng = random.Random(7)
    ids = [str(rng.randrange(200)) for _ in range(400)]
    store = Store(str(tmp_path / "run"))
    find_duplicates(
        store, parts_of(store, ids[:300], ids[300:]), partition_ids=partition_ids, hit_rows=hit_rows
    )
    expected = {id: count for id, count in Counter(ids).items() if count > 1}
    found = written(store)
    assert len(found) == len(expected)
    assert {row["image_id"]: row["count"] for row in found} == expected
    assert all(
        row["uris"] == [f"gs://b/{row['image_id']}"] * min(10, int(str(row["count"]))) for row in found
    )


def test_at_most_ten_uris_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    parts = parts_of(store, ["same"] * 50, ["same"] * 50)
    assert find_duplicates(store, parts, hit_rows=7) == 1
    assert written(store) == [{"image_id": "same", "count": 100, "uris": ["gs://b/same"] * 10}]


def test_a_hash_collision_is_no_duplicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = duplicates._hash
    monkeypatch.setattr(duplicates, "_hash", lambda ids: hashed([id[0] for id in ids]))
    store = Store(str(tmp_path))
    assert find_duplicates(store, parts_of(store, ["a1", "a2", "b1", "b1"], ["a3"])) == 1
    assert written(store) == [{"image_id": "b1", "count": 2, "uris": ["gs://b/b1"] * 2}]


def test_superseded_rows_do_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (unit,) = unit_names(1)
    embed(store, unit, rows=5)
    write_commit(store, attempt(store, unit, "redo-1", embedded=[f"{unit}:{n}" for n in range(5)]))
    parts = live_parts(store)
    assert find_duplicates(store, [*parts["embeddings"], *parts.get("failures", ())]) == 0


def test_another_store_takes_the_file(tmp_path: Path) -> None:
    store, output = Store(str(tmp_path / "run")), Store(str(tmp_path / "labels"))
    assert find_duplicates(store, parts_of(store, ["a", "a"]), output=output) == 1
    assert not store.exists("duplicates.parquet") and len(written(output)) == 1
