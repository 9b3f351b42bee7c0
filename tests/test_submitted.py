"""Jobs that are not waited for, on a real Prism with workers of its own: left, asked for, closed, lost, resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from clip_transforms.lease import read_lease
from clip_transforms.storage import Store
from pipelines.runner_jobs import job_state
from tests.helpers import write_images
from tests.runners_kit import (
    ROOT,
    environment,
    free_port,
    job_service,
    launch,
    prism_binary,
    prism_server,
    running,
    worker_pool,
)
from tests.runs import all_rows, beamclip, summary, written

pytestmark = pytest.mark.prism
SLOW = "fake?wait_image_ms=500"  # with batches of one: a job that can be looked at while it runs
FAST = "fake"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A job server and a pool of workers."""

    server: str
    pool: str

    def options(self, *more: str) -> list[str]:
        portable = ["--runner", "PortableRunner", "--job_endpoint", self.server]
        return [*portable, "--environment_type", "EXTERNAL", "--environment_config", self.pool, *more]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Prism."""
    with prism_server() as server, worker_pool(tmp_path_factory.mktemp("pool")) as pool:
        yield Cluster(server=server, pool=pool)


@pytest.fixture(params=["prism", "embedded"])
def each_cluster(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Cluster]:
    """Prism, then Beam's embedded portable runner as a server, with the same workers."""
    if request.param == "prism":
        yield cluster
        return
    with job_service() as server:
        yield Cluster(server=server, pool=cluster.pool)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixteen JPEGs."""
    write_images(tmp_path / "photos", 16)
    return tmp_path / "photos"


def request(photos: Path, run: Path, encoder: str) -> list[object]:
    options = ["--encoder", encoder, "--unit-size", 4, "--batch-size", 1, "--prompts", "everyday"]
    return ["label", "--input", photos, "--output", run, *options]


def wait_for(done: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def test_a_job_that_is_left_is_asked_for_and_closed_by_status(
    each_cluster: Cluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waited, run = tmp_path / "waited", tmp_path / "run"
    assert beamclip(*request(photos, waited, SLOW), "--quiet") == 0
    left = launch(tmp_path, *request(photos, run, SLOW), *each_cluster.options("--no-wait"))
    assert (left.returncode, left.stderr) == (4, "")
    job = left.stdout.split()[1]
    assert left.stdout == f"submitted  {job}\nnext       beamclip status {run}\n"
    assert job.startswith(f"beam://{each_cluster.server}/")

    assert beamclip("status", run) == 4
    said = capsys.readouterr().out
    assert f"job       {job}\nstate     RUNNING\n" in said
    assert beamclip("label", "--output", run, "--resume") == 2
    assert f"job {job} of its runner; wait until that job has ended" in capsys.readouterr().err

    wait_for((run / "run.json").exists)
    assert not (run / "report.html").exists()
    lease = read_lease(Store(str(run)))
    assert lease is not None and (lease.runner_job, lease.expires) == (job, None)
    assert beamclip("status", run) == 0
    closing = " ".join(capsys.readouterr().out.split())
    assert "embedded 16" in closing and f"report {run}/report.html" in closing
    assert read_lease(Store(str(run))) is None
    kept = json.loads((run / "runs" / f"{lease.run_id}.json").read_text())
    assert (kept["command"], kept["max_failure_rate"], kept["embedded"]) == ("label", 0.05, 16)
    assert summary(run)["run_id"] == lease.run_id
    assert all_rows(run) == all_rows(waited)
    assert [name.split("/")[0] for name in written(run)] == [name.split("/")[0] for name in written(waited)]
    assert beamclip("status", run) == 0  # the second time it only tells
    assert "16 embedded + 0 failed" in capsys.readouterr().out
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0


def test_what_the_launcher_was_asked_holds_when_status_closes(
    cluster: Cluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    run = tmp_path / "run"
    options = cluster.options("--no-wait", "--max-failure-rate", "0.01")
    assert launch(tmp_path, *request(photos, run, FAST), *options).returncode == 4
    wait_for((run / "run.json").exists)
    assert beamclip("status", run, "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["problems"] == ["1 of 17 inputs failed, 5.9%; --max-failure-rate is 0.01"]
    assert "--max-failure-rate is 0.01" in told.err
    assert (run / "report.html").exists()


def test_labels_of_stored_embeddings_are_left_too(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert beamclip("embed", "--input", photos, "--output", run, "--encoder", FAST, "--quiet") == 0
    more = ["--from-run", run, "--prompts", "animals", "--output", other]
    assert launch(tmp_path, "label", *more, *cluster.options("--no-wait")).returncode == 4
    wait_for((other / "run.json").exists)
    assert beamclip("status", other) == 0
    assert list(summary(other)["labels"].values()) == [16]
    assert (other / "report.html").exists()


def test_a_later_resume_asks_the_runner_and_closes_the_run(
    cluster: Cluster, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert launch(tmp_path, *request(photos, run, FAST), *cluster.options("--no-wait")).returncode == 4
    wait_for((run / "run.json").exists)
    first = summary(run)["run_id"]
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert summary(run)["run_id"] != first
    assert (summary(run)["units_before"], summary(run)["embedded"]) == (4, 16)
    assert (run / "report.html").exists() and read_lease(Store(str(run))) is None


def test_a_cancelled_job_gives_the_output_free(
    cluster: Cluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    left = launch(tmp_path, *request(photos, run, SLOW), *cluster.options("--no-wait"))
    job = left.stdout.split()[1]
    with grpc.insecure_channel(cluster.server) as channel:
        stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
        stub.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=job.rsplit("/", 1)[1]))
    wait_for(lambda: job_state(job).ended is True)
    assert job_state(job).name in ("CANCELLED", "FAILED")
    assert beamclip("status", run) == 3
    told = capsys.readouterr().err
    assert f"the runner ended the job as {job_state(job).name}, before its last step" in told
    assert f"Go on with: beamclip label --output {run} --resume" in told
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert summary(run)["embedded"] == 16


def test_a_job_server_that_is_gone_leaves_the_output_held_until_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, run = free_port(), tmp_path / "run"
    command = [prism_binary(), "--job_port", str(port), "--serve_http=false", "--log_level", "warn"]
    with running(command, port), worker_pool(tmp_path) as pool:
        options = Cluster(server=f"localhost:{port}", pool=pool).options("--no-wait")
        assert launch(tmp_path, *request(photos, run, SLOW), *options).returncode == 4
    assert beamclip("status", run) == 1
    assert "state     unknown: " in capsys.readouterr().out
    assert beamclip("label", "--output", run, "--resume") == 2
    told = capsys.readouterr().err
    assert "give --take-over" in told and "Traceback" not in told
    assert beamclip("label", "--output", run, "--resume", "--take-over", "--quiet") == 0
    assert summary(run)["embedded"] == 16 and beamclip("status", run) == 0


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT])
def test_a_waiting_launcher_that_ends_leaves_its_job_running(
    cluster: Cluster, photos: Path, tmp_path: Path, ended_by: signal.Signals
) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        *map(str, request(photos, run, SLOW)),
        *cluster.options(),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as launcher:
        store = Store(str(run))
        wait_for(
            lambda: run.is_dir() and (held := read_lease(store)) is not None and held.runner_job is not None
        )
        launcher.send_signal(ended_by)
        said = launcher.communicate(timeout=60)[1]
    if ended_by == signal.SIGINT:
        assert launcher.returncode == 130
        assert f"the job {read_lease(store).runner_job} goes on without its launcher" in said
    assert beamclip("status", run) == 4
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 2
    wait_for((run / "run.json").exists)
    assert beamclip("status", run) == 0
    assert summary(run)["embedded"] == 16 and (run / "report.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--no-wait"],
        ["--no-wait", "--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
        [
            "--no-wait",
            "--runner",
            "PortableRunner",
            "--job_endpoint=localhost:1",
            "--environment_type=LOOPBACK",
        ],
        ["--no-wait", "--runner", "SparkRunner"],
    ],
)
def test_a_job_that_would_end_with_its_launcher_cannot_be_left(
    options: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert beamclip(*request(photos, tmp_path / "run", FAST), *options) == 2
    assert "this job would end with its launcher" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
