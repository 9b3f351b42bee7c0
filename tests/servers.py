"""Starts and stops real storage servers on loopback for tests: fake-gcs-server and moto's S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_START_S = 30


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server with one empty bucket."""

    url: str  # of the bucket: gs://... or s3://...
    storage_options: Mapping[str, object]
    endpoint: str


@contextlib.contextmanager
def gcs_server(bucket: str = "bucket") -> Iterator[Server]:
    """A Google Cloud Storage server; skips the test where fake-gcs-server is not installed.

    `go install github.com/fsouza/fake-gcs-server@latest` puts it into `$(go env GOPATH)/bin`.
    """
    program = _find("fake-gcs-server", _go_bin())
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command += ["-public-host", f"127.0.0.1:{port}", "-external-url", endpoint, "-log-level", "error"]
    with running(command, f"{endpoint}/storage/v1/b?project=test"):
        _post(f"{endpoint}/storage/v1/b?project=test", f'{{"name": "{bucket}"}}'.encode())
        options = {"endpoint_url": endpoint, "token": "anon", "project": "test"}
        yield Server(url=f"gs://{bucket}", storage_options=options, endpoint=endpoint)


@contextlib.contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[Server]:
    """An S3 server; skips the test where moto_server is not installed.

    `python -m venv .cache/moto && .cache/moto/bin/pip install 'moto[server]'` puts it beside the repository's
    other caches, apart from the library's own environment.
    """
    program = _find("moto_server", _ROOT / ".cache" / "moto" / "bin")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with running([program, "-H", "127.0.0.1", "-p", str(port)], f"{endpoint}/moto-api/"):
        _post(f"{endpoint}/{bucket}", b"", method="PUT")
        options = {
            "endpoint_url": endpoint,
            "key": "test",
            "secret": "test",
            "client_kwargs": {"region_name": "us-east-1"},
        }
        yield Server(url=f"s3://{bucket}", storage_options=options, endpoint=endpoint)


def _find(name: str, folder: Path | None) -> str:
    found = (folder and shutil.which(name, path=str(folder))) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def _go_bin() -> Path | None:
    if path := os.environ.get("GOPATH"):
        return Path(path, "bin")
    return Path.home() / "go" / "bin"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], ready: str, *, wait_s: float = _START_S) -> Iterator[None]:
    """A process, from when it answers at the url `ready` to the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + wait_s
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start: exit code {process.poll()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def _post(url: str, data: bytes, *, method: str = "POST") -> None:
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10):
        pass
