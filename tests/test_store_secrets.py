"""What must not be seen is not: credentials of a whole job, looked for in everything that it writes and prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_transforms.storage import Store
from tests.faulty_jobs import fill
from tests.flaky_proxy import flaky_proxy
from tests.helpers import image_bytes, make_image
from tests.runs import beamclip
from tests.servers import s3_server
from tests.test_label_stores import downloaded

ROOT = Path(__file__).parent.parent
_NAMES = (
    "signature password manifest_signature row_signature row_password access_key secret_key session_token"
)
SECRETS = {name: f"hush{number}{name.replace('_', '')}" for number, name in enumerate(_NAMES.split())}
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": SECRETS["access_key"],
    "AWS_SECRET_ACCESS_KEY": SECRETS["secret_key"],
    "AWS_SESSION_TOKEN": SECRETS["session_token"],
    "AWS_DEFAULT_REGION": "us-east-1",
}
pytestmark = pytest.mark.s3


def texts(run: Path) -> Iterator[tuple[str, str]]:
    """(name, content) of every file, those in Parquet unpacked with their schema and its metadata."""
    for path in run.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield path.name, f"{table.schema} {table.schema.metadata} {table.to_pylist()}"
        elif path.is_file():
            yield path.name, path.read_bytes().decode("latin-1")


def test_no_credential_is_in_anything_that_a_job_writes_or_prints(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3_server() as server, flaky_proxy(server) as proxy:
        fill(server, 4)
        bucket = Store(server.url, server.storage_options)
        for name in ("signed.jpg", "user.jpg", "row.jpg", "other.jpg"):
            bucket.write(name, image_bytes(make_image(hash(name) % 100)))
        there = f"{proxy.server.endpoint.removeprefix('http://')}/bucket"
        rows = [
            f"http://{there}/row.jpg?X-Amz-Signature={SECRETS['row_signature']}",
            f"http://me:{SECRETS['row_password']}@{there}/other.jpg",
            f"http://{there}/missing.jpg?X-Amz-Signature={SECRETS['row_signature']}",
            f"http://127.0.0.1:9/nobody.jpg?sig={SECRETS['row_signature']}",
        ]
        bucket.write("list.csv", "\n".join(["url", *rows]).encode())
        inputs = [
            f"http://{there}/signed.jpg?X-Amz-Signature={SECRETS['signature']}&X-Amz-Expires=60",
            f"http://me:{SECRETS['password']}@{there}/user.jpg",
            f"http://{there}/list.csv?X-Amz-Signature={SECRETS['manifest_signature']}",
            f"{server.url}/images/*.jpg",
        ]
        asked = ("label", "--input", *inputs, "--prompts", "everyday", "--encoder", "fake", "--timeout", "5")
        option = ("--storage-option", f"endpoint_url={proxy.server.endpoint}", "--max-failure-rate", "1")
        option += ("--allow-private-urls",)
        proxy.fault = lambda number, request: "cut" if number % 15 == 0 and "/run" in request else None
        printed = run(*asked, *option, "--output", f"{server.url}/run", "--verbose", code=0)
        asked_for = "".join(proxy.seen)
        assert SECRETS["signature"] in asked_for and SECRETS["row_signature"] in asked_for
        proxy.fault = lambda number, request: 403 if "/third/embeddings" in request else None
        assert beamclip(*asked, *option, "--output", f"{server.url}/third", "--verbose") == 3
        proxy.fail(403)
        assert beamclip(*asked, *option, "--output", f"{server.url}/other") == 2
        printed += "".join((*capfd.readouterr(), caplog.text))
        told = dict(texts(downloaded(Store(f"{server.url}/run", server.storage_options), tmp_path / "run")))
    assert {"run.json", "report.html", "plan.json"} <= told.keys()
    assert "nobody.jpg" in "".join(told.values()) and "again after" in printed
    told["printed"] = printed
    for name, secret in SECRETS.items():
        assert {file for file, text in told.items() if secret in text} == set(), name


def run(*args: str, code: int) -> str:
    """What a command prints, on both streams."""
    command = [sys.executable, "-m", "pipelines.cli", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr
