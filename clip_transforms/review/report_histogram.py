"""Histograms of numbers from 0 to 1, counted in fine bins over any number of rows, and their charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_FINE = 1000
_LOG_ABOVE = 50  # times the median bar
_WIDTH, _HEIGHT = 400, 150  # of a chart's box, in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24
_SPAN, _TALL = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


class Histogram:
    """Counts in 1,000 equal bins over 0..1; values outside go to the end bins, NaN is left out.

    >>> histogram = Histogram()
    >>> histogram.add(np.array([0.0, 0.49, 0.5, 1.0, np.nan]))
    >>> histogram.total, histogram.bins(2), histogram.quantile(0.5)
    (4, [2, 2], 0.491)
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_FINE, np.int64)

    def add(self, values: npt.NDArray[np.floating]) -> None:
        found = values[~np.isnan(values)].astype(np.float64)
        # The small shift puts a float32 of 0.7 into the bin that begins there, not into the one below.
        places = np.clip(np.floor(found * _FINE + 1e-4), 0, _FINE - 1).astype(np.int64)
        self._counts += np.bincount(places, minlength=_FINE)

    @property
    def total(self) -> int:
        return int(self._counts.sum())

    def bins(self, count: int) -> list[int]:
        """The counts in `count` equal bins; count divides 1,000."""
        found: list[int] = self._counts.reshape(count, -1).sum(axis=1).tolist()
        return found

    def quantile(self, share: float) -> float:
        """The least upper bound, to 0.001, of this share of the values; 0.0 without any."""
        if not self.total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.total, side="left"))
        return round((min(place, _FINE - 1) + 1) / _FINE, 3)

    def below(self, value: float) -> int:
        """How many values are below `value` (a multiple of 0.001)."""
        return int(self._counts[: round(value * _FINE)].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, in SVG units, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis at a place in SVG units."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The geometry of a histogram; a template draws it."""

    title: str
    note: str
    summary: str  # the chart in words, for those who cannot see it
    middle: str  # where its middle is
    log: bool
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mark: Tick | None = None  # a value that is marked across the bars
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    base: int = _HEIGHT - _BOTTOM


def chart(
    histogram: Histogram,
    *,
    title: str,
    note: str,
    bars: int = 40,
    low: float = 0.0,
    high: float = 1.0,
    mark: float | None = None,
) -> Chart:
    """The chart of a histogram with `bars` bars (a divisor of 1,000).

    low, high: the values that the histogram's 0 and 1 stand for. mark: a value to be marked.

    The count axis is linear, or logarithmic where the tallest bar is over 50 times the median of those that
    are not empty: the small ones would vanish.
    """
    counts = histogram.bins(bars)
    filled = sorted(count for count in counts if count)
    log = bool(filled) and filled[-1] > _LOG_ABOVE * filled[len(filled) // 2]
    ticks = _count_ticks(filled[-1] if filled else 1, log=log)
    top = _scale(ticks[-1], log=log)

    def y_of(count: int) -> float:
        return round(_HEIGHT - _BOTTOM - _TALL * _scale(count, log=log) / top, 2)

    def value_at(share: float) -> float:
        return round(low + share * (high - low), 6)

    first, middle, last = (value_at(histogram.quantile(share)) for share in (0.25, 0.5, 0.75))
    inner = f"median {middle:.2f}, the middle half from {first:.2f} to {last:.2f}"
    return Chart(
        title=title,
        note=note,
        summary=f"{title} of {histogram.total:,} images: {inner}",
        middle=inner,
        log=log,
        bars=_bars(counts, y_of, value_at),
        x_ticks=tuple(Tick(at=_x_of(x / 4), text=f"{value_at(x / 4):g}") for x in range(5)),
        y_ticks=tuple(Tick(at=y_of(count), text=short_count(count)) for count in ticks),
        mark=None if mark is None else Tick(at=_x_of((mark - low) / (high - low)), text=f"{mark:.3f}"),
    )


def _bars(
    counts: Sequence[int], y_of: Callable[[int], float], value_at: Callable[[float], float]
) -> tuple[Bar, ...]:
    """The bars of the counts that are not 0, side by side."""
    step, total = _SPAN / len(counts), max(1, sum(counts))
    return tuple(
        Bar(
            x=round(_LEFT + place * step + 0.5, 2),
            y=min(y_of(count), _HEIGHT - _BOTTOM - 1.0),  # one image stays visible
            width=round(step - 1, 2),
            height=round(max(1.0, _HEIGHT - _BOTTOM - y_of(count)), 2),
            text=_bar_text(value_at(place / len(counts)), value_at((place + 1) / len(counts)), count, total),
        )
        for place, count in enumerate(counts)
        if count
    )


def _x_of(share: float) -> float:
    """The place of a share of the axis, in SVG units."""
    return round(_LEFT + _SPAN * min(1.0, max(0.0, share)), 2)


def short_count(count: int) -> str:
    """A count in at most a few characters.

    >>> [short_count(count) for count in (7, 1500, 20_000, 3_000_000)]
    ['7', '1.5k', '20k', '3M']
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _bar_text(low: float, high: float, count: int, total: int) -> str:
    return f"{low:g} to {high:g}: {count:,} image{'' if count == 1 else 's'}, {count / total:.1%}"


def _scale(count: int, *, log: bool) -> float:
    return math.log10(count + 1) if log else float(count)


def _count_ticks(largest: int, *, log: bool) -> Sequence[int]:
    """Round marks from 0 to at least `largest`.

    >>> _count_ticks(830, log=False), _count_ticks(830, log=True)
    ([0, 500, 1000], [0, 10, 100, 1000])
    """
    if log:
        return [0, *(10**power for power in range(1, math.ceil(math.log10(largest)) + 1))]
    raw = max(1.0, largest / 3)
    size = 10 ** math.floor(math.log10(raw))
    step = next(int(size * part) for part in (1, 2, 5, 10) if size * part >= raw)
    return list(range(0, largest + step, step))
