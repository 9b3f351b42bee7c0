"""The engine itself: it joins sources, stages, batches, encoder and sinks, and ends them in order."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from clip_transforms.elements import BeamclipError, Failure, ImageRef, Reason, Stage
from clip_transforms.encoders.base import Encoder, Float32, UInt8
from clip_transforms.engine.batches import Batch, Batcher
from clip_transforms.engine.budget import Budget
from clip_transforms.engine.contained import make_stages
from clip_transforms.engine.encode import BatchEncoder, Encoded, EncoderBroken, SharedEncoder, describe
from clip_transforms.engine.options import EngineOptions
from clip_transforms.engine.source import Admission, SizeGuess
from clip_transforms.engine.stages import start_thread
from clip_transforms.engine.units import EncodedBatch, EngineStats, Task, Unit, UnitSink

_logger = logging.getLogger(__name__)
_CLOSE_S = 60.0  # a batch on a slow CPU may end: a thread that the interpreter kills inside torch aborts


class EngineClosed(BeamclipError):
    """The engine was closed before the unit was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What an engine has done so far, over all units: what a progress bar shows."""

    embedded: int
    failed: int
    bytes: int  # encoded bytes of the embedded images


class Engine:
    """One encoder, one set of fetch and decode threads (or processes) and one budget for any number of units.

    Call `submit` from any thread. In a process that was forked from the engine's, it must not be used
    (threads do not survive a fork; `engine_for` makes a new one there).
    """

    def __init__(self, encoder: Encoder, options: EngineOptions) -> None:
        """Starts the threads. Raises RequestError if the decode processes cannot be had here."""
        size = options.batch_size_for(encoder)
        shape = encoder.preprocess
        self.encoder: Encoder = SharedEncoder(encoder)  # may be called by others beside the engine
        self.options = options
        self._pixel_bytes = shape.height * shape.width * 3
        self._guess = SizeGuess()
        self._budget = Budget(max_bytes=options.max_inflight_bytes, max_count=options.images_for(size))
        self._batches: Batcher[Task] = Batcher(
            height=shape.height, width=shape.width, size=size, eager=encoder.device != "cpu"
        )
        self._batch_encoder = BatchEncoder(self.encoder, size=size)
        self._numbers = itertools.count()
        self._units: dict[int, Unit] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._embedded = self._failed = self._bytes = 0
        self._pid = os.getpid()
        self._stages = make_stages(self, options=options, preprocess=shape)
        self._admission = Admission(
            stages=self._stages,
            budget=self._budget,
            batches=self._batches,
            pixel_bytes=self._pixel_bytes,
            largest=options.fetch.max_bytes + 1,
            guess=self._guess,
            failed=self._fail,
        )
        self._encode_thread = start_thread("beamclip-encode", self._encode_loop)
        _open_engines.add(self)

    @property
    def closed(self) -> bool:
        """Closed, or inherited through a fork."""
        return self._closed or os.getpid() != self._pid

    def submit(
        self, items: Iterator[ImageRef | Failure], sink: UnitSink, *, contained: bool = False
    ) -> Future[EngineStats]:
        """Work through one unit; several may be under way, and their images share batches.

        items is drained by a thread of the unit's own, with backpressure, and closed if it can be. A
        reference with a payload goes straight to decoding, one without is fetched, a Failure goes to the
        sink as it is. The sink is called by one further thread. The future resolves once each item has
        reached the sink as one embedded row or one failure; with an exception once the source or the sink
        raises, the encoder is broken (EncoderBroken) or the engine is closed (EngineClosed), after which
        the sink is not called again (a call that is under way may still end). Cancelling it drops the unit.
        contained: fetch and decode in a process of their own, so that an image that kills it is a failure.
        """
        unit = Unit(next(self._numbers), sink, window=self.options.unit_window, contained=contained)
        with self._lock:
            if self.closed:
                raise EngineClosed("the engine is closed")
            self._units[unit.number] = unit
        unit.future.add_done_callback(lambda _: self._forget(unit))
        start_thread(f"beamclip-sink-{unit.number}", unit.drain)
        start_thread(f"beamclip-source-{unit.number}", partial(self._admission.read, unit, items))
        return unit.future

    def progress(self) -> Progress:
        """A snapshot; cheap, from any thread."""
        return Progress(embedded=self._embedded, failed=self._failed, bytes=self._bytes)

    def close(self) -> None:
        """Fail what is under way with EngineClosed and end the threads; waits for the batch in the encoder."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._fail_all(EngineClosed("the engine was closed"))
        self._budget.close()
        self._batches.close()
        deadline = time.monotonic() + _CLOSE_S
        for thread in [*self._stages.close(), self._encode_thread]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # -- what the stages call ------------------------------------------------------------------------------

    def fetched(self, task: Task, size: int) -> None:
        """An image's bytes are here; the reservation is put right."""
        self._guess.seen(size)
        self._budget.adjust(size + self._pixel_bytes - task.reserved)
        task.reserved = size + self._pixel_bytes

    def decoded(self, task: Task, pixels: UInt8) -> None:
        """An image's pixels are here; its encoded bytes are let go."""
        task.data = None
        self._budget.adjust(self._pixel_bytes - task.reserved)
        task.reserved = self._pixel_bytes
        self._batches.add(task, pixels)

    def failed(self, task: Task, failure: Failure) -> None:
        """An image ends as a failure."""
        self.dropped(task)
        self._fail(task.unit, failure)

    def dropped(self, task: Task) -> None:
        """An image of a unit that has ended."""
        task.data = None
        self._budget.release(task.reserved, count=1)
        self._batches.forget()

    def broken(self, error: BaseException) -> None:
        """A stage cannot go on: every unit fails with the error, and the engine closes."""
        if self.closed:
            return
        _logger.error("the engine stops: %s", describe(error))
        self._fail_all(error)
        start_thread("beamclip-close", self.close)

    # -- the encode thread ---------------------------------------------------------------------------------

    def _encode_loop(self) -> None:
        while (batch := self._batches.take()) is not None:
            try:
                started = time.perf_counter()
                try:
                    encoded = self._encode(batch)
                finally:
                    self._budget.release(sum(task.reserved for task in batch.items), count=len(batch.items))
                if encoded is not None:
                    self._hand_out(batch, encoded, (time.perf_counter() - started) / len(batch.items))
            except EncoderBroken as error:
                self._fail_all(error)
            except BaseException as error:  # a mistake of the engine's own must not leave units waiting
                _logger.exception("the encode thread failed")
                self._fail_all(error)

    def _encode(self, batch: Batch[Task]) -> Encoded | None:
        if all(task.unit.dead for task in batch.items):
            return None
        try:
            return self._batch_encoder.encode(batch.pixels)
        finally:
            self._batches.size = self._batch_encoder.size

    def _hand_out(self, batch: Batch[Task], encoded: Encoded, encode_s: float) -> None:
        by_unit: dict[Unit, list[int]] = {}
        for index, task in enumerate(batch.items):
            if index in encoded.problems:
                self._fail(task.unit, _encode_failure(task.ref, encoded.problems[index]))
            else:
                by_unit.setdefault(task.unit, []).append(index)
        for unit, places in by_unit.items():
            rows = encoded.rows if len(places) == len(batch.items) else encoded.rows[places]
            self._deliver(unit, [batch.items[place] for place in places], rows, encode_s)

    def _deliver(self, unit: Unit, tasks: list[Task], rows: Float32, encode_s: float) -> None:
        if unit.dead:
            return
        infos = [task.info for task in tasks if task.info is not None]
        with self._lock:
            self._embedded += len(tasks)
            self._bytes += sum(info.bytes for info in infos)
        batch = EncodedBatch(refs=[task.ref for task in tasks], infos=infos, embeddings=rows)
        unit.rows(batch, tasks, encode_s)

    # -- bookkeeping ---------------------------------------------------------------------------------------

    def _fail(self, unit: Unit, failure: Failure) -> None:
        if not unit.dead:
            with self._lock:
                self._failed += 1
            unit.failure(failure)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            units = list(self._units.values())
        for unit in units:
            unit.fail(error)

    def _forget(self, unit: Unit) -> None:
        with self._lock:
            self._units.pop(unit.number, None)
        self._budget.abandon(unit.number)


def _encode_failure(ref: ImageRef, message: str) -> Failure:
    return Failure(
        image_id=ref.image_id,
        uri=ref.uri,
        stage=Stage.ENCODE,
        reason=Reason.ENCODE_ERROR,
        message=message,
    )


_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter tears down: its daemon threads would be stopped wherever they are."""
    for engine in list(_open_engines):
        engine.close()
