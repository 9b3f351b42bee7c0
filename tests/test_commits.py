"""Commits under races, faults and kills; what of them is live; sweeping and overwriting."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from clip_transforms.commits import (
    Commit,
    commit_name,
    committed_units,
    iter_commits,
    parse_commit,
    plan_ids,
    read_commit,
    write_commit,
)
from clip_transforms.elements import ContractError, RequestError, StoreError
from clip_transforms.live import Counts, count, live_parts, resolve_unit, unit_state
from clip_transforms.plan import Extension, close_extension
from clip_transforms.sink import Part
from clip_transforms.storage import Store, StoredObject
from clip_transforms.sweep import overwrite, sweep
from clip_transforms.views import label_view
from tests import faulty_store
from tests.store_kit import (
    PLAN_ID,
    TAG,
    attempt,
    do_units,
    embed,
    faulty_overwrite,
    faulty_worker,
    ids_of,
    live_ids,
    race,
    unit_names,
    write_part,
)

UNIT = unit_names(1)[0]
ROWS = 5


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return Store(str(tmp_path / "run"))


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Starts processes in a few milliseconds, with the library loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "fsspec", "pyarrow.parquet", "tenacity"])
    return context


def names_of(*commits: Commit, folder: str) -> tuple[str, ...]:
    return tuple(part.name for commit in commits for part in commit.parts.get(folder, ()))


def listed_parts(store: Store) -> set[str]:
    return {entry.name for entry in store.list() if entry.name.endswith(".parquet")}


def check_done(store: Store, units: list[str]) -> None:
    """Every row once in both data sets; after a sweep nothing else is there."""
    expected = sorted(id for unit in units for id in ids_of(unit, ROWS))
    assert live_ids(store) == expected and live_ids(store, f"labels/{TAG}") == expected
    sweep(store, units, tasks=("embed", f"labels-{TAG}"))
    assert listed_parts(store) == {part.name for parts in live_parts(store).values() for part in parts}
    assert live_ids(store) == expected and live_ids(store, f"labels/{TAG}") == expected
    root = Path(store.root.removeprefix("faulty://"))
    assert not [path for path in root.rglob(".tmp-*") if path.parts[-2] != "lease"]


# -- one commit


def test_a_commit_comes_back_as_it_went(store: Store) -> None:
    commit = replace(
        attempt(store, UNIT, "embed", embedded=["a", "b"], failed=["c"]), stats={"seconds": 1.5, "images": 3}
    )
    assert parse_commit(commit.to_json()) == commit
    assert write_commit(store, commit) == commit and read_commit(store, "embed", UNIT) == commit
    assert commit.name == f"commits/embed/{UNIT}.json" and commit.number == 0
    assert replace(commit, task="redo-12").number == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "retry-0"}, "unknown task 'retry-0'"),
        ({"failed": 2}, "2 failed, but by reason they are"),
        ({"failures_by_reason": {"timeout": 2}}, "1 failed, but by reason they are"),
        ({"embedded": 3}, "3 rows were counted for embeddings/, 2 are in its parts"),
        (
            {"parts": {"failures": (Part(name="other/x", rows=1, bytes=1),)}, "embedded": 0},
            "in the wrong folder",
        ),
        ({"supersedes": ("failures/x",)}, "only a retry names what it supersedes"),
        ({"task": "retry-1", "supersedes": ("embeddings/x",)}, "parts in the wrong folder: embeddings/x"),
        ({"task": "redo-1", "sources": ("embeddings/x",)}, "only views and retries have sources"),
        ({"task": f"labels-{TAG}"}, "rows of a view need the embedding parts"),
    ],
)
def test_a_commit_that_contradicts_itself_is_refused(
    store: Store, change: dict[str, object], message: str
) -> None:
    commit = attempt(store, UNIT, "embed", embedded=["a", "b"], failed=["c"])
    with pytest.raises(ContractError, match=message):
        replace(commit, **change)  # type: ignore[arg-type]


def test_the_second_attempt_loses_and_deletes_its_own_parts(store: Store) -> None:
    first, second = (attempt(store, UNIT, "embed", embedded=ids_of(UNIT, ROWS)) for _ in range(2))
    assert write_commit(store, first) == first
    assert write_commit(store, second) == first
    assert listed_parts(store) == set(first.part_names())


def test_a_lost_answer_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"faulty://{tmp_path}/run")
    commit = attempt(store, UNIT, "embed", embedded=ids_of(UNIT, ROWS))
    monkeypatch.setattr(faulty_store, "_count", 0)
    for name, value in {"AT": "1", "WHEN": "after", "ACTION": "flaky"}.items():
        monkeypatch.setenv(f"FAULTY_{name}", value)
    assert write_commit(store, commit) == commit
    assert faulty_store._count == 2
    assert listed_parts(store) == set(commit.part_names())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9}', b"\xff"])
def test_an_unreadable_commit_deletes_nothing(store: Store, data: bytes) -> None:
    store.write(commit_name("embed", UNIT), data)
    commit = attempt(store, UNIT, "embed", embedded=ids_of(UNIT, ROWS))
    for action in (lambda: write_commit(store, commit), lambda: read_commit(store, "embed", UNIT)):
        with pytest.raises(StoreError, match=f"{UNIT}.json: not a readable commit"):
            action()
    assert listed_parts(store) == set(commit.part_names())
    with pytest.raises(StoreError, match="not a readable commit"):
        list(iter_commits(store))
    with pytest.raises(StoreError, match="not a readable commit"):
        sweep(store, [])
    assert listed_parts(store) == set(commit.part_names())


def test_a_commit_of_another_unit_under_this_name_is_unreadable(store: Store) -> None:
    commit = write_commit(store, attempt(store, UNIT, "embed"))
    store.write(commit_name("embed", unit_names(2)[1]), commit.to_json())
    with pytest.raises(StoreError, match="is the commit of embed of"):
        read_commit(store, "embed", unit_names(2)[1])


def test_commits_are_iterated_by_task_and_plan(store: Store) -> None:
    units = unit_names(300)
    for unit in units:
        write_commit(store, attempt(store, unit, "embed"))
    write_commit(store, attempt(store, UNIT, "retry-1"))
    old = unit_names(1, plan="99999999")[0]
    write_commit(store, attempt(store, old, "embed"))
    store.write("commits/embed/notes.txt", b"")
    assert {commit.unit for commit in iter_commits(store, "embed", plans=())} == {*units, old}
    write_plan(store)
    assert plan_ids(store) == {PLAN_ID}
    assert sorted(commit.unit for commit in iter_commits(store, "embed")) == units
    assert sorted(commit.task for commit in iter_commits(store)) == ["embed"] * 300 + ["retry-1"]
    assert sorted(committed_units(store, "embed")) == units
    assert list(iter_commits(store, "redo-1")) == []


def write_plan(store: Store, *, units: int = 1, plan: str = PLAN_ID) -> None:
    store.write("plan/0000/units-0.parquet", b"")
    store.write("plan/0000/plan.json", json.dumps({"beamclip": 1, "plan_id": plan, "units": units}).encode())


# -- races, faults and kills


def test_processes_racing_for_commits(store: Store, processes: ForkServerContext) -> None:
    units, barrier = unit_names(20), processes.Barrier(3)
    racers = [processes.Process(target=race, args=(store.root, units, ROWS, barrier)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    assert listed_parts(store) == {name for commit in iter_commits(store) for name in commit.part_names()}
    assert len(listed_parts(store)) == len(units)
    assert live_ids(store) == sorted(id for unit in units for id in ids_of(unit, ROWS))


def test_killed_at_random_moments(store: Store, processes: ForkServerContext) -> None:
    """Kill -9 in the middle of everything, ten times; then let it end."""
    units, rng, killed = unit_names(40), random.Random(11), 0
    while killed < 10:
        worker = processes.Process(target=do_units, args=(store.root, units, ROWS))
        worker.start()
        before = len(listed_parts(store))
        deadline = time.monotonic() + 10
        while worker.is_alive() and len(listed_parts(store)) < before + 1 and time.monotonic() < deadline:
            time.sleep(0.001)  # it works
        time.sleep(rng.random() * 0.02)
        if worker.is_alive():
            os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(10)
        if worker.exitcode == 0:
            units += [f"{PLAN_ID}-0001-{number:06d}" for number in range(len(units), len(units) + 20)]
            continue
        assert worker.exitcode == -signal.SIGKILL
        killed += 1
    done = {commit.name: commit.attempt for commit in iter_commits(store)}
    do_units(store.root, units, ROWS)
    after = {commit.name: commit.attempt for commit in iter_commits(store)}
    assert done.items() <= after.items()  # what was committed was not done again
    check_done(store, units)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("action", ["kill", "raise"])
def test_a_fault_at_each_write(tmp_path: Path, processes: ForkServerContext, when: str, action: str) -> None:
    units, writes = unit_names(2), 8  # a part and a commit, for two tasks of two units
    for number in range(1, writes + 1):
        store = Store(f"faulty://{tmp_path}/run{number}")
        variables = {"FAULTY_AT": str(number), "FAULTY_WHEN": when, "FAULTY_ACTION": action}
        worker = processes.Process(target=faulty_worker, args=(store.root, units, ROWS, variables))
        if action == "kill":
            worker.start()
            worker.join(30)
            assert worker.exitcode == -signal.SIGKILL
        else:
            faulty_store._count = 0
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                with pytest.raises(StoreError, match="the store failed"):
                    do_units(store.root, units, ROWS)
        do_units(store.root, units, ROWS)
        check_done(store, units)


def test_each_write_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above reaches the last."""
    monkeypatch.setenv("FAULTY_COUNTER", str(tmp_path / "counter"))
    do_units(f"faulty://{tmp_path}/run", unit_names(2), ROWS)
    assert (tmp_path / "counter").read_text() == "8"


