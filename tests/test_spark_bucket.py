"""The walk-through of docs/spark.md with a Google Cloud Storage server on loopback: from nothing to other labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.storage import Store
from tests.faulty_jobs import fill
from tests.runs import all_rows, beamclip
from tests.servers import Server, gcs_server
from tests.spark_events import logs, spent
from tests.spark_kit import Cluster, run_beamclip
from tests.test_label_stores import downloaded, options_of

pytestmark = [pytest.mark.spark, pytest.mark.gcs, pytest.mark.slow]

IMAGES = 36


@pytest.fixture(scope="module")
def bucket() -> Iterator[Server]:
    """A bucket with 36 images."""
    with gcs_server() as running:
        fill(running, IMAGES)
        yield running


def test_from_nothing_to_labels(
    spark: Cluster, bucket: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, options = f"{bucket.url}/run1", options_of(bucket)
    asked = [
        "label",
        "--input",
        f"{bucket.url}/images/*.jpg",
        "--prompts",
        "everyday",
        "--encoder",
        "fake",
        *options,
    ]
    assert beamclip(*asked, "--limit", 10, "--output", f"{bucket.url}/look", "--quiet") == 0
    assert beamclip(*asked, "--dry-run", "--output", run) == 0
    assert "36" in capsys.readouterr().out

    code, out, err = run_beamclip(*asked, "--unit-size", 4, "--output", run, *spark.options())
    assert (code, err) == (0, ""), err
    assert out.split()[:2] == ["inputs", str(IMAGES)]
    assert beamclip("status", run, *options) == 0
    assert spent(logs(spark.events)[-1]).shuffle_bytes < 10_000

    other = ["label", "--from-run", run, "--prompts", "photo-kind", "--quiet", *options]
    assert run_beamclip(*other, *spark.options()) == (0, "", "")

    local = [*asked, "--prompts", "photo-kind", "--output", f"{bucket.url}/here", "--quiet"]
    assert beamclip(*local) == 0
    there, here = (rows_of(bucket, name, tmp_path) for name in ("run1", "here"))
    assert [len(rows) for rows in there.values()] == [IMAGES, 0, IMAGES, IMAGES]
    assert there == here


def rows_of(bucket: Server, name: str, folder: Path) -> dict[str, list[dict[str, object]]]:
    return all_rows(downloaded(Store(f"{bucket.url}/{name}", bucket.storage_options), folder / name))
