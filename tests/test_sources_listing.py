"""Folders and globs: local trees with nasty names, memory, and the pages of GCS and S3 in bounded memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tenacity

from clip_transforms import retries
from clip_transforms.elements import RequestError, StoreError
from clip_transforms.sources import SourceOptions, list_objects, listing, scan, stat_object
from clip_transforms.sources.patterns import Glob, Suffixes


def names(root: Path, found: Iterator[Any]) -> list[str]:
    return sorted(entry.url.removeprefix(f"{root}/") for entry in found)


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def uris(*inputs: str | Path, **options: Any) -> list[str]:
    return sorted(item.uri for item in scan([str(entry) for entry in inputs], SourceOptions(**options)))


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's memory file system, empty before and after."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


NASTY = [
    "a#1.jpg",
    "b?c.JPG",
    "d[1].jpeg",
    "e f.png",
    "g\nh.webp",
    "%41.gif",
    "{1..2}.bmp",
    "*.tif",
    "i::j.avif",
]


def test_a_folder_gives_all_images_with_nasty_names(tmp_path: Path) -> None:
    touch(
        tmp_path, *NASTY, *(f"sub/deep/{name}" for name in NASTY), "notes.txt", "x.jpg.part", "jpg", "m.csv"
    )
    wanted = [str(tmp_path / name) for name in NASTY] + [str(tmp_path / "sub/deep" / name) for name in NASTY]
    assert uris(tmp_path) == sorted(wanted)
    assert uris(f"{tmp_path}/") == sorted(wanted)
    assert uris(f"file://{tmp_path}") == sorted(wanted)


def test_each_nasty_name_can_be_given_by_itself(tmp_path: Path) -> None:
    touch(tmp_path, *NASTY)
    for name in NASTY:
        assert uris(tmp_path / name) == [str(tmp_path / name)]


def test_dot_files_pipes_and_circles_are_left_out_and_links_followed(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.jpg", "data/.hidden.jpg", "data/.git/b.jpg", "other/c.jpg")
    (tmp_path / "data/link.jpg").symlink_to("a.jpg")
    (tmp_path / "data/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "data/self.jpg").symlink_to("self.jpg")
    (tmp_path / "data/up").symlink_to("..")
    (tmp_path / "data/far").symlink_to("../other")
    (tmp_path / "data/dir.jpg").mkdir()
    os.mkfifo(tmp_path / "data/pipe.jpg")
    (tmp_path / "data/pipelink.jpg").symlink_to("pipe.jpg")
    found = {
        entry.url: entry for entry in list_objects(str(tmp_path / "data"), {}, select=Suffixes((".jpg",)))
    }
    assert names(tmp_path / "data", iter(found.values())) == [
        *("a.jpg", "far/c.jpg", "gone.jpg", "link.jpg", "self.jpg", "up/other/c.jpg"),
    ]
    gone = found[f"{tmp_path}/data/gone.jpg"]
    assert (gone.size, gone.version, gone.is_regular) == (None, None, False)
    info = (tmp_path / "data/a.jpg").stat()
    a = found[f"{tmp_path}/data/a.jpg"]
    assert (a.size, a.version, a.is_regular) == (1, f"{info.st_mtime_ns}:1", True)
    assert stat_object(str(tmp_path / "data/a.jpg"), {}) == a


def test_a_name_that_is_not_utf8_is_one_bad_name_row(tmp_path: Path) -> None:
    touch(tmp_path, "good.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.jpg")).write_bytes(b"x")
    found = {item.uri: item for item in scan([str(tmp_path)], SourceOptions())}
    assert sorted(found) == [f"{tmp_path}/b\\xff.jpg", f"{tmp_path}/good.jpg"]
    bad = found[f"{tmp_path}/b\\xff.jpg"]
    assert (bad.problem_reason, bad.problem_message) == ("bad_name", "the name is not UTF-8")


def test_an_unreadable_folder_below_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    with pytest.raises(RequestError, match="cannot be listed: access is denied"):
        list(scan([str(tmp_path)], SourceOptions()))


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.JPG", ["C.JPG"]),
        ("[!a]*.jpg", ["b.jpg"]),
        ("[ab].*", ["a.jpg", "a.png", "b.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "x/d.jpg", "x/y/e.jpg", "z/y/f.jpg"]),
        ("**.jpg", ["a.jpg", "b.jpg", "x/d.jpg", "x/y/e.jpg", "z/y/f.jpg"]),
        ("x/**", ["x/d.jpg", "x/y/e.jpg"]),
        ("*/y/*.jpg", ["x/y/e.jpg", "z/y/f.jpg"]),
        ("**/y/*", ["x/y/e.jpg", "z/y/f.jpg"]),
        ("x/*", ["x/d.jpg"]),
        (".dots/*.jpg", [".dots/g.jpg"]),
        ("*.data", ["h.data"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "C.JPG", "a.png", "x/d.jpg", "x/y/e.jpg", "z/y/f.jpg", "x/t.csv")
    touch(tmp_path, ".dots/g.jpg", "x/.dot.jpg", "h.data")
    assert uris(f"{tmp_path}/{pattern}") == sorted(f"{tmp_path}/{name}" for name in wanted)


def test_a_glob_does_not_walk_where_it_cannot_match() -> None:
    glob = Glob("/data/2024-*/x/*.jpg")
    assert [glob.enter(name) for name in ("2024-01", "2023-01", "2024-01/x", "2024-01/y", "2024-01/x/z")] == [
        *(True, False, True, False, False),
    ]
    assert Glob("/data/a/**/b.jpg").enter("c/d/e")
    assert not Glob("/data/*/**/b.jpg").enter(".git")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", "missing was not found: there is no such file or folder"),
        ("missing/*.jpg", "missing was not found"),
        ("*.png", "*.png: the pattern matches nothing, below"),
        ("empty/**/*", "the pattern matches nothing with one of the suffixes .jpg .jpeg"),
        ("empty", "empty: nothing was found in this folder; looked for .jpg .jpeg .jpe .png"),
        ("notes.doc", "the suffix '.doc' does not tell what it is"),
        ("x.tar.gz", "x.tar.gz is compressed"),
        ("pipe.jpg", "pipe.jpg is neither a file nor a folder"),
        ("dangling.jpg", "dangling.jpg was not found"),
    ],
)
def test_what_is_not_there_is_an_error_that_names_it(tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "notes.doc", "x.tar.gz")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    with pytest.raises(RequestError) as caught:
        scan([f"{tmp_path}/{given}"], SourceOptions())
    assert message in str(caught.value)


def test_a_later_bad_input_is_told_before_the_first_item(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(RequestError, match="gone"):
        scan([str(tmp_path), str(tmp_path / "gone")], SourceOptions())


def test_images_beside_shards_need_a_format(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.tar")
    with pytest.raises(RequestError, match="holds both images and tar shards"):
        list(scan([str(tmp_path)], SourceOptions()))
    assert uris(tmp_path, format="images") == [f"{tmp_path}/a.jpg"]
    assert uris(tmp_path, format="webdataset") == [f"{tmp_path}/b.tar"]


def test_memory_folders_globs_and_files(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("set/a.jpg", "set/x/b#1.JPG", "set/x/.c.jpg", "set/n.txt", "top.jpg"):
        memory.pipe_file(f"/{name}", b"abc")
    assert uris("memory://set") == ["memory://set/a.jpg", "memory://set/x/b#1.JPG"]
    assert uris("memory://set/**/*.jpg") == ["memory://set/a.jpg"]
    assert uris("memory://*.jpg") == ["memory://top.jpg"]
    assert uris("memory:///set/x/b#1.JPG") == ["memory://set/x/b#1.JPG"]
    assert [item.size for item in scan(["memory://set/a.jpg"], SourceOptions())] == [3]
    for given in ("memory://nothing", "memory://nothing/*.jpg", "memory://set/z.jpg"):
        with pytest.raises(RequestError, match=r"nothing|z\.jpg"):
            scan([given], SourceOptions())


def test_the_version_is_the_same_by_listing_and_by_name(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/set/a.jpg", b"abc")
    (listed,) = list_objects("memory://set", {})
    assert stat_object("memory://set/a.jpg", {}) == listed


def test_a_folder_that_vanishes_while_it_is_listed_ends_nothing(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "gone/b.jpg", "there/c.jpg", "z.jpg"):
        memory.pipe_file(f"/set/{name}", b"abc")
    genuine = memory.ls

    def ls(path: str, detail: bool = True) -> Any:
        if path.strip("/") == "set/gone":
            raise FileNotFoundError(path)
        return genuine(path, detail=detail)

    monkeypatch.setattr(type(memory), "ls", lambda self, path, detail=True: ls(path, detail))
    assert uris("memory://set") == [f"memory://set/{name}" for name in ("a.jpg", "there/c.jpg", "z.jpg")]
    assert "/set/gone vanished while it was listed" in caplog.text


class FakeGcs:
    """The one call of gcsfs that is used, over a bucket made up of numbers, with pages of 1,000."""

    protocol = ("gs", "gcs")

    def __init__(self, count: int, pages_fail_at: int | None = None) -> None:
        self.count = count
        self.requests: list[dict[str, Any]] = []
        self.fails_at = pages_fail_at

    def call(self, method: str, path: str, *args: str, json_out: bool, **params: Any) -> dict[str, Any]:
        assert (method, json_out) == ("GET", True)
        if path == "b/{}/o/{}":
            raise FileNotFoundError(args[1])
        assert (path, args) == ("b/{}/o", ("bucket",))
        self.requests.append(params)
        start = int(params["pageToken"] or 0)
        if self.fails_at is not None and start >= self.fails_at:
            raise ConnectionResetError("reset")
        end = min(start + params["maxResults"], self.count)
        items = [
            {
                "name": f"{params['prefix']}{number:08d}.jpg",
                "size": str(number),
                "generation": str(number + 7),
            }
            for number in range(start, end)
        ]
        return {"items": items, **({"nextPageToken": str(end)} if end < self.count else {})}


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> FakeGcs:
    """A made-up bucket behind every gs:// url."""
    fake = FakeGcs(0)
    monkeypatch.setattr(listing, "open_filesystem", lambda url, options: (fake, url.removeprefix("gs://")))
    return fake


