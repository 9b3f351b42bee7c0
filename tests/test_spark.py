"""The whole job on Spark 3, started as a user would: a Spark of its own, and a standalone cluster on loopback."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import image_bytes, make_image
from tests.runs import all_rows, beamclip, summary
from tests.spark_daemon import wait_for
from tests.spark_events import logs, spent
from tests.spark_kit import (
    Cluster,
    count_lines,
    counting,
    loads_of,
    local_options,
    run_beamclip,
)

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PICTURES = 60
UNIT = 4
SIDE = 320  # so that an image is much larger than its row


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty JPEGs, an empty file, a text, and a picture cut in half."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        (folder / f"image{number:02d}.jpg").write_bytes(image_bytes(make_image(number, (SIDE, SIDE))))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"text")
    whole = image_bytes(make_image(99, (SIDE, SIDE)))
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def expected(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the in-process runner."""
    run = tmp_path_factory.mktemp("expected") / "run"
    assert beamclip(*request(pictures, run)) == 0
    return run


def request(pictures: Path, run: Path) -> list[object]:
    options = [
        "--encoder",
        "beamclip-tiny",
        "--unit-size",
        UNIT,
        "--max-failure-rate",
        1,
        "--quiet",
        "--threads",
        1,
    ]
    return ["label", "--input", pictures, "--output", run, "--prompts", "samples", "everyday", *options]


def test_a_spark_of_its_own_gives_the_same_rows(pictures: Path, expected: Path, tmp_path: Path) -> None:
    run, events, loads = tmp_path / "run", tmp_path / "events", tmp_path / "loads"
    code, out, err = run_beamclip(*request(pictures, run), *local_options(events), **counting(loads))
    # The workers are threads of the launcher: the one line is that of the load that is counted.
    assert (code, out, len(err.splitlines())) == (0, "", 1) and " loaded beamclip-tiny on cpu in " in err, err
    assert_met(run, expected)
    assert loads_of(loads) == [1]
    assert_no_images_shuffled(events, pictures)


def test_a_cluster_gives_the_same_rows(
    spark: Cluster, pictures: Path, expected: Path, tmp_path: Path
) -> None:
    run, loads = tmp_path / "run", count_lines(spark.loads)
    code, out, err = run_beamclip(*request(pictures, run), *spark.options())
    assert (code, out, err) == (0, "", "")
    assert_met(run, expected)
    assert loads_of(spark.loads, since=loads) == [1]  # two tasks at a time, one process, one encoder
    assert_no_images_shuffled(spark.events, pictures)
    assert spent(logs(spark.events)[-1]).jars == (spark.staged.name,)  # what follows -- has arrived


def assert_met(run: Path, expected: Path) -> None:
    """Rows as expected, accounts that reconcile, nothing computed twice."""
    assert_same_rows(run, expected)
    told = summary(run)
    assert (told["inputs"], told["embedded"], told["failed"]) == (PICTURES + 3, PICTURES, 3)
    units = -(-(PICTURES + 3) // UNIT)
    assert told["units"] == {"planned": units, "committed": units}
    assert told["units_before"] == 0
    assert told["labels"] == dict.fromkeys(told["labels"], PICTURES) and len(told["labels"]) == 2
    assert told["images_per_second"] > 0
    assert beamclip("status", run) == 0


def assert_same_rows(run: Path, expected: Path) -> None:
    """Every row of every data set: embeddings within 1e-6, scores made from them within 1e-5, the rest equal."""
    found, wanted = all_rows(run), all_rows(expected)
    assert list(found) == list(wanted)
    for folder, rows in wanted.items():
        assert len(found[folder]) == len(rows) > 0
        for one, other in zip(found[folder], rows, strict=True):
            assert list(one) == list(other)
            for column, value in other.items():
                tolerance = 1e-6 if column == "embedding" else 1e-5
                assert _same(one[column], value, tolerance), (folder, column, one[column], value)


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], tolerance) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(partial(_same, tolerance=tolerance), one, other))
    return bool(one == other)


def assert_no_images_shuffled(events: Path, pictures: Path) -> None:
    """By Spark's own metrics: unit descriptors and counts, less than one image in all."""
    sizes = [path.stat().st_size for path in pictures.glob("image*.jpg")]
    found = spent(logs(events)[-1])
    assert found.failed == 0
    assert 0 < found.shuffle_bytes < min(sizes), (found, min(sizes))
    assert found.shuffle_bytes < 0.01 * sum(sizes)


def test_a_job_that_is_not_waited_for(spark: Cluster, pictures: Path, expected: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = run_beamclip(*request(pictures, run), "--no-wait", *spark.options())
    assert (code, err) == (4, "")
    wait_for("the end of the job", lambda: (run / "run.json").exists(), seconds=240)
    for _ in range(60):  # the runner may not know yet
        if beamclip("status", run) != 4:
            break
        time.sleep(1)
    assert_met(run, expected)
    assert (run / "report.html").exists()


def test_what_a_worker_raises_is_one_line(spark: Cluster, tmp_path: Path) -> None:
    for number in range(1300):
        (tmp_path / f"{number:04d}.jpg").write_bytes(b"no image")
    run = tmp_path / "run"
    options = ["--prompts", "everyday", "--encoder", "fake", "--unit-size", 20, "--quiet"]
    asked = ["label", "--input", f"{tmp_path}/*.jpg", "--output", run, *options]
    code, out, err = run_beamclip(*asked, *spark.options())
    lines = err.splitlines()
    assert (code, out, len(lines)) == (1, "", 2), err
    assert lines[0].startswith("WARNING pipelines.preflight: none of the first 100 inputs could be decoded")
    assert lines[1].startswith("beamclip: the first 1") and "all failed with not_an_image" in lines[1]


def test_a_cluster_that_is_not_there_is_said(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner = ["--runner", "PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"]
    asked = ["label", "--input", images, "--output", run, "--prompts", "everyday", "--encoder", "fake"]
    code, _, err = run_beamclip(*asked, *runner)
    assert code == 3
    assert err.startswith("beamclip: the runner failed: ") and len(err.splitlines()) == 1, err
