"""Whole jobs on real object-store servers that die, refuse or fail at random: nothing is lost, doubled or redone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.live import live_parts
from clip_transforms.storage import Store
from tests.faulty_jobs import faulty_job, fill
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.runs import all_rows, beamclip
from tests.servers import Server, gcs_server, s3_server
from tests.test_label_stores import downloaded, options_of

ROOT = Path(__file__).parent.parent
FAKE = ("--prompts", "everyday", "--encoder", "fake", "--quiet")


@pytest.fixture(
    scope="module",
    params=[pytest.param(gcs_server, marks=pytest.mark.gcs), pytest.param(s3_server, marks=pytest.mark.s3)],
    ids=["gcs", "s3"],
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each kind of server in turn, with 36 images; what is a secret comes from the environment."""
    with pytest.MonkeyPatch.context() as patch, request.param() as running:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        fill(running, 36)
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[FlakyProxy]:
    """A proxy in front of the server, passing everything on."""
    with flaky_proxy(server) as found:
        yield found


def label(server: Server, run: object, *more: object) -> list[str]:
    given = ("label", "--input", f"{server.url}/images/*.jpg", *FAKE, "--output", run)
    return [str(arg) for arg in (*given, *options_of(server), *more)]


def unlisted(store: Store) -> set[str]:
    listed = {part.name for parts in live_parts(store).values() for part in parts}
    return {entry.name for entry in store.list() if "/part-" in entry.name} - listed


def test_a_launcher_that_is_killed_is_resumed_without_redoing_what_is_finished(
    server: Server, tmp_path: Path
) -> None:
    run, fresh = (Store(f"{server.url}/{name}", server.storage_options) for name in ("killed", "fresh"))
    args = label(server, run.root, "--unit-size", 3)
    slow = [arg.replace("fake", "fake?wait_image_ms=40") if arg == "fake" else arg for arg in args]
    command = [sys.executable, "-m", "pipelines.cli", *slow]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while sum(1 for _ in run.list("commits/embed")) < 4:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    before = {entry.name: entry.version for entry in run.list("embeddings")}
    done = {entry.name.rpartition("/")[2].removesuffix(".json") for entry in run.list("commits/embed")}
    assert 4 <= len(done) < 12
    (one, *_) = done
    run.write(f"embeddings/part-{one}-embed-00000000-0.parquet", b"of an attempt that lost")

    assert beamclip(*slow, "--resume") == 0
    after = {entry.name: entry.version for entry in run.list("embeddings")}
    kept = {name: version for name, version in before.items() if any(unit in name for unit in done)}
    assert kept and kept.items() <= after.items()
    told = json.loads(run.read("run.json"))
    assert (told["units_before"], told["inputs"], told["embedded"]) == (len(done), 36, 36)
    assert not unlisted(run)

    assert beamclip(*label(server, fresh.root, "--unit-size", 50, "--encoder", "fake?wait_image_ms=40")) == 0
    assert rows_of(run, tmp_path / "run") == rows_of(fresh, tmp_path / "fresh")


def rows_of(store: Store, folder: Path) -> dict[str, list[dict[str, object]]]:
    found = all_rows(downloaded(store, folder))
    assert {name: len(rows) for name, rows in found.items() if name != "failures"}
    return found


def test_another_prompt_set_goes_over_a_run_in_a_bucket_and_beside_it(
    proxy: FlakyProxy, tmp_path: Path
) -> None:
    run = Store(f"{proxy.server.url}/views", proxy.server.storage_options)
    assert beamclip(*label(proxy.server, run.root)) == 0
    beside = Store(f"{proxy.server.url}/beside", proxy.server.storage_options)
    shared = (
        "label",
        "--from-run",
        run.root,
        "--prompts",
        "photo-kind",
        "--quiet",
        *options_of(proxy.server),
    )
    assert beamclip(*shared) == 0
    assert beamclip(*shared, "--output", beside.root) == 0
    tags = {name: len(rows) for name, rows in rows_of(run, tmp_path / "run").items()}
    assert sorted(tags.values()) == [0, 36, 36, 36] and len(tags) == 4
    (alone,) = [rows for name, rows in rows_of(beside, tmp_path / "beside").items() if "photo-kind" in name]
    (within,) = [rows for name, rows in rows_of(run, tmp_path / "run").items() if "photo-kind" in name]
    assert alone == within


def test_with_one_request_in_twenty_failing_nothing_is_lost_and_every_repeat_is_counted(
    proxy: FlakyProxy, tmp_path: Path
) -> None:
    calm, faulty = (
        Store(f"{proxy.behind.url}/{name}", proxy.behind.storage_options) for name in ("calm", "faulty")
    )
    assert beamclip(*label(proxy.behind, calm.root)) == 0
    told = faulty_job(
        proxy, label(proxy.server, faulty.root, "--unit-size", 4), seed=3, quick=True, patience_s=3
    )
    assert told.code == 0
    assert told.failed > 10
    assert told.again == told.failed == sum(told.counts.values())
    noted = json.loads(faulty.read("run.json"))["retries"]  # the report comes after it
    assert noted <= told.counts["ours"] and (noted > 0 or proxy.behind.url.startswith("gs"))
    assert rows_of(faulty, tmp_path / "faulty") == rows_of(calm, tmp_path / "calm")
    assert not unlisted(faulty)


def test_a_store_that_refuses_is_told_at_once_and_nothing_starts(
    proxy: FlakyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Store(f"{proxy.behind.url}/refused", proxy.behind.storage_options)
    s3 = proxy.behind.url.startswith("s3")
    for match, words in (
        ("PUT /" if s3 else "POST /", f"cannot write to the output {run.root}"),
        ("prefix=images", "images/*.jpg cannot be listed: access is denied"),
        ("prefix=refused%2Fplan" if s3 else "prefix=refused/plan", f"cannot list {run.root}/plan"),
    ):
        proxy.fail(403, match=match)
        assert beamclip(*label(proxy.server, run.root)) == 2
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1, said
        refused = [request for request in proxy.seen if match in request]
        assert len(set(refused)) == len(refused), refused  # each was asked once
    assert not list(run.list())


@pytest.mark.parametrize(
    ("url", "option", "environment"),
    [
        ("s3://bucket/run", "endpoint_url=http://127.0.0.1:9", {"AWS_EC2_METADATA_DISABLED": "true"}),
        ("s3://bucket/run", "profile=nobody", {}),
        ("gs://bucket/run", "token=google_default", {"GOOGLE_APPLICATION_CREDENTIALS": "/no/such/file"}),
    ],
)
def test_without_credentials_nothing_starts(
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    option: str,
    environment: dict[str, str],
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert beamclip("label", "--input", images, *FAKE, "--output", url, "--storage-option", option) == 2
    said = capsys.readouterr().err
    assert f"cannot list {url}/plan" in said and "credentials of this machine's environment" in said


def test_one_image_that_is_refused_is_a_failure_and_is_asked_for_once(
    proxy: FlakyProxy, tmp_path: Path
) -> None:
    run = Store(f"{proxy.server.url}/one", proxy.server.storage_options)
    proxy.fail(403, match="image00007.jpg")
    assert beamclip(*label(proxy.server, run.root)) == 0
    assert len([request for request in proxy.seen if "image00007.jpg" in request]) == 1
    proxy.fail(None)
    found = rows_of(run, tmp_path / "run")
    failures = [(row["uri"], row["stage"], row["reason"]) for row in found["failures"]]
    assert failures == [(f"{proxy.behind.url}/images/image00007.jpg", "fetch", "forbidden")]
    assert len(found["embeddings"]) == 35
