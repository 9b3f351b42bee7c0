"""The audit of a queue: a uniform random sample of all label rows, the same whatever the order of rows.

An image is drawn if the number that its id and the seed give (`report_data.sample_keys`) is among the lowest
`slots` of all images. The draw looks at nothing else: not at margins, and not at what was reviewed. So the
same seed draws the same images in every export, a larger audit holds the smaller one, and what of it was
reviewed as audit can be left out of the next export without making the audit less uniform. An image that was
reviewed, but not as audit, is asked for again: without the ones that a margin queue took, the rest would be
a sample of what the model is sure of.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

DRAWN = np.dtype([("key", "f8"), ("block", "i4"), ("row", "i4")])
MOST_ROWS = 100_000  # of a queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One audit: the lowest `slots` keys, and every key up to `floor`.

    floor: the bound of an audit that was drawn by this seed before the run grew; the new images are drawn
    up to it as well, else old ones would be likelier in the two audits together.
    """

    slots: int
    floor: float = -1.0


class AuditSample:
    """The places of the drawn rows; an id that comes twice is one image. Memory: the slots."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._kept = np.zeros(0, DRAWN)

    def offer(self, keys: Float64, block: int) -> None:
        """The keys of a part's rows, in their order."""
        if not self._draw.slots:
            return
        fits = np.flatnonzero(keys <= max(self._bound(), self._draw.floor))
        rows = np.zeros(len(fits), DRAWN)
        rows["key"], rows["block"], rows["row"] = keys[fits], block, fits
        rows = np.concatenate([self._kept, rows])
        rows = rows[np.argsort(rows["key"], kind="stable")]
        first = np.ones(len(rows), bool)
        first[1:] = rows["key"][1:] != rows["key"][:-1]
        rows = rows[first]
        count = int(np.searchsorted(rows["key"], self._draw.floor, side="right"))
        self._kept = rows[: max(self._draw.slots, count)]

    def values(self) -> npt.NDArray[np.void]:
        """The drawn rows (DRAWN), by key: their order tells nothing of the images."""
        return self._kept

    @property
    def bound(self) -> float:
        """The highest key that is drawn."""
        return float(self._kept["key"][-1]) if len(self._kept) else -1.0

    def _bound(self) -> float:
        return float(self._kept["key"][-1]) if len(self._kept) >= self._draw.slots else np.inf


def spread(audit: int, others: int) -> npt.NDArray[np.bool_]:
    """Which places of a queue are audit slots: as evenly among the others as can be.

    >>> spread(2, 4).astype(int).tolist()
    [0, 1, 0, 0, 1, 0]
    """
    places = np.zeros(audit + others, bool)
    if audit:
        places[((np.arange(audit) + 0.5) * len(places) / audit).astype(int)] = True
    return places


def without(rows: npt.NDArray[np.void], keys: Collection[float]) -> npt.NDArray[np.void]:
    """The rows whose keys are not among these."""
    return rows[~np.isin(rows["key"], np.array(sorted(keys), np.float64))]
