"""The whole of the sources: what is public, many inputs, sampling, limits, and seeded damage."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import clip_transforms.sources as sources
from clip_transforms.elements import Failure, ImageRef, RequestError, UnitKind
from clip_transforms.sources import SourceOptions, image_id_of, limit_items, scan
from tests.sources_kit import plan_of, read_all, read_items, tar_bytes, tar_item


def test_the_public_names() -> None:
    assert sources.__all__ == [
        *(
            "FORMATS",
            "IMAGE_SUFFIXES",
            "Listed",
            "PlanItem",
            "SourceOptions",
            "canonical_uri",
            "expand_inputs",
        ),
        *(
            "has_credentials",
            "image_id_of",
            "is_kept",
            "is_lost_shard",
            "limit_items",
            "list_objects",
            "parse_carry",
            "read_unit",
        ),
        *("scan", "scrub", "stat_object", "with_private_inputs"),
    ]


def test_refs_become_images_with_id_size_and_url(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (row,) = read_all([tmp_path])
    uri = f"{tmp_path}/a.jpg"
    assert row == ImageRef(image_id=image_id_of(uri), uri=uri, url=uri, size=5)


def test_items_fit_the_plans_schema(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "m.csv").write_text("uri,n\n,1\nhttps://h/a?sig=1,2\n")
    items = list(scan([str(tmp_path), str(tmp_path / "m.csv")], SourceOptions()))
    rows = plan_of(items).to_pylist()
    assert [row["problem_reason"] for row in rows] == [None, "bad_name", None]
    assert rows[2]["pointer_offset"] == len("uri,n\n,1\n")
    assert rows[2]["uri"] == "https://h/a"


def test_many_single_inputs_are_checked_in_turn(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"x")
    inputs = [f"{tmp_path}/{{000..299}}.jpg"]
    assert [item.uri[-7:-4] for item in scan(inputs, SourceOptions())] == [f"{n:03d}" for n in range(300)]
    (tmp_path / "299.jpg").unlink()
    late = scan(inputs, SourceOptions())
    with pytest.raises(RequestError, match=r"299\.jpg was not found"):
        list(late)
    (tmp_path / "100.jpg").unlink()
    with pytest.raises(RequestError, match=r"100\.jpg was not found"):
        scan(inputs, SourceOptions())


def test_no_input_is_an_error() -> None:
    with pytest.raises(RequestError, match="no --input was given"):
        scan([], SourceOptions())


def test_sample_and_limit_of_references(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,uri\n" + "".join(f"k{row},/{row}.jpg\n" for row in range(500)))
    options = SourceOptions(sample=0.2, seed=4)
    kept = [item.image_id for item in scan([str(manifest)], options)]
    assert 70 < len(kept) < 130
    assert kept == [f"k{row}" for row in range(500) if sources.is_kept(options, f"k{row}")]
    limited = limit_items(scan([str(manifest)], options), 10, options)
    assert [item.image_id for item in limited] == kept[:10]
    with pytest.raises(RequestError, match="--limit 0"):
        limit_items(iter(()), 0, options)


def test_a_sample_that_keeps_nothing_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert list(scan([str(tmp_path)], SourceOptions(sample=1e-12))) == []


def test_seeded_damage_to_shards_never_raises_and_never_hides(tmp_path: Path) -> None:
    random_source = random.Random(7)
    members = [("a.jpg", b"A" * 700), ("a.json", b'{"x": 1}'), ("dir/b.png", b"B"), ("c.gif", b"C")]
    long = ("n" * 120 + ".gif", b"D")  # its name is in a pax header, which has no checksum of its own
    path = tmp_path / "s.tar"
    for whole, images in ((tar_bytes(members), 3), (tar_bytes([*members, long]), None)):
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(random_source.randint(1, 20)):
                data[random_source.randrange(len(data))] = random_source.randrange(256)
            path.write_bytes(data[: random_source.randint(1, len(data))])
            found = read_items([tar_item(path)], SourceOptions())
            broken = [row for row in found if isinstance(row, Failure) and row.uri == str(path)]
            assert images is None or len(found) - len(broken) == images or broken


def test_seeded_damage_to_manifests_never_raises_at_the_rows(tmp_path: Path) -> None:
    random_source = random.Random(8)
    rows = "".join(f'"note {row}, with ""quotes""\nand lines",/{row}.jpg,{row}\r\n' for row in range(20))
    for name, head, body in (
        ("m.csv", b"note,uri,n\n", rows.encode()),
        ("m.jsonl", b'{"uri": "/x"}\n', rows.encode()),
    ):
        path = tmp_path / name
        for _ in range(100):
            data = bytearray(body)
            for _ in range(random_source.randint(1, 10)):
                data[random_source.randrange(len(data))] = random_source.choice(b'"\n\r,\0\xff{}a')
            path.write_bytes(head + data)
            items = list(scan([str(path)], SourceOptions()))
            assert all(item.kind is UnitKind.REFS for item in items)
            assert len(read_items(items[:5], SourceOptions())) == len(items[:5])
