"""Which process this is, so that another on the same machine can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process, told apart from all others: pids alone come back, with other processes and other boots."""

    host: str
    boot_id: str
    pid_namespace: str  # containers of one host and name count their pids apart
    pid: int
    started: str  # when: ticks since boot, elsewhere than on Linux the time

    def same_machine(self, other: ProcessId) -> bool:
        """Whether the other's pid means something here."""
        mine = (self.host, self.boot_id, self.pid_namespace)
        return mine == (other.host, other.boot_id, other.pid_namespace)


def this_process() -> ProcessId:
    """The calling process."""
    return ProcessId(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        started=start_of(os.getpid()) or "",
    )


def is_alive(process: ProcessId) -> bool:
    """Whether a process of this machine still runs; one that has ended and was not waited for does not."""
    return start_of(process.pid) == process.started


def start_of(pid: int) -> str | None:
    """When a process of this machine started; None where there is none, or it has ended.

    >>> start_of(os.getpid()) == start_of(os.getpid()), start_of(2**22 + 1)
    (True, None)
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]  # proc(5): state, and starttime in ticks since boot
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    # not Linux
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    state, _, started = subprocess.run(command, capture_output=True, text=True).stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # not Linux: there `started` tells boots apart


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
