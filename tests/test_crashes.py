"""Kills and faults at every place: whatever dies, the rows after `--resume` equal an undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clip_transforms import units
from clip_transforms.elements import ImageError, Reason, Stage
from clip_transforms.engine import fetchers
from clip_transforms.live import live_parts
from clip_transforms.plan import iter_units, read_extensions
from clip_transforms.sink import Part
from clip_transforms.storage import Store
from tests import faulty_store  # noqa: F401 - registers faulty://
from tests.helpers import write_images
from tests.runs import all_rows, beamclip, planned, rows, summary, written

ROOT = Path(__file__).parent.parent


def request(folder: Path, run: object, *more: object) -> list[str]:
    fixed = ("label", "--input", folder, "--prompts", "everyday", "photo-kind", "--quiet", "--output", run)
    return [str(arg) for arg in (*fixed, "--encoder", "fake?wait_image_ms=5", *more)]


@pytest.mark.slow
def test_twenty_kills_each_followed_by_a_resume_lose_and_double_nothing(tmp_path: Path) -> None:
    folder, run, fresh = tmp_path / "images", tmp_path / "run", tmp_path / "fresh"
    write_images(folder, 900, size=(16, 16))
    (folder / "broken.jpg").write_bytes(b"no image")
    args = request(folder, run, "--unit-size", "16", "--resume")
    command = [sys.executable, "-m", "tests.kill_driver", "20", "7", "1.6", "--", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout.split()[1])
    assert killed >= 15, done.stdout
    assert beamclip(*request(folder, fresh, "--unit-size", "50")) == 0
    found, expected = all_rows(run), all_rows(fresh)
    assert [len(part) for part in found.values()] == [900, 1, 900, 900]
    assert found == expected
    assert no_unlisted_parts(run)


def test_finished_units_are_not_computed_again_after_a_kill(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = request(images, f"faulty://{run}", "--unit-size", "2")
    kill = {
        "FAULTY_ACTION": "kill",
        "FAULTY_WHEN": "after",
        "FAULTY_AT": "4",
        "FAULTY_MATCH": "commits/embed",
    }
    start = "import sys; from tests import faulty_store; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, *args]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **kill}, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    before = {path: path.read_bytes() for path in run.glob("embeddings/*.parquet")}
    committed = {path.stem for path in run.glob("commits/embed/*.json")}
    assert len(committed) == 4
    assert beamclip(*args, "--resume") == 0
    assert summary(run)["units_before"] == 4
    kept = {path: data for path, data in before.items() if any(unit in path.name for unit in committed)}
    assert len(kept) == 4
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(rows(run, "embeddings")) == 12
    assert no_unlisted_parts(run)


def no_unlisted_parts(run: Path) -> bool:
    listed = {part.name for parts in live_parts(Store(str(run))).values() for part in parts}
    there = {name for name in written(run) if "/part-" in name}
    return listed == there


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_at_each_write_costs_no_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    fresh = tmp_path / "fresh"
    options = (
        "label",
        "--input",
        images,
        "--prompts",
        "everyday",
        "--encoder",
        "fake",
        "--quiet",
        "--unit-size",
        "8",
    )
    assert beamclip(*options, "--output", fresh) == 0
    expected = all_rows(fresh)
    at = 0
    while True:
        at += 1
        run = tmp_path / f"run{at}"
        url = f"faulty://{run}"
        counter = tmp_path / f"counter{at}"
        monkeypatch.setenv("FAULTY_COUNTER", str(counter))
        monkeypatch.setenv("FAULTY_WHEN", when)
        monkeypatch.setenv("FAULTY_AT", str(at))
        code = beamclip(*options, "--output", url)
        if int(counter.read_text()) < at:
            assert code == 0
            break  # there is no such write any more
        monkeypatch.setenv("FAULTY_AT", "0")
        if code != 0:
            assert beamclip(*options, "--output", url, "--resume", "--take-over") == 0, (when, at)
        assert all_rows(run) == expected, (when, at)
        assert no_unlisted_parts(run), (when, at)
    assert at > 10


def test_two_live_attempts_of_one_unit_with_different_failures_leave_one_row_an_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    workers, unit = two_workers(images, run)
    fetch = fetchers.fetch
    failing = {"name": "image00001.jpg"}

    def flaky(url: str, options: object) -> bytes:
        if url.endswith(failing["name"]):
            raise ImageError(Stage.FETCH, Reason.TIMEOUT, "no answer")
        return fetch(url, options)

    monkeypatch.setattr(fetchers, "fetch", flaky)
    first = workers[0].start(unit)
    first.done.exception()
    failing["name"] = "image00002.jpg"
    second = workers[1].start(unit)
    second.done.exception()
    reports = [*workers[1].finish(second), *workers[0].finish(first)]
    assert [report.done_before for report in reports] == [False, False, True, True]
    assert [row["uri"] for row in rows(run, "failures")] == [str(images / "image00002.jpg")]
    assert len(rows(run, "embeddings")) == 11
    assert no_unlisted_parts(run)


def two_workers(images: Path, run: Path) -> tuple[list[units.Worker], units.WorkUnit]:
    """Two workers of one planned run, as two processes would have them, and its only unit."""
    config = planned("--input", images, "--output", run, "--encoder", "fake", "--prompts", "everyday")
    store = Store(str(run))
    (extension,) = read_extensions(store)
    (unit,) = [unit for file in extension.files for unit in iter_units(store, extension, file)]
    return [units.Worker(config), units.Worker(config)], unit


def test_a_part_is_named_after_its_attempt(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    workers, unit = two_workers(images, run)
    list(workers[0].finish(workers[0].start(unit)))
    (part,) = live_parts(Store(str(run)))["embeddings"]
    assert isinstance(part, Part)
    assert part.name.startswith(f"embeddings/part-{unit.name}-embed-")
    assert part.rows == 12


@pytest.mark.parametrize("at", [1, 4, 9, 14])
def test_an_overwrite_that_dies_can_be_run_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    options = ("label", "--input", images, "--prompts", "photo-kind", "--encoder", "fake", "--quiet")
    monkeypatch.setenv("FAULTY_COUNTER", str(tmp_path / "counter"))
    monkeypatch.setenv("FAULTY_OPERATIONS", "delete")
    first = (
        "label",
        "--input",
        images,
        "--prompts",
        "everyday",
        "--encoder",
        "fake",
        "--quiet",
        "--unit-size",
        5,
    )
    assert beamclip(*first, "--output", f"faulty://{run}") == 0
    (tmp_path / "counter").unlink()
    monkeypatch.setenv("FAULTY_MATCH", "/run/")
    monkeypatch.setenv("FAULTY_AT", str(at + 1))  # the first is the probe's
    assert beamclip(*options, "--output", f"faulty://{run}", "--overwrite") == 3
    monkeypatch.setenv("FAULTY_AT", "0")
    assert beamclip(*options, "--output", f"faulty://{run}", "--overwrite", "--take-over") == 0
    assert beamclip(*options, "--output", fresh) == 0
    assert all_rows(run) == all_rows(fresh)
    assert no_unlisted_parts(run)
