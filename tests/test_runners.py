"""The whole job on Beam's other local runners: the rows of the in-process runner, one encoder a worker process."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.flags import build_parser
from pipelines.launch import beam_options
from pipelines.runners import canonical, outlives_launcher, workers_here
from tests.helpers import image_bytes, make_image
from tests.runners_kit import launch, loads, prism_binary, prism_server, worker_pool
from tests.runs import all_rows, beamclip, summary

_SUBPROCESS = "beam:env:harness_subprocess_python:v1"
_WORKER = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
#: Resource hints, of which these runners know nothing.
HINTS = ["--accelerator", "type:nvidia-tesla-t4;count:1", "--min-ram", "1GB"]
PRISM = pytest.mark.prism


@contextlib.contextmanager
def prism_here(_: Path) -> Iterator[list[str]]:
    """Prism as a child of the launcher, the workers as its threads."""
    yield ["--runner", "PrismRunner", "--prism_location", prism_binary()]


@contextlib.contextmanager
def prism_apart(folder: Path) -> Iterator[list[str]]:
    """Prism as a server, the workers as processes of a pool."""
    with prism_server() as server, worker_pool(folder) as pool:
        portable = ["--runner", "PortableRunner", "--job_endpoint", server]
        yield [*portable, "--environment_type", "EXTERNAL", "--environment_config", pool, *HINTS]


@contextlib.contextmanager
def embedded(_: Path) -> Iterator[list[str]]:
    """The embedded portable runner, its workers as threads of the launcher."""
    yield ["--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


@contextlib.contextmanager
def embedded_process(_: Path) -> Iterator[list[str]]:
    """The embedded portable runner, its worker as a process."""
    portable = ["--runner", "PortableRunner", "--job_endpoint=embed", *HINTS]
    yield [*portable, f"--environment_type={_SUBPROCESS}", f"--environment_config={_WORKER}"]


@contextlib.contextmanager
def two_processes(_: Path) -> Iterator[list[str]]:
    """Two worker processes at once."""
    yield ["--runner", "FnApiRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty JPEGs, an empty file, a text, and a picture cut in half."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(60):
        (folder / f"image{number:02d}.jpg").write_bytes(image_bytes(make_image(number)))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"text")
    whole = image_bytes(make_image(99, (300, 300)))
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
        4,
        "--max-failure-rate",
        1,
        "--quiet",
        "--threads",
        1,
    ]
    return ["label", "--input", pictures, "--output", run, "--prompts", "samples", "everyday", *options]


@pytest.mark.parametrize(
    ("runner", "processes"),
    [
        pytest.param(prism_here, 1, marks=PRISM),
        pytest.param(prism_apart, 1, marks=PRISM),
        (embedded, 1),
        (embedded_process, 1),
        (two_processes, 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_same_rows_and_one_encoder_a_worker_process(
    runner: object, processes: int, pictures: Path, expected: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with runner(tmp_path) as options:  # type: ignore[operator]
        done = launch(tmp_path, *request(pictures, run), *options)
    assert done.returncode == 0, done.stderr
    told = "only Dataflow knows resource hints of single steps: --accelerator and --min-ram left out"
    assert (told in done.stderr) == (HINTS[0] in options)
    assert_same_rows(run, expected)
    assert sorted(loads(tmp_path).values()) == [1] * processes
    told = summary(run)
    assert (told["inputs"], told["embedded"], told["failed"]) == (63, 60, 3)
    assert told["units"] == {"planned": 16, "committed": 16}
    assert told["labels"] == dict.fromkeys(told["labels"], 60) and len(told["labels"]) == 2
    assert beamclip("status", run) == 0


def assert_same_rows(run: Path, expected: Path) -> None:
    """Every row of every data set: embeddings within 1e-6, scores made from them within 1e-5, the rest equal."""
    found, wanted = all_rows(run), all_rows(expected)
    assert list(found) == list(wanted)
    for folder, rows in wanted.items():
        assert len(found[folder]) == len(rows)
        for one, other in zip(found[folder], rows, strict=True):
            assert list(one) == list(other)
            for column in other:
                tolerance = 1e-6 if column == "embedding" else 1e-5
                assert _same(one[column], other[column], tolerance), (
                    folder,
                    column,
                    one[column],
                    other[column],
                )


def _same(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], tolerance) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(partial(_same, tolerance=tolerance), one, other))
    return one == other


@pytest.mark.parametrize(
    "name", ["DaskRunner", "daskrunner", "Dask", "apache_beam.runners.dask.dask_runner.DaskRunner"]
)
def test_dask_is_refused_with_the_reason(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert (
        beamclip("label", "--input", images, "--output", run, "--prompts", "everyday", "--runner", name) == 2
    )
    assert "refused, it loses rows of bundles that a worker tries again" in capsys.readouterr().err
    assert not run.exists()


def test_dask_is_refused_behind_a_double_dash_too(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--runner", "PortableRunner", "--", "--runner=DaskRunner"]
    assert (
        beamclip("label", "--input", images, "--output", tmp_path / "run", "--prompts", "everyday", *options)
        == 2
    )
    assert "refused" in capsys.readouterr().err


def test_prism_is_never_downloaded_unasked(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GOPATH", str(tmp_path / "go"))
    request = ["label", "--input", images, "--output", tmp_path / "run", "--prompts", "everyday"]
    assert beamclip(*request, "--runner", "PrismRunner") == 2
    said = capsys.readouterr().err
    assert "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.74.0" in said
    assert "--prism_location" in said
    assert beamclip(*request, "--runner", "PrismRunner", "--prism_location", tmp_path / "none") == 2
    assert "no such file" in capsys.readouterr().err


def test_runners_are_found_by_any_of_their_names(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert canonical("prism") == "PrismRunner"
    # Beam's own DirectRunner tries to download Prism: no spelling of it may reach Beam.
    run = tmp_path / "run"
    request = ["label", "--input", images, "--prompts", "everyday", "--encoder", "fake", "--quiet"]
    assert beamclip(*request, "--output", run, "--runner", "directrunner") == 0
    assert beamclip(*request, "--output", tmp_path / "other", "--runner", "Spurk") == 2
    assert "Beam has no such runner, did you mean SparkRunner?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "here", "outlives"),
    [
        ([], True, False),
        (["--direct_running_mode=multi_processing"], False, False),
        (["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"], True, False),
        (
            ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=LOOPBACK"],
            True,
            False,
        ),
        (["--runner=PortableRunner", "--job_endpoint=localhost:1"], False, True),
        (["--runner=SparkRunner"], False, False),
        (["--runner=FlinkRunner", "--job_endpoint=flink:8099"], False, True),
    ],
)
def test_where_workers_and_jobs_live(options: list[str], here: bool, outlives: bool) -> None:
    parser = build_parser("label", "", labels=True)
    args, rest = parser.parse_known_args(options)
    found = beam_options(parser, getattr(args, "runner", None), rest, [])
    assert (workers_here(found), outlives_launcher(found)) == (here, outlives)
