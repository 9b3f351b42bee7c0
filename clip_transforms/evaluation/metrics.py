"""Figures of an evaluation from counts: shares with intervals, calibration error, per-class figures; NumPy only.

Everything is computed from counts of equal images, never from a list of them, so memory does not grow with
the images. Drawing images with replacement is the same as drawing the counts of equal ones from a multinomial
distribution: that is how the bootstrap here is done, and it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.probabilities import Float32, Float64

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Interval = tuple[float, float]

BINS = 15  # of the calibration error: Guo et al., arXiv 1706.04599, section 2
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_FINE = 100  # cells a bin, for the bootstrap of the calibration error alone
_DRAWN = 4_000_000  # numbers drawn at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its 95 % intervals. value: None where it is not defined (nothing to count)."""

    value: float | None
    right: int | None = None  # of a share: the images that count
    of: int | None = None
    wilson: Interval | None = None
    bootstrap: Interval | None = None


def wilson(right: int, of: int) -> Interval | None:
    """The 95 % score interval of a share (Wilson 1927); None of nothing.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if of == 0:
        return None
    share, square = right / of, _Z * _Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return (0.0 if right == 0 else middle - half, 1.0 if right == of else middle + half)


def share(right: int, of: int, *, resamples: int = 0, seed: int = 0) -> Figure:
    """A share of images with its Wilson interval and, where asked, its bootstrap interval."""
    drawn = None
    if resamples and of:
        # The mean of `of` images drawn with replacement, each 0 or 1, is binomial.
        drawn = interval(np.random.default_rng(seed).binomial(of, right / of, resamples) / of)
    return Figure(
        value=right / of if of else None, right=right, of=of, wilson=wilson(right, of), bootstrap=drawn
    )


def interval(drawn: Float64) -> Interval | None:
    """The 95 % percentile interval of what was drawn; None where no draw is defined."""
    sound = drawn[~np.isnan(drawn)]
    if not len(sound):
        return None
    low, high = np.quantile(sound, [0.025, 0.975])
    return float(low), float(high)


def resampled(
    counts: Int64, statistic: Callable[[Int64], Float64], *, resamples: int, seed: int
) -> Interval | None:
    """The bootstrap interval of a statistic of counts of equal images.

    counts: [K]. statistic: from drawn counts [R, K] to [R] values, NaN where undefined.
    """
    total = int(counts.sum())
    if not resamples or not total:
        return None
    rng = np.random.default_rng(seed)
    chances = counts / total
    step = max(1, _DRAWN // len(counts))
    found = [
        statistic(rng.multinomial(total, chances, min(step, resamples - start)))
        for start in range(0, resamples, step)
    ]
    return interval(np.concatenate(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much more of the same images one labelling gets right than another: first - second."""

    images: int
    both: int
    only_first: int
    only_second: int
    difference: float | None
    interval: Interval | None  # paired bootstrap, 95 %

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not shown to differ`.

        >>> paired(90, 60, 10, resamples=500, seed=0).verdict, paired(90, 6, 5, resamples=500, seed=0).verdict
        ('better', 'not shown to differ')
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not shown to differ"
        return "better" if self.interval[0] > 0 else "worse"


def paired(
    both: int, only_first: int, only_second: int, *, neither: int = 0, resamples: int, seed: int
) -> PairedDifference:
    """The paired difference of two shares from the four counts of images."""
    counts = np.array([both, only_first, only_second, neither], np.int64)
    total = int(counts.sum())
    signs = np.array([0, 1, -1, 0])
    return PairedDifference(
        images=total,
        both=both,
        only_first=only_first,
        only_second=only_second,
        difference=(only_first - only_second) / total if total else None,
        interval=resampled(counts, lambda drawn: drawn @ signs / total, resamples=resamples, seed=seed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bin of a reliability diagram: confidences in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None  # mean
    accuracy: float | None


class Reliability:
    """Confidences held against what was right, in 15 equal bins (low, high].

    >>> held = Reliability()
    >>> held.add(np.float32([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False]))
    >>> round(held.error(), 3)
    0.15
    """

    def __init__(self) -> None:
        self._images = np.zeros((BINS * _FINE, 2), np.int64)  # by cell and by whether it was right
        self._sums = np.zeros((BINS * _FINE, 2), np.float64)  # of confidences

    def add(self, confidence: Float32, right: Bool) -> None:
        """Take some images, [N] each. Confidences outside 0..1 go to the end bins."""
        sure = confidence.astype(np.float64)
        bins = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(np.int64)
        inside = np.clip(np.floor((sure * BINS - bins) * _FINE), 0, _FINE - 1).astype(np.int64)
        cell = (bins * _FINE + inside) * 2 + right
        self._images += np.bincount(cell, minlength=self._images.size).reshape(-1, 2)
        self._sums += np.bincount(cell, sure, minlength=self._sums.size).reshape(-1, 2)

    def bins(self) -> tuple[Bin, ...]:
        """The bins of the diagram."""
        images = self._images.reshape(BINS, _FINE, 2).sum(axis=1)
        sums = self._sums.reshape(BINS, -1).sum(axis=1)
        return tuple(
            Bin(
                low=place / BINS,
                high=(place + 1) / BINS,
                images=int(count.sum()),
                confidence=float(total / count.sum()) if count.sum() else None,
                accuracy=float(count[1] / count.sum()) if count.sum() else None,
            )
            for place, (count, total) in enumerate(zip(images, sums, strict=True))
        )

    def error(self) -> float | None:
        """The expected calibration error: the bins' |accuracy - confidence|, weighted by images."""
        images = int(self._images.sum())
        if not images:
            return None
        gaps = (
            one.images * abs(one.accuracy - one.confidence)
            for one in self.bins()
            if one.accuracy is not None and one.confidence is not None
        )
        return float(sum(gaps) / images)

    def figure(self, *, resamples: int, seed: int) -> Figure:
        """The error with its bootstrap interval.

        An image drawn counts with the mean confidence of its cell, a hundredth of a bin wide. Percentile
        intervals of this error lie high: drawing adds noise, and noise of either sign adds to the error.
        """
        held = np.flatnonzero(self._images.ravel())
        counts = self._images.ravel()[held]
        gaps = np.zeros((len(held), BINS))  # right - confidence, of one image of the cell, in its bin
        gaps[np.arange(len(held)), held // 2 // _FINE] = held % 2 - self._sums.ravel()[held] / counts
        total = int(counts.sum())
        return Figure(
            value=self.error(),
            of=total,
            bootstrap=resampled(
                counts,
                lambda drawn: np.abs(drawn @ gaps).sum(axis=1) / total,
                resamples=resamples,
                seed=seed,
            ),
        )


def ratio(top: npt.NDArray[np.number], bottom: npt.NDArray[np.number]) -> Float64:
    """top / bottom, NaN where the bottom is 0.

    >>> ratio(np.array([1, 0]), np.array([2, 0])).tolist()
    [0.5, nan]
    """
    found: Float64 = np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom != 0)
    return found


def mean_defined(values: Float64) -> Float64:
    """The mean of each row over what is defined; NaN where nothing is."""
    sound = ~np.isnan(values)
    return ratio(np.where(sound, values, 0.0).sum(axis=-1), sound.sum(axis=-1))
