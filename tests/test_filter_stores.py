"""`beamclip filter` on real object-store servers: the pairs, shards and lists of a local run, chosen anew in place."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from clip_transforms.storage import Store
from tests.pairs_kit import filtered
from tests.runs import beamclip, rows
from tests.servers import Server
from tests.test_filter_runs import write_shards
from tests.test_label_stores import downloaded, options_of, server  # noqa: F401 - a fixture

#: What a row is known by, in any store.
_SHOWN = ("uri", "caption", "similarity_fake", "kept", "drop_reason")


def shown(run: Path, inputs: str) -> list[tuple[Any, ...]]:
    """Rows of pairs/ with uris made relative to the inputs."""
    found = [{**row, "uri": row["uri"].removeprefix(inputs)} for row in rows(run, "pairs")]
    return sorted(tuple(row[name] for name in _SHOWN) for row in found)


def pictures(run: Path) -> list[bytes]:
    """The encoded images of a run's shards, sorted."""
    found = []
    for shard in (run / "webdataset").glob("*.tar"):
        with tarfile.open(shard) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    return sorted(found)


def test_a_filter_run_in_a_bucket_equals_a_local_one(server: Server, tmp_path: Path) -> None:  # noqa: F811
    folder, local = tmp_path / "shards", tmp_path / "local"
    folder.mkdir()
    write_shards(folder, captions="words")
    bucket = Store(f"{server.url}/shards", server.storage_options)
    run = Store(f"{server.url}/chosen", server.storage_options)
    for path in folder.iterdir():
        bucket.write(path.name, path.read_bytes())
    how = ("--format", "webdataset", "--encoder", "fake", "--dedup", "near")
    options = (*how, "--write", "webdataset", *options_of(server))
    assert filtered("--input", bucket.root, "--keep-top", "0.9", *options, "--output", run.root) == 0
    first = [entry.name for entry in run.list("pairs")]
    chosen = ("--keep-top", "0.5", "--dedup", "near", "--write", "webdataset")
    assert filtered("--from-run", run.root, *chosen, *options_of(server)) == 0
    assert not set(first) & {entry.name for entry in run.list("pairs")}
    assert filtered("--input", folder, "--keep-top", "0.5", *how, *chosen[4:], "--output", local) == 0
    copy = downloaded(run, tmp_path / "copy")
    assert shown(copy, bucket.root) == shown(local, str(folder))
    assert len(rows(copy, "kept")) == 11
    assert pictures(copy) == pictures(local) and len(pictures(copy)) == 11
    assert beamclip("status", run.root, *options_of(server)) == 0
    assert len(list(run.list("kept"))) == 1
