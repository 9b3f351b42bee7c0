"""Dataflow jobs: what its service receives from Beam's own client, and that what was staged installs and runs.

There is no Dataflow to test against: the service is a stand-in on loopback, the bucket a real storage server.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "apache_beam.runners.dataflow.internal.apiclient", reason="apache-beam[gcp] is not installed"
)

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from clip_transforms.lease import read_lease
from clip_transforms.plan import read_extensions
from clip_transforms.storage import Store
from pipelines.flags import build_parser
from pipelines.launch import beam_options, parse
from tests.dataflow_kit import DataflowService, dataflow_service, run_staged
from tests.runners_kit import ROOT, environment, launch, loads
from tests.runs import beamclip
from tests.servers import Server, gcs_server

pytestmark = [pytest.mark.dataflow, pytest.mark.gcs]
IMAGE = "europe-docker.pkg.dev/my-project/images/beamclip:1"
ACCELERATOR = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
WORKERS = [
    *("--num_workers", "8", "--autoscaling_algorithm", "NONE", "--worker_machine_type", "n1-standard-8"),
    *("--experiments", "no_use_multiple_sdk_containers", "--number_of_worker_harness_threads", "4"),
]


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A project: its bucket and its Dataflow."""

    bucket: Server
    service: DataflowService

    @property
    def storage(self) -> list[str]:
        pairs = [f"{key}={value}" for key, value in self.bucket.storage_options.items()]
        return [part for pair in pairs for part in ("--storage-option", pair)]

    def options(self, *more: object) -> list[object]:
        """Of the runner."""
        where = [
            "--project",
            "my-project",
            "--region",
            "europe-west1",
            "--temp_location",
            "gs://bucket/temporary",
        ]
        local = ["--no_auth", "--dataflow_endpoint", self.service.endpoint]
        return ["--runner", "DataflowRunner", *where, *local, *more]

    def store(self, path: str) -> Store:
        return Store(f"gs://bucket/{path}", dict(self.bucket.storage_options))

    def staged(self, name: str) -> bytes:
        """A file that the newest job staged."""
        store = self.store("temporary")
        found = sorted(entry.name for entry in store.list() if entry.name.endswith(f"/{name}"))
        return store.read(found[-1])


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A project of the test's own."""
    with gcs_server() as bucket, dataflow_service() as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.endpoint)
        yield Cloud(bucket=bucket, service=service)


def request(images: Path, run: str) -> list[object]:
    options = ["--encoder", "fake", "--prompts", "everyday", "--unit-size", 3]
    return ["label", "--input", images, "--output", f"gs://bucket/{run}", *options]


def hints_of(cloud: Cloud) -> dict[str, dict[str, bytes]]:
    """Resource hints of each step of the graph that the newest job staged."""
    graph = beam_runner_api_pb2.Pipeline.FromString(cloud.staged("pipeline.pb")).components
    return {
        step.unique_name: dict(graph.environments[step.environment_id].resource_hints)
        for step in graph.transforms.values()
        if step.environment_id
    }


def test_the_service_gets_hints_image_packages_and_workers(cloud: Cloud, images: Path) -> None:
    more = ["--accelerator", ACCELERATOR, "--min-ram", "16GB", "--sdk_container_image", IMAGE]
    package = ["--setup_file", ROOT / "setup.py"]
    done = beamclip(*request(images, "run"), *cloud.storage, *cloud.options(*more, *package, *WORKERS))
    assert done == 4
    (job,) = cloud.service.jobs.values()
    (pool,) = job["environment"]["workerPools"]
    assert [package["name"] for package in pool["packages"]] == [
        "workflow.tar.gz",
        "submission_environment_dependencies.txt",
    ]
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert (pool["numWorkers"], pool["machineType"], pool["numThreadsPerWorker"]) == (8, "n1-standard-8", 4)
    assert pool["autoscalingSettings"] == {"algorithm": 1}  # AUTOSCALING_ALGORITHM_NONE
    assert "no_use_multiple_sdk_containers" in job["environment"]["experiments"]
    assert "use_multiple_sdk_containers" not in job["environment"]["experiments"]

    hints = hints_of(cloud)
    asked = {
        common_urns.resource_hints.ACCELERATOR.urn: ACCELERATOR.encode(),
        common_urns.resource_hints.MIN_RAM_BYTES.urn: b"16000000000",
    }
    encoding = {name for name, found in hints.items() if found}
    assert encoding == {name for name in hints if name.startswith("RunUnits/EmbedAndLabel")}
    assert {"RunUnits/EmbedAndLabel/Units", "RunUnits/EmbedAndLabel/EncodeTexts"} <= encoding
    assert all(hints[name] == asked for name in encoding)
    assert {"RunUnits/ReadUnits", "RunUnits/FinishRun"} <= set(hints) - encoding


