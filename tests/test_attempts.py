"""Attempts: how they are counted, what they cost, when a unit's images go to a child process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_transforms.attempts import Attempts, often_begun
from clip_transforms.elements import ContractError, StoreError, WorkUnit
from clip_transforms.storage import Store, StoredObject
from clip_transforms.sweep import overwrite, sweep
from clip_transforms.units import PendingUnit, Worker
from tests.crash_kit import attempts
from tests.runs import beamclip
from tests.test_crashes import two_workers

UNIT, OTHER = "0123abcd-0000-000007", "0123abcd-0000-000008"


def process(store: Store) -> Attempts:
    """What a worker process that has just started knows."""
    return Attempts(store, run_id="r")


def test_the_third_attempt_is_contained_and_so_is_all_after_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert [process(store).begin("embed", UNIT) for _ in range(2)] == [False, False]
    lively = process(store)
    assert not lively.begin("embed", OTHER)
    third = process(store)
    assert not third.begin("embed", "0123abcd-0000-000009")
    assert third.begin("embed", UNIT)
    assert third.begin("embed", "0123abcd-0000-000010")
    assert process(store).begin("embed", "0123abcd-0000-000011")  # it starts after one was recorded
    assert not lively.begin("embed", "0123abcd-0000-000012")  # it died of nothing yet
    assert list(often_begun(store)) == [("embed", UNIT)]


def test_later_attempts_leave_nothing_more(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert [process(store).begin("embed", UNIT) for _ in range(6)] == [False, False, *[True] * 4]
    assert attempts(tmp_path) == [f"{number}/embed/{UNIT}.json" for number in (1, 2, 3)]


def test_tasks_of_one_unit_are_counted_apart(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert [process(store).begin("embed", UNIT) for _ in range(2)] == [False, False]
    assert not process(store).begin("retry-1", UNIT)


def test_two_attempts_at_once_count_twice(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    together = threading.Barrier(2)

    def begin(_: int) -> bool:
        mine = process(store)
        together.wait(10)
        return mine.begin("embed", UNIT)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(begin, range(2))) == [False, False]
    assert attempts(tmp_path) == [f"{number}/embed/{UNIT}.json" for number in (1, 2)]


def test_an_undisturbed_unit_costs_one_put_and_a_process_one_listing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    create, listing = Store.create, Store.list

    def counted_create(self: Store, name: str, data: bytes) -> bool:
        calls[f"put {name.split('/')[0]}"] += 1
        return create(self, name, data)

    def counted_list(self: Store, prefix: str = "") -> Iterator[StoredObject]:
        calls[f"list {prefix}"] += 1
        return listing(self, prefix)

    monkeypatch.setattr(Store, "create", counted_create)
    monkeypatch.setattr(Store, "list", counted_list)
    run = tmp_path / "run"
    fixed = ("label", "--prompts", "everyday", "--encoder", "fake", "--quiet", "--output", run)
    assert beamclip(*fixed, "--input", images, "--unit-size", 3) == 0
    assert (calls["put attempts"], calls["list attempts/3"], calls["list attempts"]) == (4, 1, 1)
    calls.clear()
    assert beamclip(*fixed, "--resume") == 0
    assert (calls["put attempts"], calls["list attempts/3"]) == (0, 0)  # all is committed


def test_a_sweep_deletes_them_once_all_is_committed_and_not_before(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    workers, unit = two_workers(images, run)
    store = Store(str(run))
    left = process(store)
    left.begin("embed", "89abcdef-0000-000001")  # of a run that was overwritten
    first, second = workers[0].start(unit), workers[1].start(unit)
    with pytest.raises(ContractError, match="not committed"):
        sweep(store, [unit.name])
    assert len(attempts(run)) == 3
    list(workers[0].finish(first))
    list(workers[1].finish(second))
    sweep(store, [unit.name])
    assert attempts(run) == []
    assert not (run / "attempts").exists()


def test_an_overwrite_deletes_them(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    workers, unit = two_workers(images, run)
    list(workers[0].finish(workers[0].start(unit)))
    (run / "attempts" / "notes.txt").write_text("mine")
    assert len(attempts(run)) == 1
    overwrite(Store(str(run)))
    assert [path.name for path in run.glob("attempts/**/*") if path.is_file()] == ["notes.txt"]


def test_a_unit_whose_attempt_cannot_be_recorded_is_not_begun(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    workers, unit = two_workers(images, run)

    def broken(self: Store, name: str, data: bytes) -> bool:
        raise StoreError(f"cannot create {name}")

    monkeypatch.setattr(Store, "create", broken)
    with pytest.raises(StoreError, match="attempts/1/embed"):
        workers[0].start(unit)
    assert not (run / "embeddings").exists()


def test_a_runner_that_gives_up_names_the_units_that_were_begun_too_often(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def start(self: Worker, unit: WorkUnit) -> PendingUnit:
        for _ in range(3):
            self._attempts.begin("embed", unit.name)
        raise RuntimeError("the accelerator fell out")

    monkeypatch.setattr(Worker, "start", start)
    fixed = ("label", "--prompts", "everyday", "--encoder", "fake", "--quiet", "--output", run)
    assert beamclip(*fixed, "--input", images, "--unit-size", 6) == 3
    (unit,) = {name.split("/")[2].removesuffix(".json") for name in attempts(run)}
    said = capsys.readouterr().err
    assert "the accelerator fell out" in said
    assert f"; begun three times or more, and not committed: {unit}. Their images were decoded" in said
