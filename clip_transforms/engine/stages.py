"""The engine's fetch and decode stages in threads of this process, and what any such stages look like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from clip_transforms.elements import Failure, ImageError, ImageInfo, ImageRef, Reason, RequestError, Stage
from clip_transforms.encoders.base import Preprocess, UInt8
from clip_transforms.engine.encode import describe
from clip_transforms.engine.fetchers import Fetchers
from clip_transforms.engine.units import Task
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions, decode_to_pixels


class Outlet(Protocol):
    """Where stages hand on what they did; each task ends in exactly one of decoded, failed and dropped."""

    def fetched(self, task: Task, size: int) -> None: ...
    def decoded(self, task: Task, pixels: UInt8) -> None: ...
    def failed(self, task: Task, failure: Failure) -> None: ...
    def dropped(self, task: Task) -> None: ...
    def broken(self, error: BaseException) -> None: ...


class Stages(Protocol):
    """From a task to pixels."""

    def put(self, task: Task) -> None:
        """Begin; never waits (the engine's budget bounds what is put)."""
        ...

    def close(self) -> list[threading.Thread]:
        """End soon; the threads to join. What is under way may be forgotten."""
        ...


def failure_of(ref: ImageRef, error: BaseException, stage: Stage) -> Failure:
    """The failure row of an image that raised `error` in a stage.

    An exception that the stage should have turned into an ImageError keeps its type's name; while fetching
    its text is left out, as it may hold the url with its credentials.
    """
    if isinstance(error, ImageError):
        return Failure(
            image_id=ref.image_id,
            uri=ref.uri,
            stage=error.stage,
            reason=error.reason,
            message=error.message,
            attempts=error.attempts,
        )
    fetching = stage is Stage.FETCH
    return Failure(
        image_id=ref.image_id,
        uri=ref.uri,
        stage=stage,
        reason=Reason.HTTP_ERROR if fetching else Reason.DECODE_ERROR,
        message=type(error).__name__ if fetching else describe(error),
    )


def timed_decode(
    data: bytes, options: DecodeOptions, preprocess: Preprocess
) -> tuple[UInt8, ImageInfo, float]:
    """Pixels, what is known of the image, and the seconds it took; raises as images.decode_to_pixels."""
    started = time.perf_counter()
    pixels, info = decode_to_pixels(data, options, preprocess)
    expected = (preprocess.height, preprocess.width, 3)
    if pixels.shape != expected:
        raise ValueError(f"decoded to {pixels.shape}, the encoder takes {expected}")
    return pixels, info, time.perf_counter() - started


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """A daemon thread: a fetch that hangs must not keep the interpreter from ending."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def guarded(run: Callable[[], None], outlet: Outlet) -> Callable[[], None]:
    """A thread's body that cannot die in silence and leave units waiting."""

    def body() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001  handed on to every unit
            outlet.broken(error)

    return body


class ThreadStages:
    """Fetches, which mostly wait, and decode threads, which mostly run outside the GIL."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        fetch: FetchOptions,
        decode: DecodeOptions,
        preprocess: Preprocess,
        fetch_threads: int,
        decode_threads: int,
    ) -> None:
        self._outlet = outlet
        self._decode_options = decode
        self._preprocess = preprocess
        self._closed = False
        self._to_decode: SimpleQueue[Task | None] = SimpleQueue()
        self._fetchers = Fetchers(self, fetch, limit=fetch_threads, name="beamclip-fetch")
        self._decoders = [
            start_thread(f"beamclip-decode-{number}", guarded(self._decode_loop, outlet))
            for number in range(decode_threads)
        ]

    def put(self, task: Task) -> None:
        """Queue a task for fetching, or for decoding if it came with its bytes."""
        if task.data is None:
            self._fetchers.put(task, task.ref.url)
        else:
            self._to_decode.put(task)

    def close(self) -> list[threading.Thread]:
        """End the threads after what each is doing."""
        self._closed = True
        self._fetchers.close()
        for _ in self._decoders:
            self._to_decode.put(None)
        return self._decoders

    def begin(self, task: Task) -> bool:
        """A task's fetch begins, unless its unit has ended."""
        if task.unit.dead:
            self._outlet.dropped(task)
            return False
        return True

    def arrived(self, task: Task, data: bytes, seconds: float) -> None:
        """A task's bytes are here."""
        task.data, task.fetch_s = data, seconds
        self._outlet.fetched(task, len(data))
        self._to_decode.put(task)

    def missed(self, task: Task, error: BaseException) -> None:
        """A task's bytes cannot be had."""
        if isinstance(error, RequestError):  # this machine cannot read the store at all: no image's fault
            task.unit.fail(error)
            self._outlet.dropped(task)
        else:
            self._outlet.failed(task, failure_of(task.ref, error, Stage.FETCH))

    def broken(self, error: BaseException) -> None:
        """Fetching cannot go on."""
        self._outlet.broken(error)

    def _decode_loop(self) -> None:
        while (task := self._to_decode.get()) is not None and not self._closed:
            if task.unit.dead or task.data is None:
                self._outlet.dropped(task)
                continue
            try:
                pixels, task.info, task.decode_s = timed_decode(
                    task.data, self._decode_options, self._preprocess
                )
            except BaseException as error:  # noqa: BLE001  MemoryError too: one image must not end the thread
                self._outlet.failed(task, failure_of(task.ref, error, Stage.DECODE))
            else:
                self._outlet.decoded(task, pixels)
