"""Threads of this process for most units, and a process of their own for those whose images may kill it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import replace

from clip_transforms.encoders.base import Preprocess
from clip_transforms.engine.options import EngineOptions
from clip_transforms.engine.processes import ProcessStages
from clip_transforms.engine.stages import Outlet, Stages, ThreadStages
from clip_transforms.engine.units import Task

_logger = logging.getLogger(__name__)


class ContainedStages:
    """A second set of stages beside the threads, started with the first unit that is to be contained.

    Both sets feed the same batches and share the engine's budget; the process has as many threads as this one.
    """

    def __init__(self, outlet: Outlet, *, options: EngineOptions, preprocess: Preprocess) -> None:
        self._outlet = outlet
        self._options = options
        self._preprocess = preprocess
        self._lock = threading.Lock()
        self._closed = False
        self._process: Stages | None = None
        self._threads = ThreadStages(
            outlet,
            fetch=options.fetch,
            decode=options.decode,
            preprocess=preprocess,
            fetch_threads=options.fetch_threads,
            decode_threads=options.decode_threads_here(),
        )

    def put(self, task: Task) -> None:
        """Queue a task with its unit's stages."""
        if not task.unit.contained:
            self._threads.put(task)
            return
        stages = self._contained()
        if stages is None:
            self._outlet.dropped(task)
        else:
            stages.put(task)

    def close(self) -> list[threading.Thread]:
        """End the process and the threads."""
        with self._lock:
            self._closed = True
        ending = self._process.close() if self._process else []
        return [*ending, *self._threads.close()]

    def _contained(self) -> Stages | None:
        """The stages of contained units; None once closed."""
        with self._lock:
            if self._closed:
                return None
            if self._process is None:
                self._process = self._start()
            return self._process

    def _start(self) -> Stages:
        if not can_contain():
            _logger.warning("decode processes need a POSIX system and sys.executable: decoding in this one")
            return self._threads
        options = replace(self._options, fetch_processes=1)
        return ProcessStages(self._outlet, options=options, preprocess=self._preprocess)


def can_contain() -> bool:
    """Whether decode processes can be had on this machine."""
    return os.name == "posix" and bool(sys.executable)


def make_stages(outlet: Outlet, *, options: EngineOptions, preprocess: Preprocess) -> Stages:
    """Processes where the options ask for them, else threads with a process for units that are contained."""
    kind = ProcessStages if options.fetch_processes else ContainedStages
    return kind(outlet, options=options, preprocess=preprocess)
