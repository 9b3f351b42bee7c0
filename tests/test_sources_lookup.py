"""Single images by their uri: files, members of shards, rows of Parquet files."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.elements import ImageRef, UnitKind
from clip_transforms.fetch import FetchOptions
from clip_transforms.plan import plan_table
from clip_transforms.sources import SourceOptions, read_unit, scan
from clip_transforms.sources.lookup import ImageLookup
from tests.helpers import image_bytes, make_image, write_images


def lookup() -> ImageLookup:
    return ImageLookup(SourceOptions(), FetchOptions())


def test_every_uri_that_a_shard_gives_is_found_again(tmp_path: Path) -> None:
    members = {
        "a/b.c/x.jpg": image_bytes(seed=1),
        "a/b.c/x.txt": b"caption",
        "a/b.c/x.left.png": image_bytes(seed=2, kind="PNG"),
        "y.seg.JPG": image_bytes(seed=3),
    }
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (item,) = scan([str(tmp_path / "s.tar")], SourceOptions())
    refs = list(read_unit(UnitKind.TAR, plan_table([item]), SourceOptions()))
    assert len(refs) == 3
    find = lookup()
    for ref in refs:
        assert isinstance(ref, ImageRef)
        assert find(ref.uri) == ref.payload, ref.uri
    assert find(f"{tmp_path}/s.tar#nothing") is None


def test_the_index_of_a_shard_is_made_in_a_few_bytes_an_image(tmp_path: Path) -> None:
    images = 4000
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(images):
            tar.addfile(tarfile.TarInfo(f"{number:04d}.jpg"))
    lookup()(f"{tmp_path}/s.tar#0000")  # what the first use loads is not the index's
    tracemalloc.start()
    try:
        assert lookup()(f"{tmp_path}/s.tar#3999") == b""
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * images, peak  # 24 bytes each, while one copy grows into the next


def test_rows_of_later_row_groups_are_found(tmp_path: Path) -> None:
    cells = [image_bytes(make_image(number)) for number in range(7)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "d.parquet", row_group_size=3)
    find = lookup()
    assert [find(f"{tmp_path}/d.parquet#{row}") for row in range(7)] == cells
    assert find(f"{tmp_path}/d.parquet#7") is None


def test_files_are_fetched_and_what_is_gone_is_none(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    find = lookup()
    assert find(str(path)) == path.read_bytes()
    assert find(str(tmp_path / "gone.jpg")) is None
    assert find(str(tmp_path / "gone.tar#a")) is None
