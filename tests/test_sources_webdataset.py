"""Webdataset shards: keys, groups, captions, several images a key, and every way a tar can be cut."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, StoreError, UnitKind
from clip_transforms.sources import SourceOptions, image_id_of, limit_items, read_unit, scan
from clip_transforms.sources.opening import InputStream
from tests.sources_kit import plan_of, read_all, read_items, summary, tar_bytes, tar_item

FORMS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]


def shard(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    path.write_bytes(tar_bytes(members, **options))
    return path


def read(path: Path, **options: Any) -> list[ImageRef | Failure]:
    return read_items([tar_item(path)], SourceOptions(**options))


@pytest.mark.parametrize("form", FORMS)
def test_members_become_images_with_caption_and_extra(tmp_path: Path, form: int) -> None:
    path = shard(
        tmp_path / "s.tar",
        [
            ("000.json", b'{"caption": "from json", "stars": 5, "url": "https://h/a?sig=1"}'),
            ("000.jpg", b"A"),
            ("000.txt", b"a cat\n"),
            ("dir.v1/001.JPG", b"B"),
            ("dir.v1/001.cls", b"7"),
            ("002.png", b"C"),
            ("002.json", b'{"text": "late"}'),
            ("003.txt", b"no image"),
            ("004.npy", b"x"),
            ("005.webp", b"D"),
        ],
        form=form,
    )
    found = read(path)
    assert summary(found) == [
        (f"{path}#000", "A"),
        (f"{path}#dir.v1/001", "B"),
        (f"{path}#002", "C"),
        (f"{path}#005", "D"),
    ]
    refs = [row for row in found if isinstance(row, ImageRef)]
    assert [row.caption for row in refs] == ["a cat", None, "late", None]
    assert refs[0].extra == '{"caption":"from json","stars":5,"url":"https://h/a"}'
    assert refs[1].extra == '{"cls":"7"}'
    assert [row.image_id for row in refs] == [image_id_of(row.uri) for row in refs]
    assert [row.size for row in refs] == [1, 1, 1, 1]


def test_several_images_and_repeated_keys(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("a.seg.png", b"2"),
        ("a.jpg", b"3"),
        ("a.txt", b"t"),
        ("b.jpg", b"4"),
        ("a.png", b"5"),
    ]
    path = shard(tmp_path / "s.tar", members)
    found = read(path)
    assert summary(found) == [
        (f"{path}#a", "1"),
        (f"{path}#a.seg.png", "2"),
        (f"{path}#a.jpg", "3"),
        (f"{path}#b", "4"),
        (f"{path}#a", "5"),
    ]
    assert [row.caption for row in found if isinstance(row, ImageRef)] == ["t", "t", "t", None, None]


def test_names_that_are_no_samples_and_long_names(tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "e" * 120 + "/ü#?[1] x"
    members = [
        (".a.jpg", b"x"),
        ("._b.jpg", b"x"),
        ("README", b"x"),
        ("__meta__.json", b"{}"),
        ("./c.jpg", b"C"),
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = shard(tmp_path / "s.tar", [*members, (f"{long}.jpg", b"L")], form=form)
        assert summary(read(path)) == [(f"{path}#c", "C"), (f"{path}#{long}", "L")]


@pytest.mark.parametrize("form", FORMS)
def test_a_member_name_that_is_not_utf8(tmp_path: Path, form: int) -> None:
    path = shard(tmp_path / "s.tar", [("a\udcff.jpg", b"x"), ("b.jpg", b"B")], form=form)
    assert summary(read(path)) == [(f"{path}#a\\xff", "bad_name"), (f"{path}#b", "B")]


def test_links_folders_and_empty_members(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty.jpg"))
        for name, kind in (
            ("dir.jpg", tarfile.DIRTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("soft.jpg", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert summary(read(path)) == [
        *((f"{path}#empty", "empty"), (f"{path}#hard", "not_found"), (f"{path}#soft", "not_found")),
    ]


def test_members_over_the_limit_are_failures(tmp_path: Path) -> None:
    members = [("a.jpg", b"x" * 3000), ("b.jpg", b"B"), ("b.json", b" " * 3000), ("c.jpg", b"C")]
    path = shard(tmp_path / "s.tar", members)
    found = read(path, max_bytes=1000)
    assert summary(found) == [
        *((f"{path}#a", "too_many_bytes"), (f"{path}#b", "too_many_bytes"), (f"{path}#c", "C")),
    ]
    assert isinstance(found[1], Failure)
    assert found[1].message == "member b.json has 3000 bytes, over 1000"


def test_a_key_with_very_many_images_is_not_held(tmp_path: Path) -> None:
    members = [(f"clip.{number:04d}.jpg", bytes(100)) for number in range(200)]
    path = shard(tmp_path / "s.tar", [("clip.txt", b"film"), *members])
    held = 0
    uris = set()
    for row in read_unit(UnitKind.TAR, plan_of([tar_item(path)]), SourceOptions(max_bytes=1000)):
        assert isinstance(row, ImageRef)
        assert row.caption == "film"
        uris.add(row.uri)
        held += 1
    assert held == len(uris) == 200
    assert f"{path}#clip" in uris
    assert f"{path}#clip.0001.jpg" in uris


def test_broken_json_is_kept_as_text(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar", [("a.jpg", b"A"), ("a.json", b"{broken"), ("b.png", b"B"), ("b.json", b"[1]")]
    )
    found = [row for row in read(path) if isinstance(row, ImageRef)]
    assert [row.extra for row in found] == ['{"json":"{broken"}', '{"json":[1]}']


def test_ids_and_carry_come_from_the_json(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"A"),
        ("a.json", b'{"uid": "u1", "n": 3, "c": "x"}'),
        ("b.jpg", b"B"),
        ("b.json", b'{"n": "q"}'),
    ]
    path = shard(tmp_path / "s.tar", members)
    options = SourceOptions(id_column="uid", caption_column="c", carry=(("n", "int64"),))
    first, second = read_all([path], options)
    assert isinstance(first, ImageRef)
    assert (first.image_id, first.caption, first.carry, first.extra) == ("u1", "x", (3,), None)
    assert isinstance(second, Failure)
    assert (second.image_id, second.reason) == (image_id_of(f"{path}#b"), Reason.BAD_NAME)
    assert second.message == "member b.jpg: column 'n': 'q' is not int64"
    for wrong, name in (({"id_column": "z"}, "--id-column z"), ({"carry": (("z", "int64"),)}, "--carry z")):
        with pytest.raises(
            RequestError, match=rf"{name}: the first sample of .*s\.tar has no such field; it has c, n, uid"
        ):
            scan([str(path)], SourceOptions(**wrong))


MEMBERS = [("a.jpg", b"A" * 700), ("b.jpg", b"B" * 512), ("c.jpg", b"C")]
# Headers at 0, 1536 and 2560; the data of c ends at 3584; zero blocks follow up to 10240.


@pytest.mark.parametrize(
    ("cut", "images", "message"),
    [
        (0, 0, "ends at byte 0 without the end-of-archive blocks"),
        (100, 0, "ends at byte 100, inside a header"),
        (700, 0, "ends at byte 700, inside the member a.jpg"),
        (1300, 0, "ends at byte 1300, inside the member a.jpg"),
        (1536, 1, "ends at byte 1536 without the end-of-archive blocks"),
        (1600, 1, "ends at byte 1600, inside a header"),
        (2560, 2, "ends at byte 2560 without the end-of-archive blocks"),
        (3100, 2, "ends at byte 3100, inside the member c.jpg"),
        (3584, 3, "ends at byte 3584 without the end-of-archive blocks"),
        (3900, 3, "ends at byte 3900, inside a header"),
        (4096, 3, "has one end-of-archive block at byte 4096, not two"),
        (4200, 3, "has one end-of-archive block at byte 4096, not two"),
    ],
)
def test_every_cut_is_a_truncated_shard_after_what_was_read(
    tmp_path: Path, cut: int, images: int, message: str
) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(MEMBERS)[:cut])
    found = read(path)
    assert [row.uri for row in found] == [f"{path}#{key}" for key in "abc"[:images]] + [str(path)]
    last = found[-1]
    assert isinstance(last, Failure)
    assert (last.reason, last.message) == (Reason.TRUNCATED_SHARD, f"the shard {message}")
    assert last.image_id == image_id_of(str(path))


@pytest.mark.parametrize("cut", range(0, 4608, 128))
@pytest.mark.parametrize("form", FORMS)
def test_no_cut_goes_unseen_and_none_loses_a_whole_member(tmp_path: Path, cut: int, form: int) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(MEMBERS, form=form)[:cut])
    found = read(path)
    complete = cut >= 4608
    assert [row.reason for row in found if isinstance(row, Failure)] == (
        [] if complete else [Reason.TRUNCATED_SHARD]
    )
    ends = (1536, 2560, 3584)
    assert len(found) - 1 == sum(cut >= end for end in ends)


def test_shards_of_exactly_two_end_blocks_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(MEMBERS)[:4608])
    assert [row.uri for row in read(path)] == [f"{path}#{key}" for key in "abc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1540] + b"\xff" * 8 + data[1548:], "has a damaged header at byte 1536"),
        (
            lambda data: data[:1536] + bytes(512) + data[2048:],
            "has one end-of-archive block at byte 2048, not two",
        ),
        (lambda data: data + data, "has data after its end at byte 4608"),
        (lambda data: data[:-1] + b"x", "has data after its end at byte 4608"),
    ],
)
def test_damage_is_a_truncated_shard(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(change(tar_bytes(MEMBERS)))
    last = read(path)[-1]
    assert isinstance(last, Failure)
    assert (last.reason, last.message) == (Reason.TRUNCATED_SHARD, f"the shard {message}")


def test_what_is_no_tar_is_a_truncated_shard(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(b"<html>not a tar</html>" * 100)
    assert summary(read(path)) == [(str(path), "truncated_shard")]


@pytest.mark.parametrize(
    ("pax", "uris"),
    [
        (b"9999 path=x\n", [""]),
        (b"xx path=x.jpg\n", [""]),
        (b"12 path=x.jpg\n", [""]),
        (b"11 pathxy\n", [""]),
        (b"0 a=b\n", [""]),
        (b"14 path=x.jpg\n", ["#x", "#b", "#c"]),
        (b"14 path=\xff.jpg\n", ["#\\xff", "#b", "#c"]),
    ],
)
def test_damaged_pax_headers_are_told(tmp_path: Path, pax: bytes, uris: list[str]) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(pax)
    path = tmp_path / "s.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + pax.ljust(512, b"\0") + tar_bytes(MEMBERS))
    found = read(path)
    assert [row.uri.removeprefix(str(path)) for row in found] == uris
    if uris == [""]:
        assert [row.message for row in found if isinstance(row, Failure)] == [
            "the shard has a damaged header at byte 0"
        ]


def test_a_shard_that_changed_since_it_was_planned_is_not_whole(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", MEMBERS)
    found = read_items([tar_item(path, size=99)], SourceOptions())
    assert [row.message for row in found if isinstance(row, Failure)] == [
        "the shard has changed: 99 bytes when it was planned, 10240 now"
    ]
    assert len(found) == 4


def stats_json(path: Path, count: int) -> None:
    (path.parent / f"{path.stem}_stats.json").write_text(json.dumps({"successes": count, "count": count + 2}))


def status_parquet(path: Path, count: int) -> None:
    table = pa.table(
        {"status": ["success"] * count + ["failed_to_download"] * 2, "key": list(range(count + 2))}
    )
    pq.write_table(table, path.with_suffix(".parquet"))


@pytest.mark.parametrize("beside", [stats_json, status_parquet])
def test_img2datasets_own_count_is_checked(tmp_path: Path, beside: Any) -> None:
    path = shard(tmp_path / "00000.tar", MEMBERS)
    beside(path, 3)
    assert len(read(path)) == 3
    beside(path, 4)
    last = read(path)[-1]
    assert isinstance(last, Failure)
    assert last.message == "the shard holds 3 images, img2dataset wrote 4"
    # The count is of images before sampling, and is not asked for where --limit stops inside.
    assert len(read(path, sample=1e-9)) == 1
    limited = read_items([tar_item(path, max_rows=2)], SourceOptions())
    assert [row.uri for row in limited] == [f"{path}#a", f"{path}#b"]


def test_other_files_beside_a_shard_do_not_count(tmp_path: Path) -> None:
    path = shard(tmp_path / "00000.tar", MEMBERS)
    (tmp_path / "00000_stats.json").write_text("[not json")
    pq.write_table(pa.table({"uid": [1, 2]}), tmp_path / "00000.parquet")
    assert len(read(path)) == 3
    (tmp_path / "00000.parquet").write_bytes(b"junk")
    assert len(read(path)) == 3


def test_img2dataset_folders(tmp_path: Path) -> None:
    path = shard(tmp_path / "00000.tar", MEMBERS)
    with pytest.raises(RequestError, match=r"neither .*00000_stats\.json nor .*00000\.parquet is beside it"):
        scan([str(tmp_path)], SourceOptions(format="img2dataset"))
    status_parquet(path, 3)
    stats_json(path, 3)
    for options in (SourceOptions(), SourceOptions(format="img2dataset")):
        (item,) = scan([str(tmp_path)], options)
        assert (item.kind, item.uri, item.rows, item.size) == (UnitKind.TAR, str(path), None, 10240)


def test_a_vanished_or_forbidden_shard_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.tar"
    assert summary(read(path)) == [(str(path), "not_found")]
    shard(path, MEMBERS)

    def refuse(self: InputStream, count: int = -1) -> bytes:
        raise PermissionError("no")

    monkeypatch.setattr(InputStream, "read", refuse)
    assert summary(read(path)) == [(str(path), "forbidden")]


def test_a_reset_in_the_middle_fails_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "s.tar", MEMBERS)
    real = InputStream.read

    def reset(self: InputStream, count: int = -1) -> bytes:
        if self.tell() >= 2048:
            raise ConnectionResetError("reset")
        return real(self, count)

    monkeypatch.setattr(InputStream, "read", reset)
    with pytest.raises(StoreError, match=r"s\.tar cannot be read: ConnectionResetError"):
        read(path)


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "s.tar", MEMBERS)
    real = InputStream.read
    monkeypatch.setattr(InputStream, "read", lambda self, count=-1: real(self, min(count, 100)))
    assert [row.uri for row in read(path)] == [f"{path}#{key}" for key in "abc"]


def test_limit_counts_images_inside_shards(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", [(f"{key}.jpg", b"x") for key in range(4)] + [("t.txt", b"")])
    inputs = [f"{tmp_path}/{{0..2}}.tar"]
    items = list(limit_items(scan(inputs, SourceOptions()), 6, SourceOptions()))
    assert [(item.uri[-5:], item.max_rows, item.rows) for item in items] == [
        ("0.tar", None, None),
        ("1.tar", 2, None),
    ]
    assert len(read_items(items, SourceOptions())) == 6
    sampled = SourceOptions(sample=0.5, seed=1)
    every = [row.uri for row in read_all(inputs, sampled)]
    some = list(limit_items(scan(inputs, sampled), 3, sampled))
    assert [row.uri for row in read_items(some, sampled)] == every[:3]


def test_shards_in_memory_and_by_brace(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    try:
        for number in range(3):
            fs.pipe_file(f"/set/{number:03d}.tar", tar_bytes([("k.jpg", bytes([65 + number]))]))
        wanted = [(f"memory://set/{number:03d}.tar#k", "ABC"[number]) for number in range(3)]
        assert summary(read_all(["memory://set/{000..002}.tar"])) == wanted
        assert summary(read_all(["memory://set/*.tar"])) == wanted
        with pytest.raises(RequestError, match=r"003\.tar"):
            scan(["memory://set/{000..003}.tar"], SourceOptions())
    finally:
        fs.store.clear()
