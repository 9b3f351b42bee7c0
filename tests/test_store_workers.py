"""Workers in processes of their own ask the store as `--storage-option` says, and by their own credentials."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.filesystems import open_filesystem
from clip_transforms.storage import Store
from tests.faulty_jobs import fill
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.runs import beamclip
from tests.servers import gcs_server, s3_server
from tests.test_label_stores import options_of

FAKE = ("--prompts", "everyday", "--encoder", "fake", "--quiet")
WORKER = f"env AWS_ACCESS_KEY_ID=OFTHEWORKER {sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
SEPARATE = ("--runner", "PortableRunner", "--job_endpoint=embed")
SEPARATE += ("--environment_type=beam:env:harness_subprocess_python:v1", f"--environment_config={WORKER}")


@pytest.fixture(
    params=[pytest.param(gcs_server, marks=pytest.mark.gcs), pytest.param(s3_server, marks=pytest.mark.s3)],
    ids=["gcs", "s3"],
)
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A server with 6 images behind a proxy that keeps all headers; what is a secret is in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OFTHELAUNCHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with request.param() as running, flaky_proxy(running) as found:
        fill(running, 6)
        found.headers = []
        yield found


def images_asked_for(proxy: FlakyProxy) -> list[tuple[str, dict[str, str]]]:
    """Requests for the bytes of an image, with their headers in lower case."""
    assert proxy.headers is not None
    return [
        (request, {name.lower(): value for name, value in headers.items()})
        for request, headers in proxy.headers
        if request.startswith("GET") and ".jpg" in request and "prefix=" not in request
    ]


def test_workers_of_a_portable_runner_are_told_the_options_and_use_their_own_credentials(
    proxy: FlakyProxy,
) -> None:
    run, s3 = f"{proxy.behind.url}/run", proxy.behind.url.startswith("s3")
    pays = ("--storage-option", "requester_pays=true" if s3 else "requester_pays=who-pays")
    asked = (
        "label",
        "--input",
        f"{proxy.behind.url}/images/*.jpg",
        *FAKE,
        "--output",
        run,
        "--unit-size",
        "2",
    )
    assert beamclip(*asked, *options_of(proxy.server), *pays, *SEPARATE) == 0
    requests = images_asked_for(proxy)
    assert len({request for request, _ in requests}) >= 6
    if s3:
        assert {headers.get("x-amz-request-payer") for _, headers in requests} == {"requester"}
        keys = [headers["authorization"].split("Credential=")[1].split("/")[0] for _, headers in requests]
        # The launcher tries one image before it starts, and reads some for the report.
        assert keys.count("OFTHEWORKER") == 6 and set(keys) == {"OFTHEWORKER", "OFTHELAUNCHER"}
    else:
        assert all("userProject=who-pays" in request for request, _ in requests)
    listed = {entry.name for entry in Store(run, proxy.behind.storage_options).list()}
    assert "run.json" in listed and "report.html" in listed


def test_an_anonymous_client_signs_nothing(proxy: FlakyProxy, tmp_path: Path) -> None:
    given = options_of(proxy.server)
    if proxy.behind.url.startswith("s3"):
        given = ["--storage-option", f"endpoint_url={proxy.server.endpoint}", "--storage-option", "anon=true"]
        filesystem, _ = open_filesystem(proxy.behind.url, proxy.behind.storage_options)
        filesystem.call_s3("put_bucket_acl", Bucket="bucket", ACL="public-read")
        for path in filesystem.ls("bucket/images"):
            filesystem.call_s3(
                "put_object_acl", Bucket="bucket", Key=path.partition("/")[2], ACL="public-read"
            )
    asked = (
        "label",
        "--input",
        f"{proxy.behind.url}/images/*.jpg",
        *FAKE,
        *given,
        "--output",
        tmp_path / "run",
    )
    assert beamclip(*asked) == 0
    assert len(images_asked_for(proxy)) >= 6
    assert not [
        request for request, headers in proxy.headers or () if "authorization" in map(str.lower, headers)
    ]
