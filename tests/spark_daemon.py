"""Processes of a test on loopback: started until they answer, their output kept, killed with all they started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
_START_S = 120.0


class NotStarted(Exception):
    """A process of the cluster ended, or something did not come in time."""


def wait_for(what: str, found: Callable[[], object], *, seconds: float = _START_S) -> None:
    """Wait until `found()` is true; raises NotStarted after `seconds`."""
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline:
            raise NotStarted(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


@dataclass(kw_only=True)
class Daemon:
    """One process with what it starts, its output in a file, and killed with all of it."""

    name: str
    command: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, port: int | None = None, says: str | None = None) -> None:
        """Start it and wait until the port answers and its output has `says`."""
        # Where this process is killed, so is that one.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [*bound, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), **self.env},
                start_new_session=True,
            )
        wait_for(self.name, lambda: self._ready(port, says))

    def _ready(self, port: int | None, says: str | None) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise NotStarted(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
        return (port is None or answers(port)) and (says is None or says in self.log.read_text())

    @property
    def pid(self) -> int:
        """Of the process itself."""
        assert self.process is not None
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """What it has started, and these."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL, also to what it has started; harmless when it has ended."""
        if self.process is None:
            return
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def tail(self, lines: int = 20) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def environment() -> dict[str, str]:
    """This one, with this source tree and this Python first: a worker pool starts `python` by name."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sources = os.pathsep.join([str(ROOT / "tests" / "worker_site"), str(ROOT)])
    return {**os.environ, "PATH": path, "PYTHONPATH": sources}


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0
