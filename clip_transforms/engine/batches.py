"""Micro-batches: decode threads write pixels straight into them, the encode thread takes them."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

import numpy as np

from clip_transforms.encoders.base import UInt8

T = TypeVar("T")

#: How long a half-full batch waits when no image is under way but a source may still deliver some.
LINGER_S = 0.05


class Batch(Generic[T]):
    """Up to B images [B, height, width, 3] uint8; the first len(items) are in use, item i is image i's."""

    __slots__ = ("array", "items", "last", "written")

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.array: UInt8 = np.empty(shape, np.uint8)
        self.items: list[T] = []
        self.written = 0
        self.last = time.monotonic()  # when an image was last added

    @property
    def pixels(self) -> UInt8:
        return self.array[: len(self.items)]


class Batcher(Generic[T]):
    """Collects decoded images of all units into batches.

    A batch goes out when it is full, or when nothing can be added to it: no image is being fetched or
    decoded, and every source has ended or waits for room. While a source may deliver (a tar on a slow
    network), a part-full batch waits LINGER_S and then goes. An eager batcher gives a batch that is half full
    to an encoder that is idle: right for an accelerator, which loses nothing by it; an encoder on the CPU
    would take from decoding what full batches save.
    """

    def __init__(self, *, height: int, width: int, size: int, eager: bool = False) -> None:
        self.size = size  # of the next batches; the encode side lowers it when memory runs out
        self._shape = (height, width, 3)
        self._eager = eager
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._open: Batch[T] | None = None
        self._full: deque[Batch[T]] = deque()
        self._pending = 0
        self._sources = 0
        self._closed = False

    def source(self, change: int) -> None:
        """A source begins or resumes (+1), ends or waits for room (-1)."""
        with self._lock:
            self._sources += change
            if self._sources == 0 and self._pending == 0:
                self._changed.notify()

    def expect(self) -> None:
        """An image is on its way."""
        with self._lock:
            self._pending += 1

    def forget(self) -> None:
        """An expected image failed."""
        with self._lock:
            self._arrived()

    def add(self, item: T, pixels: UInt8) -> None:
        """An expected image [height, width, 3] is here; it is copied outside the lock, without the GIL."""
        with self._lock:
            batch = self._open
            if batch is None:
                batch = self._open = Batch((self.size, *self._shape))
            place = len(batch.items)
            batch.items.append(item)
            if len(batch.items) == len(batch.array):
                self._open = None
        batch.array[place] = pixels
        with self._lock:
            batch.written += 1
            batch.last = time.monotonic()
            if batch.written == len(batch.array):
                self._full.append(batch)
                self._changed.notify()
            elif self._ripe():
                self._changed.notify()
            self._arrived()

    def take(self) -> Batch[T] | None:
        """The next batch, waiting for it; None once closed."""
        with self._lock:
            while not self._closed:
                if self._full:
                    return self._full.popleft()
                wait = self._flush_in()
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                else:
                    batch, self._open = self._open, None
                    return batch
            return None

    def close(self) -> None:
        """`take` returns None from now on."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def _arrived(self) -> None:
        self._pending -= 1
        if self._pending == 0:
            self._changed.notify()

    def _flush_in(self) -> float | None:
        """Seconds until the part-full batch should go; None: not before something changes."""
        if self._ripe():
            return 0.0
        if self._open is None or self._pending:
            return None  # nothing pending also means that every place handed out has been written
        if self._sources == 0:
            return 0.0
        return self._open.last + LINGER_S - time.monotonic()

    def _ripe(self) -> bool:
        batch = self._open
        return (
            self._eager
            and batch is not None
            and batch.written == len(batch.items)
            and 2 * batch.written >= len(batch.array)
        )
