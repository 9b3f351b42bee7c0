"""The engine's byte and count budget: what may be in flight at once, granted to the oldest unit first."""

from __future__ import annotations

import heapq
import threading

_SHARE_TO_WAKE = 16


class _Waiter:
    __slots__ = ("amount", "granted", "owner", "wake")

    def __init__(self, owner: int, amount: int) -> None:
        self.owner = owner
        self.amount = amount
        self.granted = False
        self.wake = threading.Event()


class Budget:
    """Images in flight, counted and weighed, for the whole engine.

    A request that is larger than the whole budget is granted once nothing else is in flight, so no image can
    block the engine. Who waits is served by owner (the lowest number, which is the oldest unit), then in
    order of asking, and nobody overtakes an older unit: a large image is not starved by small ones behind it.

    Waking a thread for every image would be a good part of what an image costs beside its decoding. So who waits
    is woken once a sixteenth of the places are free, and then takes what it can without waiting again.
    """

    def __init__(self, *, max_bytes: int, max_count: int) -> None:
        self.max_bytes = max_bytes
        self.max_count = max_count
        self._least_free = max(1, max_count // _SHARE_TO_WAKE)
        self.peak_bytes = 0
        self.peak_count = 0
        self._bytes = 0
        self._count = 0
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, int, _Waiter]] = []
        self._ticket = 0
        self._closed = False

    @property
    def in_flight(self) -> tuple[int, int]:
        """(bytes, images) reserved now."""
        with self._lock:
            return self._bytes, self._count

    def try_acquire(self, amount: int, *, owner: int) -> bool:
        """Reserve one image of `amount` bytes if that is possible without waiting, or passing an older owner."""
        with self._lock:
            if self._closed or not self._fits(amount, free=1):
                return False
            if self._waiters and self._waiters[0][0] <= owner:
                return False
            self._take(amount)
            return True

    def acquire(self, amount: int, *, owner: int) -> bool:
        """Reserve one image of `amount` bytes, waiting for room; False after `abandon(owner)` or `close`."""
        with self._lock:
            if self._closed:
                return False
            waiter = _Waiter(owner, amount)
            self._ticket += 1
            heapq.heappush(self._waiters, (owner, self._ticket, waiter))
            self._grant()
        waiter.wake.wait()
        return waiter.granted

    def adjust(self, delta: int) -> None:
        """Correct a reservation once the true size is known; may exceed the budget, as the bytes are here."""
        if delta:
            with self._lock:
                self._add(delta)
                self._grant()

    def release(self, amount: int, *, count: int) -> None:
        """Give back `amount` bytes and `count` images."""
        with self._lock:
            self._bytes -= amount
            self._count -= count
            self._grant()

    def abandon(self, owner: int) -> None:
        """Send an owner's waiter away empty-handed."""
        with self._lock:
            gone = [entry for entry in self._waiters if entry[0] == owner]
            self._waiters = [entry for entry in self._waiters if entry[0] != owner]
            heapq.heapify(self._waiters)
            self._grant()
        for _, _, waiter in gone:
            waiter.wake.set()

    def close(self) -> None:
        """Send every waiter away, and all later ones."""
        with self._lock:
            self._closed = True
            gone, self._waiters = self._waiters, []
        for _, _, waiter in gone:
            waiter.wake.set()

    def _fits(self, amount: int, *, free: int) -> bool:
        if self._count == 0:
            return True
        return self._count + free <= self.max_count and self._bytes + amount <= self.max_bytes

    def _take(self, amount: int) -> None:
        self._count += 1
        self.peak_count = max(self.peak_count, self._count)
        self._add(amount)

    def _add(self, amount: int) -> None:
        self._bytes += amount
        self.peak_bytes = max(self.peak_bytes, self._bytes)

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0][2].amount, free=self._least_free):
            waiter = heapq.heappop(self._waiters)[2]
            self._take(waiter.amount)
            waiter.granted = True
            waiter.wake.set()