# -- what holds


def retry(
    store: Store, *, embedded: list[str], failed: list[str], number: int = 1, labelled: bool = False
) -> Commit:
    named = [part.name for part in unit_state(store, UNIT).parts("failures")]
    labels = embedded if labelled else []
    task = f"retry-{number}"
    return write_commit(
        store, attempt(store, UNIT, task, embedded=embedded, failed=failed, labelled=labels, supersedes=named)
    )


def first(store: Store) -> Commit:
    """A unit of five, of which three failed for two reasons."""
    reasons = {"timeout": 2, "empty": 1}
    return write_commit(
        store, attempt(store, UNIT, "embed", embedded=["a", "b"], failed=["c", "d", "e"], reasons=reasons)
    )


def test_a_retry_supersedes_the_failures_it_names(store: Store) -> None:
    first(store)
    retry(store, embedded=["c"], failed=["d", "e"])
    assert live_ids(store) == ["a", "b", "c"] and live_ids(store, "failures") == ["d", "e"]
    assert unit_state(store, UNIT).next_retry == 2
    retry(store, embedded=["d"], failed=["e"], number=2)
    assert live_ids(store) == ["a", "b", "c", "d"] and live_ids(store, "failures") == ["e"]
    assert count(store) == Counts(
        embedded=4,
        failed=1,
        failures_by_reason={"timeout": 1},
        labels={},
        units={"embed": 1, "retry-1": 1, "retry-2": 1},
        fingerprints={"f": 4},
    )
    assert count(store).inputs == 5
    sweep(store, [UNIT])
    assert count(store).inputs == 5 and live_ids(store, "failures") == ["e"]
    assert len(listed_parts(store)) == 4


