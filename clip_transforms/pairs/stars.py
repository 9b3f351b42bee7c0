"""The star rule: of rows that are alike, which are kept and which join a kept one.

By descending score a row joins the best kept row that is alike to it, and is kept itself if there is none.
A group is thus a kept row and rows alike to it (a star), never a chain: rows that are not alike do not come
together through a third.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_STEP = 1 << 18  # edges as Python numbers at once


def best_first(scores: npt.NDArray[Any], ids: npt.NDArray[Any]) -> Rows:
    """The row numbers by descending score, rows without one (NaN) last, equal scores by ascending id.

    ids: anything that sorts: image ids as fixed-width texts, or numbers in their order.

    >>> best_first(np.float32([0.1, 0.3, np.nan, 0.3]), np.array(["a", "d", "b", "c"])).tolist()
    [3, 1, 0, 2]
    """
    return np.lexsort((ids, -np.asarray(scores))).astype(np.int64, copy=False)


def stars(count: int, better: Rows, worse: Rows) -> Rows:
    """For each of `count` rows, numbered best first, the row that it joins: itself if it is kept.

    better, worse: the pairs that are alike, each with better < worse; in any order, any number of times.

    >>> stars(4, better=np.array([0, 1, 2]), worse=np.array([1, 2, 3])).tolist()  # a chain is no group
    [0, 0, 2, 2]
    """
    joins = np.arange(count, dtype=np.int64)
    order = np.lexsort((better, worse))  # all pairs of a better row come before those of a worse one
    kept = bytearray(b"\1") * count
    for start in range(0, len(order), _STEP):
        step = order[start : start + _STEP]
        for high, low in zip(better[step].tolist(), worse[step].tolist(), strict=True):
            if kept[low] and kept[high]:
                kept[low] = 0
                joins[low] = high
    return joins