def test_without_hints_there_is_one_environment(cloud: Cloud, images: Path) -> None:
    assert (
        beamclip(*request(images, "run"), *cloud.storage, *cloud.options("--sdk_container_image", IMAGE)) == 4
    )
    (job,) = cloud.service.jobs.values()
    (pool,) = job["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert not any(hints_of(cloud).values())
    names = [package["name"] for package in pool["packages"]]
    assert names == ["submission_environment_dependencies.txt"]


def test_what_is_staged_installs_and_runs_and_status_closes_the_job(
    cloud: Cloud,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    run = "gs://bucket/run"
    options = cloud.options("--setup_file", ROOT / "setup.py", "--accelerator", ACCELERATOR)
    more = ["--max-failure-rate", "0.5"]
    left = launch(tmp_path, *request(images, "run"), *more, *cloud.storage, *options)
    assert left.returncode == 4, left.stderr
    (name,) = cloud.service.jobs
    assert f"submitted  dataflow://my-project/europe-west1/{name}" in left.stdout
    console = f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{name}?project=my-project"
    assert f"console    {console}\n" in left.stdout and f"next       beamclip status {run}\n" in left.stdout
    assert beamclip("status", run, *cloud.storage) == 4
    assert "state     RUNNING" in capsys.readouterr().out
    assert beamclip("label", "--output", run, "--resume", *cloud.storage) == 2
    assert f"{name}" in capsys.readouterr().err

    package = tmp_path / "workflow.tar.gz"
    package.write_bytes(cloud.staged("workflow.tar.gz"))
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", installed, package], check=True, capture_output=True)
    worker = environment(tmp_path)
    path = f"{installed}:{ROOT / 'tests' / 'worker_site'}"
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("BEAMCLIP_TEST_LOADS", worker["BEAMCLIP_TEST_LOADS"])
    monkeypatch.chdir(tmp_path)
    where = subprocess.check_output(
        [sys.executable, "-c", "import clip_transforms; print(clip_transforms.__file__)"], text=True
    )
    assert where.startswith(str(installed))
    assert run_staged(cloud.staged("pipeline.pb")) == "DONE"
    assert list(loads(tmp_path).values()) == [1]  # of two worker processes, the one with the hints

    asked = cloud.service.asked
    assert beamclip("status", run, *cloud.storage) == 0
    assert cloud.service.asked == asked  # run.json of this job tells: no credentials are needed
    said = " ".join(capsys.readouterr().out.split())
    assert "embedded 12" in said and f"report {run}/report.html" in said
    store = cloud.store("run")
    assert read_lease(store) is None
    assert store.read("report.html")


def test_the_service_is_asked_whether_a_job_has_ended(
    cloud: Cloud, images: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = "gs://bucket/run"
    assert (
        beamclip(*request(images, "run"), *cloud.storage, *cloud.options("--sdk_container_image", IMAGE)) == 4
    )
    (name,) = cloud.service.jobs
    cloud.service.states[name] = "JOB_STATE_FAILED"
    assert beamclip("status", run, *cloud.storage) == 3
    assert "the runner ended the job as FAILED, before its last step" in capsys.readouterr().err
    del cloud.service.states[name]  # it was long ago
    assert beamclip("status", run, *cloud.storage) == 1
    assert f"answers 404 for the job {name}" in capsys.readouterr().out
    assert beamclip("label", "--output", run, "--resume", *cloud.storage) == 2
    assert "give --take-over" in capsys.readouterr().err
    assert f"answers 404 for the job {name}" in caplog.text
    cloud.service.states[name] = "JOB_STATE_CANCELLED"
    assert beamclip("label", "--output", run, "--resume", "--quiet", *cloud.storage) == 0


@pytest.mark.parametrize(("more", "precision"), [([], "bf16"), (["--precision", "fp16"], "fp16")])
def test_a_launcher_without_the_device_plans_for_workers_that_have_it(
    more: list[str], precision: str, cloud: Cloud, images: Path
) -> None:
    """fp16 is refused on a CPU; the launcher tries the weights in fp32, and the run is what was asked for."""
    options = ["--encoder", "beamclip-tiny", "--device", "cuda", *more]
    asked = [*request(images, "run"), *options, *cloud.storage]
    assert beamclip(*asked, *cloud.options("--sdk_container_image", IMAGE)) == 4
    (extension,) = read_extensions(cloud.store("run"))
    assert extension.config["identity"]["precision"] == precision
    assert (
        beamclip(
            "embed",
            *asked[1:3],
            "--output",
            "gs://bucket/other",
            "--encoder",
            "beamclip-tiny",
            *cloud.storage,
        )
        == 0
    )
    (other,) = read_extensions(cloud.store("other"))
    assert other.config["identity"]["precision"] == "fp32"
    assert other.config["fingerprint"] != extension.config["fingerprint"]
    assert other.config["weights_id"] == extension.config["weights_id"]


def test_a_flex_template_launcher_leaves_its_own_job_and_exits_0(
    cloud: Cloud, images: Path, tmp_path: Path
) -> None:
    """The service gives its launcher the options of the launch, as one word each, and where the job is to go."""
    location = "gs://bucket/staging/template_launches/2026-01-01_00_00_00-7/job_object"
    pairs = [*cloud.options(), "--template_location", location, "--sdk_container_image", IMAGE]
    given = [str(part) for part in [*request(images, "run")[1:], *cloud.storage, *pairs]]
    words: list[str] = []
    for part in given:
        if part.startswith("--"):
            words.append(part)
        else:
            words[-1] += f"={part}"
    script = ROOT / "pipelines" / "label.py"
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert cloud.service.jobs == {}  # the service submits what is in the file
    assert b'"workerPools"' in cloud.store("staging").read(
        "template_launches/2026-01-01_00_00_00-7/job_object"
    )
    lease = read_lease(cloud.store("run"))
    assert lease is not None and lease.runner_job is not None and lease.expires is None
    assert lease.runner_job.startswith("dataflow://my-project/europe-west1/2026-01-01_00_00_00-7")
    cloud.service.states["2026-01-01_00_00_00-7"] = "JOB_STATE_QUEUED"
    assert beamclip("status", "gs://bucket/run", *cloud.storage) == 4


@pytest.mark.parametrize(
    ("without", "more", "told"),
    [
        ("--project", [], "--project is missing"),
        ("--region", [], "--region is missing"),
        ("--temp_location", [], "--temp_location is missing"),
        ("--sdk_container_image", [], "its workers need this package"),
        (
            None,
            ["--template_location", "gs://bucket/template"],
            "a classic template would run again and again",
        ),
        (None, ["--accelerator", "ünbekannt"], "--accelerator ünbekannt"),
        (None, ["--min-ram", "much"], "--min-ram much"),
        (None, ["--num_workers", "9", "--max_num_workers", "2"], "cannot exceed max_num_workers"),
        (None, ["--project", "Not A Project"], "Invalid Project ID"),
        (
            None,
            ["--accelerator", ACCELERATOR, "--dataflow_service_options", f"worker_accelerator={ACCELERATOR}"],
            "exclude each other",
        ),
    ],
)
def test_what_dataflow_lacks_is_said_before_anything_is_written(
    without: str | None,
    more: list[str],
    told: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {
        "--project": "my-project",
        "--region": "europe-west1",
        "--temp_location": "gs://bucket/temporary",
        "--sdk_container_image": IMAGE,
    }
    given.pop(without or "", None)
    options = [part for pair in given.items() for part in pair]
    run = tmp_path / "run"
    code = beamclip(
        *("label", "--input", images, "--output", run, "--prompts", "everyday", "--encoder", "fake"),
        *("--runner", "DataflowRunner", *options, *more),
    )
    assert code == 2
    assert told in capsys.readouterr().err
    assert not run.exists()


def test_a_dry_run_opens_no_connection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does it look for a metadata server: the request has credentials, in a file."""
    opened: list[Any] = []
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: opened.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: opened.append(address))
    where = [
        "--project",
        "my-project",
        "--region",
        "europe-west1",
        "--temp_location",
        "gs://bucket/temporary",
    ]
    code = beamclip(
        *(
            "label",
            "--input",
            "gs://bucket/photos/*.jpg",
            "--output",
            "gs://bucket/run",
            "--prompts",
            "animals",
        ),
        *(
            "--encoder",
            "fake",
            "--dry-run",
            "--runner",
            "DataflowRunner",
            *where,
            "--sdk_container_image",
            IMAGE,
        ),
        *("--accelerator", ACCELERATOR, "--min-ram", "16GB", *WORKERS),
    )
    said = capsys.readouterr().out
    assert (code, opened) == (0, [])
    assert f"image     {IMAGE}" in said
    assert f"RunUnits/EmbedAndLabel  (accelerator={ACCELERATOR}, min_ram=16GB)" in said
    assert "num_workers = 8" in said and "number_of_worker_harness_threads = 4" in said


def commands_of_the_docs() -> list[list[str]]:
    """The words of each `beamclip` command of docs/dataflow.md, placeholders left out."""
    text = (ROOT / "docs" / "dataflow.md").read_text()
    lines = [
        line
        for block in re.findall(r"```\n(.*?)```", text, re.S)
        for line in block.replace("\\\n", "").splitlines()
    ]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("beamclip ")]
    return [[word for word in words[1:] if word != "..."] for words in found if words[1:2] != ["label,"]]


def test_the_docs_show_what_a_dry_run_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    (command,) = [words for words in commands_of_the_docs() if "--dry-run" in words]
    assert beamclip(*command) == 0
    assert f"```\n{capsys.readouterr().out}```" in (ROOT / "docs" / "dataflow.md").read_text()


def test_every_command_of_the_docs_is_understood() -> None:
    commands = commands_of_the_docs()
    assert [words[0] for words in commands] == ["label", "status", "label", "label", "label"]
    for words in commands:
        if words[0] == "label":
            parser = build_parser("label", "", labels=True)
            known, rest, unchecked = parse(parser, words[1:])
            assert unchecked == []
            if "--dry-run" in words:
                beam_options(parser, known.runner, rest, [])