def test_who_missed_the_first_retry_asks_for_its_number(store: Store) -> None:
    """Read while another attempt wrote two of them: the first as absent, the second as there. It must lose."""
    first(store)
    retry(store, embedded=["c"], failed=["d", "e"])
    retry(store, embedded=["d"], failed=["e"], number=2)
    commits = [commit for task in ("embed", "retry-2") if (commit := read_commit(store, task, UNIT))]
    assert resolve_unit(commits[:1]).next_retry == 1 == resolve_unit(commits).next_retry


def test_a_redo_supersedes_the_whole_unit(store: Store) -> None:
    embedded = first(store)
    label_all(store, ["a", "b"], sources=names_of(embedded, folder="embeddings"))
    retry(store, embedded=["c"], failed=["d", "e"], labelled=True)
    redo = attempt(
        store, UNIT, "redo-1", embedded=["a", "b", "c", "d"], labelled=["a", "b", "c", "d"], failed=["e"]
    )
    write_commit(store, redo)
    assert live_ids(store) == ["a", "b", "c", "d"] == live_ids(store, f"labels/{TAG}")
    assert count(store).inputs == 5 and count(store).failures_by_reason == {"timeout": 1}
    write_commit(store, attempt(store, UNIT, "redo-2", embedded=["a"]))
    assert live_ids(store) == ["a"] and live_ids(store, f"labels/{TAG}") == [] and count(store).inputs == 1
    assert sweep(store, [UNIT]).deleted == 9  # of embed 2, labels 1, retry-1 3, redo-1 3
    assert len(listed_parts(store)) == 1


def label_all(store: Store, ids: list[str], *, sources: tuple[str, ...]) -> Commit:
    return write_commit(store, attempt(store, UNIT, f"labels-{TAG}", labelled=ids, sources=sources))


