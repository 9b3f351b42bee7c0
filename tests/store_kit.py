"""What every store must do, whatever is behind it; and small units of work to commit into one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.commits import Commit, read_commit, write_commit
from clip_transforms.live import live_parts
from clip_transforms.sink import Part, PartWriter, new_attempt, part_stem
from clip_transforms.storage import Store
from clip_transforms.sweep import overwrite
from tests import faulty_store  # noqa: F401 (for workers in processes of their own)

PLAN_ID = "0123abcd"
TAG = "pets@0a1b2c3d"
SCHEMA = pa.schema([pa.field("image_id", pa.string(), nullable=False), pa.field("uri", pa.string())])


def check_store(store: Store) -> None:
    """Reading, writing, creating, listing and deleting; leaves the store empty."""
    store.probe()
    assert list(store.list()) == []
    with pytest.raises(FileNotFoundError):
        store.read("a/one")
    with pytest.raises(FileNotFoundError):
        store.open("a/one").close()
    assert not store.exists("a/one")

    store.write("a/one", b"first")
    store.write("a/one", b"second!")
    assert store.read("a/one") == b"second!"
    assert store.exists("a/one") and not store.exists("a")
    assert store.create("a/b/two", b"2") and not store.create("a/b/two", b"3")
    assert store.read("a/b/two") == b"2"
    store.write("ab/three", b"")
    assert store.read("ab/three") == b""

    assert {(entry.name, entry.size) for entry in store.list()} == {
        ("a/one", 7),
        ("a/b/two", 1),
        ("ab/three", 0),
    }
    assert {entry.name for entry in store.list("a")} == {entry.name for entry in store.list("a/")}
    assert {entry.name for entry in store.list("a")} == {"a/one", "a/b/two"}
    assert list(store.list("none")) == [] and store.folders("none") == ()
    assert store.folders() == ("a", "ab") and store.folders("a") == ("b",)
    with store.open("a/one", block_size=4) as file:
        assert file.seek(2) == 2 and file.read(3) == b"con" and file.read() == b"d!"

    before = next(entry.version for entry in store.list("a/b"))
    store.write("a/b/two", b"22")
    assert next(entry.version for entry in store.list("a/b")) != before

    copy = pickle.loads(pickle.dumps(store))
    assert copy.read("a/b/two") == b"22" and copy.root == store.root
    store.delete(["a/one", "a/b/two", "never/there", "ab/three"])
    assert list(copy.list()) == [] and copy.folders() == ()


def check_races(store: Store, *, threads: int = 8, rounds: int = 5) -> None:
    """Of racing creates one wins, and its bytes are there."""
    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds):
            name = f"race/{number}"
            made = list(
                pool.map(lambda who, name=name: store.create(name, bytes([who]) * 1000), range(threads))
            )
            assert sum(made) == 1
            assert store.read(name) == bytes([made.index(True)]) * 1000


def check_commits(store: Store) -> None:
    """Two attempts at each unit, at once: one wins, the other's parts are gone, every row is there once."""
    units = unit_names(6)
    with ThreadPoolExecutor(4) as pool:
        commits = list(pool.map(lambda unit: embed(store, unit, rows=5, look=False), [*units, *units]))
    assert [commit.attempt for commit in commits[:6]] == [commit.attempt for commit in commits[6:]]
    listed = {entry.name for entry in store.list("embeddings")}
    assert listed == {name for commit in commits for name in commit.part_names()}
    assert sorted(live_ids(store)) == sorted(id for unit in units for id in ids_of(unit, 5))


def unit_names(count: int, plan: str = PLAN_ID) -> list[str]:
    """Names of work units."""
    return [f"{plan}-0000-{number:06d}" for number in range(count)]


def ids_of(unit: str, rows: int) -> list[str]:
    """The ids of a unit's rows."""
    return [f"{unit}:{row}" for row in range(rows)]


def write_part(
    store: Store, ids: Sequence[str], *, folder: str, unit: str, task: str, attempt: str
) -> tuple[Part, ...]:
    """One part with these ids; none for none."""
    writer = PartWriter(store, folder=folder, schema=SCHEMA, stem=part_stem(unit, task=task, attempt=attempt))
    writer.write(pa.table({"image_id": ids, "uri": [f"gs://b/{id}" for id in ids]}, schema=SCHEMA))
    return writer.close()


def attempt(
    store: Store,
    unit: str,
    task: str,
    *,
    embedded: Sequence[str] = (),
    failed: Sequence[str] = (),
    labelled: Sequence[str] = (),
    supersedes: Sequence[str] = (),
    sources: Sequence[str] = (),
    reasons: Mapping[str, int] | None = None,
    fingerprint: str = "f",
) -> Commit:
    """Write parts with these ids and the commit over them, not yet committed."""
    name = new_attempt()
    rows = {"embeddings": embedded, "failures": failed, f"labels/{TAG}": labelled}
    parts = {
        folder: write_part(store, ids, folder=folder, unit=unit, task=task, attempt=name)
        for folder, ids in rows.items()
        if ids
    }
    return Commit(
        task=task,
        unit=unit,
        attempt=name,
        run_id="run",
        fingerprint=fingerprint,
        created_at="2026-01-01T00:00:00+00:00",
        parts=parts,
        embedded=len(embedded),
        failed=len(failed),
        failures_by_reason=reasons or ({"timeout": len(failed)} if failed else {}),
        supersedes=tuple(supersedes),
        sources=tuple(sources),
    )


def embed(store: Store, unit: str, *, rows: int, look: bool = True) -> Commit:
    """Embed a unit as a worker does: look, write, commit."""
    found = read_commit(store, "embed", unit) if look else None
    return found or write_commit(store, attempt(store, unit, "embed", embedded=ids_of(unit, rows)))


def label(store: Store, unit: str, *, rows: int) -> Commit:
    """Label an embedded unit as a worker does."""
    task = f"labels-{TAG}"
    found = read_commit(store, task, unit)
    if found:
        return found
    source = read_commit(store, "embed", unit)
    assert source is not None
    names = list(source.part_names())
    return write_commit(store, attempt(store, unit, task, labelled=ids_of(unit, rows), sources=names))


def live_ids(store: Store, folder: str = "embeddings") -> list[str]:
    """The ids in the parts that hold, sorted."""
    found: list[str] = []
    for part in live_parts(store).get(folder, ()):
        with store.open(part.name) as file:
            table = pq.read_table(file)
        assert table.num_rows == part.rows
        found.extend(table.column("image_id").to_pylist())
    return sorted(found)


def do_units(url: str, units: list[str], rows: int) -> None:
    """What a worker does: embed and label each unit that is not."""
    store = Store(url)
    for unit in units:
        embed(store, unit, rows=rows)
        label(store, unit, rows=rows)


def race(url: str, units: list[str], rows: int, barrier: Barrier) -> None:
    """A worker that starts with others, and does not look whether a unit is done."""
    barrier.wait()
    store = Store(url)
    for unit in units:
        embed(store, unit, rows=rows, look=False)


def faulty_worker(url: str, units: list[str], rows: int, variables: Mapping[str, str]) -> None:
    """A worker whose store fails as the variables say."""
    os.environ.update(variables)
    do_units(url, units, rows)


def faulty_overwrite(url: str, variables: Mapping[str, str]) -> None:
    """An overwrite that is killed at a delete."""
    os.environ.update(variables, FAULTY_ACTION="kill", FAULTY_OPERATIONS="delete")
    overwrite(Store(url))
