"""Progress of a job that runs in this process: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

_logger = logging.getLogger(__name__)
_POLL_S = 0.25
_LINE_S = 15.0  # between plain lines
_RATE_S = 30.0  # the rate is that of the last so many seconds
_FLUSH_S = 2.0  # how long an end waits for a poll that is under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a job has done so far."""

    done: int  # images embedded
    failed: int = 0
    bytes: int = 0  # encoded bytes of the inputs that are through


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What a job has to do, as far as its plan knows: tars have bytes, and no number of images."""

    images: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What there is to show at one moment. share: 0..1, or None where the total is not known."""

    done: int
    failed: int
    total: int | None
    share: float | None
    rate: float  # images a second, lately
    left_s: float | None  # seconds to the end, at that rate

    def line(self) -> str:
        """
        >>> State(done=900, failed=15, total=1830, share=0.5, rate=164.2, left_s=330).line()
        '915 of 1,830 images (50%), 15 failed, 164 images/s, about 6 min left'
        """
        through = self.done + self.failed
        words = [f"{through:,} of {self.total:,} images" if self.total is not None else f"{through:,} images"]
        if self.share is not None:
            words[0] += f" ({self.share:.0%})"
        if self.failed:
            words.append(f"{self.failed:,} failed")
        words.append(f"{self.rate:,.0f} images/s" if self.rate >= 10 else f"{self.rate:.1f} images/s")
        if self.left_s is not None:
            words.append(f"about {span(self.left_s)} left")
        return ", ".join(words)


class Meter:
    """Snapshots to what there is to show: the share done, the rate of late, the time left."""

    def __init__(self, total: Total) -> None:
        self._total = total
        self._past: deque[tuple[float, int, float]] = deque()  # time, images, share

    def read(self, snapshot: Snapshot, *, now: float) -> State:
        """now: seconds of a clock that does not go back."""
        through = snapshot.done + snapshot.failed
        share = self._share(through, snapshot.bytes)
        self._past.append((now, through, share or 0.0))
        while len(self._past) > 2 and now - self._past[1][0] >= _RATE_S:
            self._past.popleft()
        then, images, before = self._past[0]
        seconds = now - then
        rate = max(0.0, (through - images) / seconds) if seconds > 0 else 0.0
        pace = ((share or 0.0) - before) / seconds if seconds > 0 else 0.0
        left = (1.0 - share) / pace if share is not None and share < 1.0 and pace > 0 else None
        return State(
            done=snapshot.done,
            failed=snapshot.failed,
            total=self._total.images,
            share=share,
            rate=rate,
            left_s=left,
        )

    def _share(self, through: int, size: int) -> float | None:
        if self._total.images:
            return min(1.0, through / self._total.images)
        if self._total.bytes:
            return min(1.0, size / self._total.bytes)
        return None


class Progress:
    """Shows how a job goes while its block runs; never raises, and never keeps the block from ending.

    snapshot: called about four times a second from a thread of this object; what it raises is logged once.
    quiet: show nothing. stream: where to (default standard error); clock: seconds; lines come every `line_s`
    seconds where the stream is no terminal.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        *,
        total: Total,
        quiet: bool = False,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        line_s: float = _LINE_S,
    ) -> None:
        self._snapshot = snapshot
        self._quiet = quiet
        self._stream = stream
        self._clock = clock
        self._meter = Meter(total)
        self._line_s = line_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._show: _Bar | _Lines | None = None
        self._told = False

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        try:
            console = Console(file=self._stream or sys.stderr, highlight=False)
            live = console.is_terminal and not console.is_dumb_terminal
            self._show = _Bar(console) if live else _Lines(console, every=self._line_s, clock=self._clock)
        except Exception:  # noqa: BLE001 - told, and no reason to end a job
            self._trouble()
            return self
        self.tick()
        self._thread = threading.Thread(target=self._poll, name="beamclip-progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_FLUSH_S)
        if self._thread is None or not self._thread.is_alive():  # else the job's own answer hangs
            self.tick()
        with self._lock:
            show, self._show = self._show, None
            try:
                if show is not None:
                    show.close()
            except Exception:  # noqa: BLE001 - told
                self._trouble()

    def tick(self) -> None:
        """Look once and show it."""
        if self._show is None:
            return
        try:
            snapshot = self._snapshot()  # outside the lock: it may hang
            with self._lock:
                if self._show is not None:
                    self._show.update(self._meter.read(snapshot, now=self._clock()))
        except Exception:  # noqa: BLE001 - told
            self._trouble()

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.tick()

    def _trouble(self) -> None:
        if not self._told:
            self._told = True
            _logger.warning("the progress cannot be shown", exc_info=True)


class _Bar:
    """A bar that redraws itself, and leaves its last words behind."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(bar_width=32), TextColumn("{task.fields[words]}", markup=False))
        self._bar = RichProgress(*columns, console=console, auto_refresh=False, transient=True)
        self._console = console
        self._task = self._bar.add_task("", total=None, words="starting")
        self._line = ""
        self._bar.start()

    def update(self, state: State) -> None:
        self._line = state.line()
        total = None if state.share is None else 1.0
        self._bar.update(self._task, total=total, completed=state.share or 0.0, words=self._line)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.stop()
        if self._line:
            self._console.print(self._line, markup=False)


class _Lines:
    """A line every so many seconds, and one at the end."""

    def __init__(self, console: Console, *, every: float, clock: Callable[[], float]) -> None:
        self._console = console
        self._every = every
        self._clock = clock
        self._next = clock() + every
        self._line = ""  # not yet printed

    def update(self, state: State) -> None:
        self._line = state.line()
        if self._clock() >= self._next:
            self._next = self._clock() + self._every
            self.close()

    def close(self) -> None:
        if self._line:
            self._console.print(self._line, markup=False, soft_wrap=True)
            self._line = ""


def span(seconds: float) -> str:
    """A time as people say it.

    >>> [span(seconds) for seconds in (8, 330, 8000)]
    ['8 s', '6 min', '2 h 13 min']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
