"""Fixtures of all tests, and the guard that fails a run in which a required group did not run.

| fixture        | what it is                                            |
|----------------|-------------------------------------------------------|
| `images`       | a folder of 12 different JPEGs                        |
| `cache`        | (automatic) a weights cache of the test's own         |
| `spark`        | a Spark cluster on loopback, one for all its tests    |
| `label_studio` | a Label Studio server on loopback, likewise           |

`BEAMCLIP_REQUIRE=chromium,dataflow,datumaro,gcs,img2dataset,label-studio,prism,s3,spark` (CI sets it): tests with these
markers must run, and any skipped test fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import write_images
from tests.label_studio_kit import LabelStudio, running_label_studio
from tests.spark_kit import Cluster, running_cluster

REQUIRED = frozenset(filter(None, os.environ.get("BEAMCLIP_REQUIRE", "").replace("-", "_").split(",")))
_ran: set[str] = set()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 12 different JPEGs."""
    folder = tmp_path / "images"
    write_images(folder, 12)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BEAMCLIP_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Master, worker, job server and Python worker pool; skips where Java or Maven are missing."""
    with running_cluster(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A server that validates predictions; skips where Label Studio is not installed."""
    with running_label_studio(tmp_path_factory.mktemp("label-studio")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Where groups are required, everything is installed: a skip is a failure."""
    report = yield
    groups = {mark.name for mark in item.iter_markers()} & REQUIRED
    if REQUIRED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped here, and this was: {report.longrepr}"
    if report.when == "call" and report.passed:
        _ran.update(groups)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A required group of which no test ran fails the whole run."""
    missing = REQUIRED - _ran
    whole = not session.config.getoption("keyword") and not session.config.getoption("markexpr")
    if missing and whole and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nno test of these required groups passed: {', '.join(sorted(missing))}")
