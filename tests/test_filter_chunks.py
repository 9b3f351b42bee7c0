"""A selection over many chunks gives what one over a single chunk gives, duplicates of other chunks included."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_transforms.pairs import duplicates
from clip_transforms.pairs.chunks import list_chunks
from clip_transforms.phash import phash
from clip_transforms.transforms import select
from tests.helpers import image_bytes, make_image
from tests.pairs_kit import by_name, data, filtered, write_manifest
from tests.runs import rows, summary

BASES = 8


def write_alike(folder: Path) -> Path:
    """48 pairs: 8 pictures, each also encoded again, and both of them twice, with 16 others in between."""
    folder.mkdir()
    files: dict[str, bytes] = {}
    for number in range(BASES):
        picture = make_image(number, (256, 192))
        files[f"a{number}.jpg"] = files[f"c{number}.jpg"] = image_bytes(picture)
        files[f"b{number}.jpg"] = files[f"d{number}.jpg"] = image_bytes(picture, quality=90)
        files[f"z{number}.jpg"] = image_bytes(make_image(100 + number, (256, 192)))
        files[f"y{number}.jpg"] = image_bytes(make_image(200 + number, (256, 192)))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    order = [f"{letter}{number}.jpg" for letter in "azbycd" for number in range(BASES)]
    return write_manifest(
        folder / "pairs.csv", [(folder / name, f"this is {name}") for name in order], uids=True
    )


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """The manifest of `write_alike`."""
    return write_alike(tmp_path / "input")


def in_small_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for module in (select, duplicates):
        monkeypatch.setattr(module, "list_chunks", partial(list_chunks, rows=size))


@pytest.mark.parametrize("dedup", ["exact", "near", "semantic"])
def test_the_number_of_chunks_changes_nothing(
    alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dedup: str
) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    how = ("--encoder", "fake", "--dedup", dedup, "--keep-top", "0.7", "--unit-size", "5", "--write", "uids")
    assert filtered("--input", alike, *how, "--output", whole) == 0
    in_small_chunks(monkeypatch, 5)
    assert filtered("--input", alike, *how, "--output", pieces) == 0
    assert len(list((whole / "pairs").iterdir())) == 1
    assert len(list((pieces / "pairs").iterdir())) == 10
    assert data(whole) == data(pieces)
    np.testing.assert_array_equal(np.load(whole / "uids.npy"), np.load(pieces / "uids.npy"))
    drop = summary(pieces)["filter"]["dropped"]
    assert drop == summary(whole)["filter"]["dropped"]
    assert drop["duplicate_exact"] == 2 * BASES


def test_each_duplicate_names_the_best_of_all_that_are_alike(
    alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    in_small_chunks(monkeypatch, 3)
    options = ("--encoder", "fake", "--dedup", "near", "--unit-size", "3")
    assert filtered("--input", alike, *options, "--output", run) == 0
    found = by_name(run)
    reasons: Counter[str] = Counter()
    for number in range(BASES):
        bits = [int(found[f"{letter}{number}.jpg"]["phash"], 16) for letter in "ab"]
        assert bin(bits[0] ^ bits[1]).count("1") <= 4
        group = sorted(
            (found[f"{letter}{number}.jpg"] for letter in "abcd"), key=lambda row: -row["similarity_fake"]
        )
        assert [row["kept"] for row in group] == [True, False, False, False]
        assert {row["duplicate_of"] for row in group[1:]} == {group[0]["image_id"]}
        reasons.update(row["drop_reason"] for row in group[1:])
    assert reasons == {"duplicate_exact": 2 * BASES, "duplicate_near": BASES}
    assert all(found[f"{letter}{number}.jpg"]["kept"] for letter in "zy" for number in range(BASES))


def test_layouts_and_shards_of_many_chunks_hold_each_kept_pair_once(
    alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    in_small_chunks(monkeypatch, 6)
    options = (
        "--encoder",
        "fake",
        "--keep-top",
        "0.6",
        "--unit-size",
        "6",
        "--write",
        "clip-retrieval",
        "webdataset",
    )
    assert filtered("--input", alike, *options, "--output", run) == 0
    kept = {row["image_id"] for row in rows(run, "kept")}
    parts = sorted((run / "clip-retrieval" / "metadata").iterdir())
    ids = [image_id for part in parts for image_id in pq.read_table(part).column("image_id").to_pylist()]
    assert sorted(ids) == sorted(kept) and len(parts) > 3
    again = tmp_path / "again"
    shards = ("--format", "webdataset", "--id-column", "image_id")
    assert filtered("--input", run / "webdataset", *shards, "--encoder", "fake", "--output", again) == 0
    assert {row["image_id"] for row in rows(again, "pairs")} == kept
    assert len(rows(again, "pairs")) == len(kept)


def test_the_planted_pictures_are_what_they_are_said_to_be() -> None:
    hashes = [
        int(phash(make_image(seed, (256, 192))), 16)
        for seed in (*range(BASES), *range(100, 108), *range(200, 208))
    ]
    apart = [bin(one ^ other).count("1") for place, one in enumerate(hashes) for other in hashes[:place]]
    assert min(apart) > 8