def test_gcs_pages_are_counted_exactly_and_never_gathered(gcs: FakeGcs) -> None:
    gcs.count = 20_500
    list(list_objects("gs://bucket/warm", {}))
    gcs.requests.clear()
    tracemalloc.start()
    count = total = 0
    for entry in list_objects("gs://bucket/photos", {}, select=Suffixes((".jpg",))):
        count += 1
        total += entry.size or 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (count, total) == (20_500, sum(range(20_500)))
    assert [request["pageToken"] for request in gcs.requests] == [
        None,
        *(str(n) for n in range(1000, 20_500, 1000)),
    ]
    assert {request["prefix"] for request in gcs.requests} == {"photos/"}
    assert peak < 2_000_000  # two pages; all of it together would be over 6 MB


def test_gcs_is_listed_lazily_and_from_the_literal_prefix(gcs: FakeGcs) -> None:
    gcs.count = 5_000
    items = scan(["gcs://bucket/photos/2024-*.jpg"], SourceOptions())
    first = next(items)
    assert (first.uri, first.size, first.version) == ("gs://bucket/photos/2024-00000000.jpg", 0, "7")
    assert len(gcs.requests) == 1
    assert gcs.requests[0]["prefix"] == "photos/2024-"
    assert 1 + sum(1 for _ in items) == 5_000


