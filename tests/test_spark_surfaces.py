"""The plugin surfaces on a Spark cluster: each gives what it gives on the in-process runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import surfaces
from tests.helpers import write_images
from tests.spark_events import logs, spent
from tests.spark_kit import ROOT, Cluster, count_lines, finish, loads_of, started_python

pytestmark = [pytest.mark.spark, pytest.mark.slow]

GOOD = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 JPEGs and a file that is none."""
    made = tmp_path / "images"
    write_images(made, GOOD, size=(32, 32))
    (made / "bad.jpg").write_bytes(b"no image")
    return made


def portable(spark: Cluster) -> list[str]:
    """Beam's own spelling of the cluster's options."""
    return ["--runner=PortableRunner", *(option for option in spark.options()[2:] if option != "--")]


def lines(folder: Path, name: str) -> list[str]:
    return sorted(line for path in folder.glob(f"{name}-*") for line in path.read_text().splitlines())


def test_transforms_run_inference_and_mltransform(spark: Cluster, folder: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    loads = count_lines(spark.loads)
    surfaces.main([f"{folder}/*.jpg", str(here), "--runner=FnApiRunner"])
    with started_python("-m", "tests.surfaces", f"{folder}/*.jpg", there, *portable(spark)) as process:
        code, _, err = finish(process)
    assert code == 0, err
    counts = {"labels": GOOD, "failures": 1, "pairs": GOOD, "inferred": GOOD + 1, "columns": GOOD + 1}
    assert {name: len(lines(there, name)) for name in counts} == counts
    for name in counts:
        assert lines(there, name) == lines(here, name)
    # One for EmbedImages, LabelEmbeddings and ScorePairs, RunInference and MLTransform together.
    assert loads_of(spark.loads, since=loads) == [1]
    assert spent(logs(spark.events)[-1]).failed == 0


def test_beam_yaml(spark: Cluster, folder: Path, tmp_path: Path) -> None:
    variables = {"images": f"{folder}/*.jpg", "output": str(tmp_path / "out"), "encoder": "fake"}
    command = ["-m", "apache_beam.yaml.main", f"--yaml_pipeline_file={ROOT / 'tests' / 'label_images.yaml'}"]
    command += [f"--jinja_variables={json.dumps(variables)}", *portable(spark)]
    with started_python(*command) as process:
        code, _, err = finish(process)
    assert code == 0, err
    labels = [json.loads(line) for line in lines(tmp_path / "out", "labels")]
    assert sorted(row["uri"] for row in labels) == sorted(map(str, folder.glob("image*.jpg")))
    (failed,) = [json.loads(line) for line in lines(tmp_path / "out", "failures")]
    assert (failed["uri"], failed["reason"]) == (str(folder / "bad.jpg"), "not_an_image")
