"""One decode process, seen from the engine: started so that it works anywhere, with its slots and its tasks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from clip_transforms.elements import BeamclipError
from clip_transforms.engine.child import Request, Setup, SharedSlots
from clip_transforms.engine.units import Task

#: Neither multiprocessing's spawn (which imports the parent's __main__: not possible from standard input, a
#: notebook or a Beam worker) nor `-m` (whose sys.path may lack what the parent's has).
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from clip_transforms.engine.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class DecodeProcessError(BeamclipError):
    """Decode processes cannot be started here."""


class DecodeProcess:
    """One decode process and what it works on."""

    def __init__(self, setup: Setup) -> None:
        """Starts it and waits until it is ready; raises DecodeProcessError if it ends before."""
        ours, theirs = socket.socketpair()
        memory = _anonymous_file()
        try:
            self.shared = SharedSlots(memory, slots=setup.slots, preprocess=setup.preprocess, create=True)
            path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), str(memory), path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
            )
        finally:
            theirs.close()
            os.close(memory)
        self.connection = Connection(ours.detach())
        self.pid = self._popen.pid
        self.free: SimpleQueue[int | None] = SimpleQueue()  # slots; None: the process has ended
        self.lock = threading.Lock()
        self.tasks: dict[int, Task] = {}
        self.dead = False
        try:
            self.connection.send(setup)
            self.connection.recv()
        except (EOFError, OSError):
            raise DecodeProcessError(f"a decode process ended with exit code {self.end()}") from None
        for slot in range(setup.slots):
            self.free.put(slot)

    def begin(self, slot: int, task: Task) -> bool:
        """Send a task; False if the process has ended. From one thread only."""
        with self.lock:
            if self.dead:
                return False
            self.tasks[slot] = task
        with contextlib.suppress(OSError):  # it has just ended: the task is then among those it left
            self.connection.send(Request(slot, task.ref.url, task.data))
        return True

    def close(self) -> None:
        """End it and let go of the connection."""
        self.end()
        self.connection.close()

    def end(self) -> int:
        """Kill it, if it still runs; its exit code."""
        self._popen.kill()
        return self._popen.wait()


def _anonymous_file() -> int:
    """A descriptor of memory (or, where the system has no memfd, of an unlinked temporary file)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("beamclip")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
