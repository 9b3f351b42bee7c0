"""`beamclip filter` on a Spark cluster on loopback: the pairs of the in-process run, and no image is shuffled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.pairs_kit import data, write_pairs
from tests.runs import beamclip, summary
from tests.spark_events import logs, spent
from tests.spark_kit import Cluster, run_beamclip

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def test_a_cluster_chooses_the_pairs_of_the_local_run(spark: Cluster, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 60, uids=True)
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "version: 1\nname: mine\nrules:\n  - {rule: caption_characters, at_least: 7}\n"
        "  - {rule: label, set: web-flags, label: watermark, at_most: 0.6}\n"
    )
    local, run = tmp_path / "local", tmp_path / "run"
    how = ["--input", source, "--encoder", "fake", "--unit-size", 8, "--rules", rules, "--keep-top", 0.5]
    how += ["--dedup", "semantic", "--write", "uids", "webdataset", "clip-retrieval", "--quiet"]
    assert beamclip("filter", *how, "--output", local) == 0
    code, out, err = run_beamclip("filter", *how, "--output", run, *spark.options())
    assert (code, out, err) == (0, "", "")
    assert data(run) == data(local)
    told, expected = (summary(folder)["filter"] for folder in (run, local))
    for key in ("inputs", "failed", "kept", "dropped", "threshold"):
        assert told[key] == expected[key], key
    assert summary(run)["units_before"] == 0 and summary(run)["images_per_second"] > 0  # each unit once
    assert len(expected["dropped"]) >= 4 and expected["kept"] > 10
    np.testing.assert_array_equal(np.load(run / "uids.npy"), np.load(local / "uids.npy"))
    sizes = sum(path.stat().st_size for path in (tmp_path / "input" / "images").iterdir())
    found = spent(logs(spark.events)[-1])
    assert found.failed == 0
    print(f"{sizes} bytes of images, {found.shuffle_bytes} bytes shuffled")
    assert 0 < found.shuffle_bytes < sizes
    assert beamclip("status", run) == 0