def test_what_builds_on_superseded_parts_falls_with_them(store: Store) -> None:
    """A worker of before the redo comes late, with a retry and with labels of the old embeddings."""
    embedded = first(store)
    late = attempt(
        store,
        UNIT,
        "retry-1",
        embedded=["c"],
        failed=["d", "e"],
        supersedes=names_of(embedded, folder="failures"),
    )
    write_commit(store, attempt(store, UNIT, "redo-1", embedded=["a", "b"], failed=["c", "d", "e"]))
    write_commit(store, late)
    label_all(store, ["a", "b"], sources=names_of(embedded, folder="embeddings"))
    assert live_ids(store) == ["a", "b"] and live_ids(store, "failures") == ["c", "d", "e"]
    assert live_ids(store, f"labels/{TAG}") == [] and count(store).inputs == 5
    state = unit_state(store, UNIT)
    assert state.next_retry == 2
    assert [part.name for part in state.without(label_view(TAG))] == [
        part.name for part in state.parts("embeddings")
    ]


def test_what_is_not_labelled_yet(store: Store) -> None:
    embedded = first(store)
    assert [part.name for part in unit_state(store, UNIT).without(label_view(TAG))] == list(
        names_of(embedded, folder="embeddings")
    )
    retry(store, embedded=["c"], failed=["d", "e"], labelled=True)  # brings its own labels
    state = unit_state(store, UNIT)
    assert [part.name for part in state.without(label_view(TAG))] == list(
        names_of(embedded, folder="embeddings")
    )
    label_all(store, ["a", "b"], sources=names_of(embedded, folder="embeddings"))
    assert unit_state(store, UNIT).without(label_view(TAG)) == ()
    assert live_ids(store, f"labels/{TAG}") == ["a", "b", "c"] and count(store).labels == {TAG: 3}
    third = retry(store, embedded=["d"], failed=["e"], number=2)  # without labels
    (left,) = unit_state(store, UNIT).without(label_view(TAG))
    assert left.name == names_of(third, folder="embeddings")[0]
    fill = attempt(store, UNIT, "retry-3", labelled=["d"], sources=[left.name])
    write_commit(store, fill)
    assert unit_state(store, UNIT).without(label_view(TAG)) == () and live_ids(store, f"labels/{TAG}") == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_labels_of_another_run_hold_by_themselves(store: Store) -> None:
    label_all(store, ["a"], sources=("embeddings/part-of-another-run.parquet",))
    write_commit(
        store, attempt(store, UNIT, "retry-1", labelled=["b"], sources=["embeddings/its-retry.parquet"])
    )
    assert live_ids(store, f"labels/{TAG}") == ["a", "b"] and count(store).inputs == 0


def test_two_retries_of_one_part_are_an_error(store: Store) -> None:
    named = names_of(first(store), folder="failures")
    for number in (1, 2):
        task = f"retry-{number}"
        write_commit(store, attempt(store, UNIT, task, failed=["c", "d", "e"], supersedes=named))
    with pytest.raises(ContractError, match="which another commit superseded"):
        live_parts(store)


def test_superseding_some_failures_of_a_commit_is_an_error(store: Store) -> None:
    commit = attempt(store, UNIT, "embed", failed=["c"])
    more = write_part(store, ["d"], folder="failures", unit=UNIT, task="embed", attempt="other")
    both = {"failures": (*commit.parts["failures"], *more)}
    write_commit(store, replace(commit, parts=both, failed=2, failures_by_reason={"empty": 2}))
    write_commit(store, attempt(store, UNIT, "retry-1", failed=["c"], supersedes=[more[0].name]))
    with pytest.raises(ContractError, match="only some failure parts"):
        live_parts(store)


# -- sweeping and overwriting


def test_a_sweep_deletes_only_what_can_no_longer_win(store: Store) -> None:
    units = unit_names(3)
    write_plan(store, units=3)
    for unit in units[:2]:
        embed(store, unit, rows=ROWS)
    lost = attempt(store, units[0], "embed", embedded=["x"])  # committed by another attempt
    alive = attempt(store, units[1], "retry-1", failed=["x"])  # not committed
    old = attempt(store, unit_names(1, plan="99999999")[0], "embed", embedded=["y"])  # of an overwritten run
    store.write("embeddings/part-mine.parquet", b"")
    store.write("embeddings/notes.txt", b"")
    with pytest.raises(
        ContractError, match=r"1 tasks of the 3 planned units.*embed of .*000002; nothing was swept"
    ):
        sweep(store, iter(units))
    assert listed_parts(store) >= set(lost.part_names())
    embed(store, units[2], rows=ROWS)
    done = sweep(store, iter(units))
    assert (done.deleted, done.undecided) == (2, 1)
    left = {entry.name for entry in store.list("embeddings")} | set(alive.part_names())
    assert not left & {*lost.part_names(), *old.part_names()}
    assert {"embeddings/part-mine.parquet", "embeddings/notes.txt", *alive.part_names()} <= left
    assert write_commit(store, alive) == alive  # it was alive indeed
    assert count(store).inputs == 3 * ROWS + 1


