"""Real job servers and worker pools on loopback, `beamclip` in a process of its own, and its encoder loads counted."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_LOADS = "loads.log"
_START_S = 60


def prism_binary() -> str:
    """Beam's Prism; skips the test where it is not installed.

    `go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.74.0` puts it into `$(go env GOPATH)/bin`.
    """
    folder = Path(os.environ.get("GOPATH") or Path.home() / "go", "bin")
    found = shutil.which("prism", path=str(folder)) or shutil.which("prism")
    if not found:
        pytest.skip("prism is not installed")
    return found


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a launcher or a worker: this source first, this Python first on the PATH, loads of encoders kept."""
    paths = [str(ROOT / "tests" / "worker_site"), str(ROOT)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "BEAMCLIP_TEST_LOADS": str(folder / _LOADS),
        **more,
    }


def loads(folder: Path) -> dict[int, int]:
    """How often each process loaded an encoder for its engine: pid -> times."""
    found: dict[int, int] = {}
    path = folder / _LOADS
    for pid in re.findall(r"^process (\d+) loaded ", path.read_text() if path.exists() else "", re.M):
        found[int(pid)] = found.get(int(pid), 0) + 1
    return found


def launch(
    folder: Path, *args: object, timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """`beamclip ...` to its end, in a process of its own."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(folder, **more), capture_output=True, text=True, timeout=timeout
    )


@contextlib.contextmanager
def prism_server() -> Iterator[str]:
    """A Prism that outlives its clients; its HOST:PORT."""
    port = free_port()
    with running(
        [prism_binary(), "--job_port", str(port), "--serve_http=false", "--log_level", "warn"], port
    ):
        yield f"localhost:{port}"


@contextlib.contextmanager
def job_service() -> Iterator[str]:
    """Beam's embedded portable runner as a server of its own; its HOST:PORT."""
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    with running([sys.executable, "-m", module, "--port", str(port)], port):
        yield f"localhost:{port}"


@contextlib.contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """A pool that starts a Python process for each worker that it is asked for; its HOST:PORT."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "apache_beam.runners.worker.worker_pool_main",
        "--service_port",
        str(port),
    ]
    with running(command, port, environment(folder)):
        yield f"localhost:{port}"


@contextlib.contextmanager
def running(
    command: list[str], port: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server and all that it starts, from when it listens until the block ends."""
    with subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{command[:3]} did not start: exit code {process.poll()}")
                time.sleep(0.05)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return True
    except OSError:
        return False
