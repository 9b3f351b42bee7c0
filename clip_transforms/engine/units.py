"""One unit in the engine: where its images come from, where their outcomes go, and what they cost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from clip_transforms.elements import Failure, ImageInfo, ImageRef
from clip_transforms.encoders.base import Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """n embedded images of one unit, in no particular order.

    refs: their references, payload dropped. infos: what decoding found. embeddings: [n, D] float32, rows of
    norm 1, finite; an array of this batch's own.
    """

    refs: list[ImageRef]
    infos: list[ImageInfo]
    embeddings: Float32


class UnitSink(Protocol):
    """Takes a unit's outcomes. Calls come one at a time, from a thread of the unit's own, and may be slow."""

    def embedded(self, batch: EncodedBatch) -> None:
        """Rows that are done."""
        ...

    def failed(self, failure: Failure) -> None:
        """One input that could not be embedded."""
        ...


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in short: what a Beam distribution needs (sum, count, min, max)."""

    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def plus(self, *values: float) -> Spread:
        """With these values too.

        >>> Spread().plus(3.0, 1.0, 1.0)
        Spread(count=3, sum=5.0, min=1.0, max=3.0)
        """
        if not values:
            return self
        known = [self.min, self.max, *values] if self.count else values
        return Spread(self.count + len(values), self.sum + sum(values), min(known), max(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What a finished unit cost. The spreads are over its embedded images; their sums are busy times."""

    embedded: int
    failed: int
    wall_s: float  # from submit to the last row at the sink; units overlap
    bytes: Spread  # encoded bytes of an image
    fetch_ms: Spread  # without images that came with their bytes
    decode_ms: Spread
    encode_ms: Spread  # an image's share of its batch


class Task:
    """One image on its way; made by the unit's reader, changed by one stage after another."""

    __slots__ = ("crashes", "data", "decode_s", "fetch_s", "info", "ref", "reserved", "unit")

    def __init__(self, unit: Unit, ref: ImageRef, data: bytes | None, reserved: int) -> None:
        self.unit = unit
        self.ref = ref
        self.data = data
        self.reserved = reserved  # bytes of the budget
        self.info: ImageInfo | None = None
        self.fetch_s: float | None = None
        self.decode_s = 0.0
        self.crashes = 0  # of processes that held this image


@dataclass(frozen=True, slots=True)
class _Rows:
    batch: EncodedBatch
    fetch_s: list[float | None]
    decode_s: list[float]
    encode_s: float  # an image


@dataclass(frozen=True, slots=True)
class _End:
    """The source has ended after `items`."""

    items: int


class Unit:
    """The state of one submitted unit.

    A unit holds at most `window` items between its source and its sink, so a slow sink holds back its own
    source and nothing else: stages never wait for a sink. The first exception of source or sink fails the
    unit; what is under way is then dropped by the stages, and the sink is not called again.
    """

    def __init__(self, number: int, sink: UnitSink, *, window: int, contained: bool = False) -> None:
        self.number = number
        self.contained = contained  # its images may kill the process that decodes them
        self.future: Future[EngineStats] = Future()
        self._sink = sink
        self._room = threading.Semaphore(window)
        self._outcomes: SimpleQueue[_Rows | Failure | _End | None] = SimpleQueue()
        self.dead = False  # failed or cancelled: its images are to be dropped
        self._once = threading.Lock()
        self._resolved = False
        self._started = time.monotonic()
        self._failed = 0
        self._bytes = self._fetch = self._decode = self._encode = Spread()
        self.future.add_done_callback(self._stop)

    def try_enter(self) -> bool:
        """Room for one more item, without waiting."""
        return self._room.acquire(blocking=False)

    def enter(self) -> None:
        """Wait for room for one more item, or for the unit's end."""
        self._room.acquire()

    def ended(self, items: int) -> None:
        """The source has given all its items."""
        self._outcomes.put(_End(items))

    def rows(self, batch: EncodedBatch, tasks: list[Task], encode_s: float) -> None:
        """Hand embedded rows to the sink's thread."""
        fetch = [task.fetch_s for task in tasks]
        self._outcomes.put(_Rows(batch, fetch, [task.decode_s for task in tasks], encode_s))

    def failure(self, failure: Failure) -> None:
        """Hand a failure to the sink's thread."""
        self._outcomes.put(failure)

    def fail(self, error: BaseException) -> None:
        """End the unit with an exception; the first one counts."""
        self._resolve(error)

    def drain(self) -> None:
        """Feed the sink until the unit is complete, then resolve the future; runs in the sink's thread."""
        try:
            if self._deliver_all():
                self._resolve(self._stats())
        except BaseException as error:  # noqa: BLE001  a sink's exception is the unit's
            self.fail(error)

    def _deliver_all(self) -> bool:
        done, expected = 0, -1
        while done != expected:
            outcome = self._outcomes.get()
            if outcome is None or self.dead:
                return False
            if isinstance(outcome, _End):
                expected = outcome.items
                continue
            count = self._deliver(outcome)
            done += count
            self._room.release(count)
        return True

    def _deliver(self, outcome: _Rows | Failure) -> int:
        if isinstance(outcome, Failure):
            self._sink.failed(outcome)
            self._failed += 1
            return 1
        self._sink.embedded(outcome.batch)
        count = len(outcome.decode_s)
        self._bytes = self._bytes.plus(*[info.bytes for info in outcome.batch.infos])
        self._fetch = self._fetch.plus(*[1000 * each for each in outcome.fetch_s if each is not None])
        self._decode = self._decode.plus(*[1000 * each for each in outcome.decode_s])
        self._encode = self._encode.plus(*[1000 * outcome.encode_s] * count)
        return count

    def _stats(self) -> EngineStats:
        return EngineStats(
            embedded=self._bytes.count,
            failed=self._failed,
            wall_s=time.monotonic() - self._started,
            bytes=self._bytes,
            fetch_ms=self._fetch,
            decode_ms=self._decode,
            encode_ms=self._encode,
        )

    def _resolve(self, outcome: EngineStats | BaseException) -> None:
        with self._once:
            first, self._resolved = not self._resolved, True
        if not first or not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def _stop(self, _future: object) -> None:
        """Wake whoever waits in this unit; what of it is still under way is dropped from now on."""
        self.dead = True
        self._room.release()
        self._outcomes.put(None)
