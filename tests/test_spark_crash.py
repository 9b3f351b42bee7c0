"""An image that kills its process, on a Spark cluster: Spark tries the bundle again, and the third try gets over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash_kit import attempts, deadly_environment, failures, killer
from tests.helpers import write_images
from tests.runs import all_rows, beamclip, summary
from tests.spark_kit import Cluster, run_beamclip

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PICTURES = 80
UNIT = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One whose Python workers know an image format that kills."""
    work = tmp_path_factory.mktemp("spark")
    found = Cluster(work)
    found.pool.env["PYTHONPATH"] = deadly_environment(work)["PYTHONPATH"]
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.mark.parametrize(
    "killers", [("image00041a.jpg",), tuple(f"image000{n}a.jpg" for n in (11, 12, 38, 70))]
)
def test_a_job_outlives_images_that_kill_its_workers(
    cluster: Cluster, tmp_path: Path, killers: tuple[str, ...]
) -> None:
    folder, run, fresh = tmp_path / "images", tmp_path / "run", tmp_path / "fresh"
    write_images(folder, PICTURES)
    request = ("label", "--input", folder, "--prompts", "everyday", "--encoder", "fake", "--quiet")
    assert beamclip(*request, "--output", fresh) == 0
    for name in killers:
        (folder / name).write_bytes(killer())
    more = ("--unit-size", UNIT, "--max-failure-rate", 1)
    code, _, err = run_beamclip(*request, *more, "--output", run, *cluster.options(cache_millis=0))
    assert code == 0, err
    assert {**all_rows(run), "failures": []} == all_rows(fresh)
    found = [(row["uri"], row["stage"], row["reason"]) for row in failures(run)]
    assert found == [(str(folder / name), "decode", "crashed_worker") for name in killers]
    told = summary(run)
    assert told["failures_by_reason"] == {"crashed_worker": len(killers)}
    assert (told["inputs"], told["embedded"]) == (PICTURES + len(killers), PICTURES)
    assert attempts(run) == []
