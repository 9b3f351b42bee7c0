"""Faults on a Spark cluster: executor, Python worker and job server killed in the middle; the rows of a quiet run.

Units that were begun again are counted by the images that were opened twice (inotify).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip_transforms.plan import iter_units, read_extensions, read_unit_rows
from clip_transforms.storage import Store
from tests.helpers import write_images
from tests.opened import Opened
from tests.runs import all_rows, beamclip, summary
from tests.spark_daemon import wait_for
from tests.spark_kit import Cluster, finish, started
from tests.test_crashes import no_unlisted_parts

pytestmark = [pytest.mark.spark, pytest.mark.slow]

IMAGES = 240
UNIT = 8
UNITS = math.ceil((IMAGES + 1) / UNIT)
KILL_AT = 6  # commits
BROKEN = "broken.jpg"
FETCHED = ["--batch-size", UNIT, "--fetch-threads", 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 JPEGs and a file that is none."""
    made = tmp_path_factory.mktemp("images")
    write_images(made, IMAGES, size=(16, 16))
    (made / BROKEN).write_bytes(b"no image")
    return made


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """The rows of a run that nothing disturbs."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    assert beamclip(*request(folder, run)) == 0
    return all_rows(run)


def request(folder: Path, run: Path) -> list[object]:
    asked = [
        "label",
        "--input",
        folder,
        "--prompts",
        "everyday",
        "--unit-size",
        UNIT,
        "--quiet",
        "--output",
        run,
    ]
    return [*asked, "--encoder", "fake?wait_image_ms=20", *FETCHED]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job to its end. opened: how often each image was, before the report; done: units committed at the kill."""

    code: int
    err: str
    opened: dict[str, int]
    done: frozenset[str]


def disturbed(folder: Path, run: Path, command: Sequence[object], kill: Callable[[], None]) -> Ended:
    """Start a job, kill something once a few units more are committed, and wait for the job's end."""
    with Opened(folder) as opened, started(*command) as process:
        before = len(committed(run))
        enough = before + KILL_AT
        wait_for("commits", lambda: process.poll() is not None or len(committed(run)) >= enough, seconds=240)
        done = committed(run)
        assert process.poll() is None and enough <= len(done) < UNITS
        kill()
        last = run / "run.json"
        while process.poll() is None and not last.exists():
            opened.counts()
            time.sleep(0.01)
        counts = dict(opened.counts())
        code, _, err = finish(process)
    return Ended(code=code, err=err, opened=counts, done=done)


def committed(run: Path) -> frozenset[str]:
    return frozenset(path.stem for path in run.glob("commits/embed/*.json"))


def images_by_unit(run: Path) -> dict[str, list[str]]:
    store = Store(str(run))
    return {
        unit.name: [Path(uri).name for uri in read_unit_rows(store, unit).column("uri").to_pylist()]
        for extension in read_extensions(store)
        for file in extension.files
        for unit in iter_units(store, extension, file)
    }


def opened_more(run: Path, opened: dict[str, int], times: int, *, jobs: int = 1) -> set[str]:
    """Units of which an image was opened more often than that; a launcher's pre-flight opens the first that decodes."""
    units = images_by_unit(run)
    first = [name for names in units.values() for name in names][:2]
    preflight = set(first[: 2 if first[0] == BROKEN else 1])
    return {
        unit
        for unit, names in units.items()
        if any(opened.get(name, 0) > times + jobs * (name in preflight) for name in names)
    }


def assert_quiet(run: Path, quiet: dict[str, list[dict[str, object]]]) -> None:
    """The rows of the quiet run, accounts that reconcile, nothing left lying about."""
    found = all_rows(run)
    assert [len(rows) for rows in found.values()] == [IMAGES, 1, IMAGES]
    assert found == quiet
    told = summary(run)
    assert told["units"] == {"planned": UNITS, "committed": UNITS}
    assert (told["inputs"], told["embedded"], told["failed"]) == (IMAGES + 1, IMAGES, 1)
    assert no_unlisted_parts(run)
    assert beamclip("status", run) == 0


def test_an_executor_that_is_killed_costs_no_row(
    spark: Cluster, folder: Path, quiet: dict[str, list[dict[str, object]]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*request(folder, run), *spark.options()]
    ended = disturbed(folder, run, command, lambda: spark.executors()[0].kill())
    assert (ended.code, ended.err) == (0, "")
    assert_quiet(run, quiet)
    again = opened_more(run, ended.opened, 1)
    print(f"executor killed: {len(ended.done)} of {UNITS} units done, {len(again)} begun again")
    assert again and not again & ended.done


def test_a_python_worker_that_is_killed_costs_no_row(
    spark: Cluster, folder: Path, quiet: dict[str, list[dict[str, object]]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*request(folder, run), *spark.options(cache_millis=0)]
    ended = disturbed(folder, run, command, lambda: spark.python_workers()[0].kill())
    assert (ended.code, ended.err) == (0, "")
    assert_quiet(run, quiet)
    again = opened_more(run, ended.opened, 1)
    print(f"Python worker killed: {len(ended.done)} of {UNITS} units done, {len(again)} begun again")
    assert again and not again & ended.done


def test_where_the_runner_gives_up_the_job_is_resumed(
    spark: Cluster, folder: Path, quiet: dict[str, list[dict[str, object]]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*request(folder, run), *spark.options()]
    # With a cached environment all four tries go to the dead worker.
    first = disturbed(folder, run, command, lambda: spark.python_workers()[0].kill())
    assert first.code == 3
    assert first.err.startswith(
        "beamclip: the runner failed: SparkException: Job aborted due to stage failure: "
    )
    assert len(first.err.splitlines()) == 1, first.err

    resume = ["label", "--output", run, "--resume", "--quiet", *FETCHED, *spark.options()]
    second = disturbed(folder, run, resume, spark.job_server.kill)
    spark.start_job_server()
    assert second.code == 3
    assert second.err.startswith("beamclip: the runner failed: the connection to the job server broke: ")
    assert len(second.err.splitlines()) == 1, second.err

    assert not opened_more(run, second.opened, 0) & first.done
    again = opened_more(run, add(first.opened, second.opened), 1, jobs=2)
    done = committed(run)
    with Opened(folder) as opened, started(*resume) as process:
        wait_for("the end", lambda: opened.counts() is not None and (run / "run.json").exists(), seconds=240)
        counts = dict(opened.counts())
        assert finish(process)[::2] == (0, "")
    assert_quiet(run, quiet)
    # Workers that have lost their job server commit what they had in flight: the third job may find more than this.
    assert len(done) <= summary(run)["units_before"] <= UNITS
    assert not opened_more(run, counts, 0) & done
    print(
        f"Python worker, then job server killed: {len(first.done)}, then {len(done)} of {UNITS} units done, "
        f"{len(again)} begun again by the second job"
    )


def add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}