def test_a_sweep_judges_nothing_that_appears_while_it_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit is retried, and labelled, after the retries were read and before the labels are."""
    other = unit_names(2)[1]
    do_units(store.root, [other], ROWS)
    commits = [first(store), retry(store, embedded=["c"], failed=["d", "e"])]
    listing, done = Store.list, []

    def busy(self: Store, prefix: str = "") -> Iterator[StoredObject]:
        if prefix == "commits/embed" and not done:
            done.append(prefix)
            commits.append(retry(store, embedded=["d"], failed=["e"], number=2))
            label_all(store, ["a", "b", "c", "d"], sources=names_of(*commits, folder="embeddings"))
        return listing(self, prefix)

    monkeypatch.setattr(Store, "list", busy)
    sweep(store, [UNIT, other])
    assert done
    expected = [*ids_of(other, ROWS), "a", "b", "c", "d"]
    assert live_ids(store) == expected == live_ids(store, f"labels/{TAG}")
    assert live_ids(store, "failures") == ["e"]


FOREIGN = (
    "notes.txt",
    "embeddings/mine.parquet",
    "plan/readme.md",
    "photos/part-1.parquet",
    "labels/x/part-1.parquet",
)
TREE = (
    *("run.json", "report.html", "duplicates.parquet", "runs/20260101-ab.json", "reviews/part-anna.parquet"),
    *(
        f"text/{TAG}.json",
        f"text/{TAG}-99.npz",
        f"calibration/{TAG}.json",
        f"probes/{TAG}/weights.safetensors",
    ),
    *("plan/0000/changed-0123abcd.parquet", "pairs/part-0.parquet", f"attempts/3/redo-1/{UNIT}.json"),
)


def full_run(store: Store) -> None:
    write_plan(store)
    do_units(store.root, [UNIT], ROWS)
    for name in (*FOREIGN, *TREE, "lease/1.json"):
        store.write(name, b"{}")


def test_overwriting_deletes_the_tree_alone(store: Store) -> None:
    full_run(store)
    assert overwrite(store) == len(TREE) + 6  # two parts, two commits, two files of the plan
    assert {entry.name for entry in store.list()} == {*FOREIGN, "lease/1.json"}
    with pytest.raises(RequestError, match=r"no plan/\*/plan.json"):
        overwrite(store)


@pytest.mark.parametrize("body", [None, b"", b"[]", b'{"plan": 1}', b"\xff"])
def test_overwriting_refuses_a_folder_that_is_not_ours(store: Store, body: bytes | None) -> None:
    store.write("embeddings/part-1.parquet", b"precious")
    if body is not None:
        store.write("plan/0000/plan.json", body)
    with pytest.raises(RequestError, match="--overwrite deletes only runs of beamclip"):
        overwrite(store)
    assert store.read("embeddings/part-1.parquet") == b"precious"


def test_a_killed_overwrite_can_be_run_again(
    tmp_path: Path, processes: ForkServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its deletes, data goes before commits and these before the plan."""
    store = Store(f"faulty://{tmp_path}/run")
    full_run(store)
    total = len(TREE) + 6
    for at in range(1, total + 1, 3):
        worker = processes.Process(target=faulty_overwrite, args=(store.root, {"FAULTY_AT": str(at)}))
        worker.start()
        worker.join(30)
        assert worker.exitcode == -signal.SIGKILL
        left = {entry.name for entry in store.list()} - {*FOREIGN, "lease/1.json"}
        assert "plan/0000/plan.json" in left
        if any(name.startswith("embeddings/") for name in left):
            assert f"commits/embed/{UNIT}.json" in left
        full_run(store)
    overwrite(store)
    assert {entry.name for entry in store.list()} == {*FOREIGN, "lease/1.json"}


def test_a_plan_whose_answer_was_lost_is_our_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    mine = Extension(
        name="0000",
        plan_id="0123abcd",
        run_id="mine",
        files=(),
        units=0,
        rows=0,
        total_bytes=0,
        inputs=(),
        config={},
        created_at="2026-01-01",
    )
    for _ in range(2):  # the client puts it once more
        close_extension(store, mine)
    with pytest.raises(RequestError, match="written by another launcher"):
        close_extension(store, replace(mine, run_id="other"))
