"""The engine's fetch and decode stages in processes, with pixels in shared memory and crashes contained."""

from __future__ import annotations

import logging
import sys
import threading
from functools import partial
from queue import SimpleQueue

from clip_transforms.elements import Failure, Reason, RequestError, Stage
from clip_transforms.encoders.base import Preprocess
from clip_transforms.engine.child import DECODING, FETCHING, Reply, Setup
from clip_transforms.engine.options import EngineOptions
from clip_transforms.engine.process import DecodeProcess, DecodeProcessError
from clip_transforms.engine.stages import Outlet, guarded, start_thread
from clip_transforms.engine.units import Task

_logger = logging.getLogger(__name__)
_STARTS = 3  # a process that does not come up is tried so often
_TRIES = 2  # an image that was in so many crashed processes is tried alone, and then so often


class ProcessStages:
    """P processes, each fetching and decoding in threads; this one only moves pixels into batches.

    A process that ends by itself is replaced. Of the images it held, those it was decoding (if it was
    decoding none: those it was fetching) and those that a crash hit before are tried once more, each alone in
    a process, and should that end too, in a fresh one: what ends that as well is a `crashed_worker` failure.
    (Something else may have ended the first: the image before, or the system.) The others are queued again.
    """

    def __init__(self, outlet: Outlet, *, options: EngineOptions, preprocess: Preprocess) -> None:
        if not sys.executable:
            raise RequestError("fetch_processes needs the path of a Python interpreter; leave it at 0 here")
        count = options.fetch_processes
        fetch_threads = -(-options.fetch_threads // count)
        decode_threads = -(-options.decode_threads_here() // count)
        self._outlet = outlet
        self._setup = Setup(
            fetch=options.fetch,
            decode=options.decode,
            preprocess=preprocess,
            fetch_threads=fetch_threads,
            decode_threads=decode_threads,
            slots=fetch_threads + 4 * decode_threads,
        )
        self._closed = False
        self._lock = threading.Lock()
        self._processes: set[DecodeProcess] = set()
        self._work: SimpleQueue[Task | None] = SimpleQueue()
        self._suspects: SimpleQueue[Task | None] = SimpleQueue()
        self._threads = [
            start_thread(f"beamclip-process-{number}", guarded(self._dispatch, outlet))
            for number in range(count)
        ]
        self._threads.append(start_thread("beamclip-process-alone", guarded(self._quarantine, outlet)))

    def put(self, task: Task) -> None:
        """Queue a task for the next process with room."""
        self._work.put(task)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [process.pid for process in self._processes]

    def close(self) -> list[threading.Thread]:
        """End the processes and the threads."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        self._suspects.put(None)
        with self._lock:
            processes, self._processes = self._processes, set()
        for process in processes:
            process.end()
        return self._threads

    def _start(self) -> DecodeProcess:
        for attempt in range(1, _STARTS + 1):
            try:
                process = DecodeProcess(self._setup)
                break
            except DecodeProcessError as error:
                if attempt == _STARTS or self._closed:
                    raise DecodeProcessError(f"{error}; it did not come up {attempt} times") from None
        with self._lock:
            if not self._closed:
                self._processes.add(process)
                return process
        process.end()
        return process

    def _dispatch(self) -> None:
        process: DecodeProcess | None = None
        while not self._closed:
            if process is None or process.dead:
                process = self._start()
                receive = guarded(partial(self._receive, process), self._outlet)
                start_thread(f"beamclip-receive-{process.pid}", receive)
            slot = process.free.get()
            if slot is None:
                continue
            task = self._work.get()
            if task is None:
                return
            if task.unit.dead:
                self._outlet.dropped(task)
                process.free.put(slot)
            elif not process.begin(slot, task):
                self._work.put(task)

    def _receive(self, process: DecodeProcess) -> None:
        try:
            while True:
                self._reply(process, process.connection.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._ended(process)

    def _reply(self, process: DecodeProcess, reply: Reply) -> None:
        with process.lock:
            task = process.tasks.pop(reply.slot)
        self._finish(process, task, reply)
        process.free.put(reply.slot)

    def _finish(self, process: DecodeProcess, task: Task, reply: Reply) -> None:
        if reply.refusal is not None:
            task.unit.fail(RequestError(reply.refusal))
            self._outlet.dropped(task)
        elif reply.error is not None:
            stage, reason, message, attempts = reply.error
            self._outlet.failed(task, _failure(task, Stage(stage), Reason(reason), message, attempts))
        elif task.unit.dead or reply.info is None:
            self._outlet.dropped(task)
        else:
            task.info, task.fetch_s, task.decode_s = reply.info, reply.fetch_s, reply.decode_s
            self._outlet.fetched(task, reply.info.bytes)
            self._outlet.decoded(task, process.shared.pixels[reply.slot])

    def _ended(self, process: DecodeProcess) -> None:
        """Take stock of a process that is gone, or cannot be understood: its images go on elsewhere."""
        code = process.end()
        with process.lock:
            process.dead = True
            left, process.tasks = process.tasks, {}
        process.connection.close()
        with self._lock:
            self._processes.discard(process)
        process.free.put(None)
        if self._closed:
            return
        _logger.warning(
            "a decode process ended with exit code %d; %d images are tried again", code, len(left)
        )
        states = {slot: int(process.shared.states[slot]) for slot in left}
        guilty = DECODING if DECODING in states.values() else FETCHING
        for slot, task in left.items():
            task.crashes += 1
            alone = states[slot] == guilty or task.crashes >= _TRIES
            (self._suspects if alone else self._work).put(task)

    def _quarantine(self) -> None:
        process: DecodeProcess | None = None
        while (task := self._suspects.get()) is not None and not self._closed:
            if task.unit.dead:
                self._outlet.dropped(task)
                continue
            for _ in range(_TRIES):
                process = process or self._start()
                try:
                    process.begin(0, task)
                    reply: Reply = process.connection.recv()
                except (EOFError, OSError):
                    self._discard(process)
                    process = None
                    task.crashes += 1
                else:
                    self._finish(process, task, reply)
                    break
            else:
                self._crashed(task)
            if process is not None and self._suspects.empty():  # crashes are rare: do not keep it
                self._discard(process)
                process = None
        if process is not None:
            self._discard(process)

    def _crashed(self, task: Task) -> None:
        if self._closed:
            return
        message = "the process that read it died, and so did two more that had only this image"
        attempts = task.crashes
        self._outlet.failed(task, _failure(task, Stage.DECODE, Reason.CRASHED_WORKER, message, attempts))

    def _discard(self, process: DecodeProcess) -> None:
        process.close()
        with self._lock:
            self._processes.discard(process)


def _failure(task: Task, stage: Stage, reason: Reason, message: str, attempts: int) -> Failure:
    return Failure(
        image_id=task.ref.image_id,
        uri=task.ref.uri,
        stage=stage,
        reason=reason,
        message=message,
        attempts=attempts,
    )
