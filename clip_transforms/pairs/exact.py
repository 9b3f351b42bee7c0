"""Exact duplicates: rows whose image bytes have the same sha256."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.pairs.stars import Rows, best_first

DIGEST = np.dtype("S32")  # a sha256; NumPy drops trailing zero bytes alike on both sides of a comparison


def exact_duplicates(digests: npt.NDArray[Any], scores: npt.NDArray[Any], ids: npt.NDArray[Any]) -> Rows:
    """For each row the row that it joins: the best of those with its digest (itself, if that is kept).

    digests: sha256 values as `S32` (an Arrow column's bytes) or any other array that sorts. scores: NaN
    where there is none, then the row is worse than any with a score; ties go to the smaller id. About 70
    bytes a row of memory; rows may be given in partitions that hold all rows of a digest (`digest_partition`).

    >>> exact_duplicates(np.array([b"x", b"y", b"x"]), np.float32([0.1, 0.2, 0.3]), np.arange(3)).tolist()
    [2, 1, 2]
    """
    order = best_first(scores, ids)
    _, first, inverse = np.unique(digests[order], return_index=True, return_inverse=True)
    joins = np.empty(len(order), np.int64)
    joins[order] = order[first[inverse.reshape(-1)]]
    return joins


def digest_partition(digest: bytes, partitions: int) -> int:
    """The partition, from 0, of a sha256: the key of a GroupByKey by which equal ones meet.

    >>> digest_partition(bytes.fromhex("ff" * 32), 10)
    9
    """
    return int.from_bytes(digest[:8], "big") * partitions >> 64