def test_gcs_without_matches_and_with_a_fault(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RETRY_WAIT", tenacity.wait_none())
    for given in ("gs://bucket/photos", "gs://bucket/photos/*.jpg", "gs://bucket/one.jpg"):
        with pytest.raises(RequestError, match=given.replace("*", r"\*")):
            scan([given], SourceOptions())
    with pytest.raises(RequestError, match="cannot have wildcards"):
        scan(["gs://buck*/a.jpg"], SourceOptions())
    gcs.count, gcs.fails_at = 5_000, 2_000
    items = scan(["gs://bucket/photos"], SourceOptions())
    with pytest.raises(StoreError, match="could not be listed"):
        list(items)


def test_gcs_folder_placeholders_and_dot_folders_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["p/", "p/x.jpg/", "p/.git/a.jpg", "p/a.jpg", "p//b.jpg", "p/c#[1]?.JPG"]

    class Fake(FakeGcs):
        def call(self, *args: str, **params: Any) -> dict[str, Any]:
            return {"items": [{"name": key, "size": "1", "generation": "1"} for key in keys]}

    monkeypatch.setattr(listing, "open_filesystem", lambda url, options: (Fake(0), url.removeprefix("gs://")))
    assert uris("gs://bucket/p/") == [
        "gs://bucket/p//b.jpg",
        "gs://bucket/p/a.jpg",
        "gs://bucket/p/c#[1]?.JPG",
    ]


def test_s3_pages_follow_the_continuation_token(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[dict[str, Any]] = []

    class Fake:
        protocol = ("s3", "s3a")

        def call_s3(self, method: str, **params: Any) -> dict[str, Any]:
            if method == "head_object":
                raise FileNotFoundError(params["Key"])
            requests.append(params)
            start = int(params.get("ContinuationToken", 0))
            keys = range(start, min(start + 1000, 2_345))
            contents = [{"Key": f"p/{key}.png", "Size": key, "ETag": f'"{key:x}"'} for key in keys]
            more = {"IsTruncated": True, "NextContinuationToken": str(start + 1000)} if start < 2_000 else {}
            return {"Contents": contents, "IsTruncated": False, **more}

    monkeypatch.setattr(listing, "open_filesystem", lambda url, options: (Fake(), url.removeprefix("s3://")))
    found = list(list_objects("s3a://bucket/p", {}))
    assert len(found) == 2_345
    assert (found[2_344].url, found[2_344].size, found[2_344].version) == (
        "s3://bucket/p/2344.png",
        2_344,
        "928",
    )
    assert requests[0] == {"Bucket": "bucket", "Prefix": "p/", "MaxKeys": 1000}
    assert [request.get("ContinuationToken") for request in requests] == [None, "1000", "2000"]


def test_a_web_folder_is_refused() -> None:
    with pytest.raises(RequestError, match="A web server has no listing"):
        scan(["https://host/photos/"], SourceOptions())
    with pytest.raises(RequestError, match="a web server has no listing"):
        list_objects("https://host/photos", {})


def test_a_big_local_folder_is_not_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def __init__(self, number: int) -> None:
            self.name = f"{number:08d}-with-a-long-name-after-it.jpg"
            self.path = f"{tmp_path}/{self.name}"

        def is_dir(self) -> bool:
            return False

        def is_file(self) -> bool:
            return True

        def stat(self) -> os.stat_result:
            return os.stat(tmp_path)

    class Entries(Iterator[Entry]):
        def __init__(self, path: str) -> None:
            self.numbers = iter(range(15_000))

        def __next__(self) -> Entry:
            return Entry(next(self.numbers))

        def close(self) -> None:
            pass

    monkeypatch.setattr(listing.os, "scandir", Entries)
    tracemalloc.start()
    count = sum(1 for _ in scan([str(tmp_path)], SourceOptions()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 15_000
    assert peak < 150_000  # 10 bytes a file; the names alone are 100 bytes each


def test_listing_closes_its_directories(tmp_path: Path) -> None:
    touch(tmp_path, *(f"d{number}/a.jpg" for number in range(3)))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        items = scan([str(tmp_path)], SourceOptions())
        next(items)
        items.close()  # type: ignore[attr-defined]
    del items
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before + 1
