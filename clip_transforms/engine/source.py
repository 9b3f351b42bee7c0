"""The way in: a unit's source is drained into the stages, as far as the budget and its own window allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from clip_transforms.elements import Failure, ImageRef
from clip_transforms.engine.batches import Batcher
from clip_transforms.engine.budget import Budget
from clip_transforms.engine.stages import Stages
from clip_transforms.engine.units import Task, Unit


class SizeGuess:
    """What to reserve for an image whose size no listing told: twice the average of those seen so far."""

    def __init__(self, start: int = 2**20) -> None:
        self._guess = float(start)

    def __call__(self) -> int:
        return int(self._guess)

    def seen(self, size: int) -> None:
        """Learn from one image; a lost update between threads costs nothing but a little accuracy."""
        self._guess += (2 * size - self._guess) / 32


class Admission:
    """Reads sources, each in a thread of its own, and lets their images in."""

    def __init__(
        self,
        *,
        stages: Stages,
        budget: Budget,
        batches: Batcher[Task],
        pixel_bytes: int,
        largest: int,
        guess: SizeGuess,
        failed: Callable[[Unit, Failure], None],
    ) -> None:
        self._stages = stages
        self._budget = budget
        self._batches = batches
        self._pixel_bytes = pixel_bytes
        self._largest = largest  # encoded bytes that fetching hands on at most
        self._guess = guess
        self._failed = failed

    def read(self, unit: Unit, items: Iterator[ImageRef | Failure]) -> None:
        """Let all items of a unit in, then close their source; runs in the source's thread."""
        count = 0
        self._batches.source(+1)
        try:
            try:
                for item in items:
                    if not self._admit(unit, item):
                        break
                    count += 1
            finally:
                if hasattr(items, "close"):
                    items.close()
        except BaseException as error:  # noqa: BLE001  a source's exception is the unit's
            unit.fail(error)
        else:
            unit.ended(count)
        finally:
            self._batches.source(-1)

    def _admit(self, unit: Unit, item: ImageRef | Failure) -> bool:
        """Let one item in, waiting for room; False once the unit has ended."""
        if not unit.try_enter():
            self._batches.source(-1)
            unit.enter()
            self._batches.source(+1)
        if unit.dead:
            return False
        if isinstance(item, Failure):
            self._failed(unit, item)
            return True
        task = self._task(unit, item)
        if not self._budget.try_acquire(task.reserved, owner=unit.number):
            self._batches.source(-1)
            granted = self._budget.acquire(task.reserved, owner=unit.number)
            self._batches.source(+1)
            if not granted:
                return False
        self._batches.expect()
        self._stages.put(task)
        return True

    def _task(self, unit: Unit, ref: ImageRef) -> Task:
        if ref.payload is not None:
            data, size = ref.payload, len(ref.payload)
            ref = replace(ref, payload=None)
        else:
            known = ref.size if ref.size is not None else self._guess()
            data, size = None, min(max(known, 0), self._largest)
        return Task(unit, ref, data, size + self._pixel_bytes)
