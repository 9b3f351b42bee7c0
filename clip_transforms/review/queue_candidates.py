"""The rows of lowest margin of each cluster, in bounded memory, and the choice among them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clip_transforms.review.queue_clusters import near

#: A row that may be chosen: where it is (part, row), and what is compared. key: of its image id.
CANDIDATE = np.dtype(
    [
        ("cluster", "i4"),
        ("margin", "f4"),
        ("key", "f8"),
        ("phash", "u8"),
        ("sketch", "u8"),
        ("block", "i4"),
        ("row", "i4"),
    ]
)
Candidates = npt.NDArray[np.void]

_MOST = 2_000_000  # candidates of all clusters together: 80 MB
_PENDING = 1 << 17  # rows gathered before they are sorted in
_SPARE = 2  # candidates of a cluster for each row of the queue: near-duplicates fall out
_UNSURE = 10  # for each row of the queue, candidates of lowest margin that the clusters take turns with


def cluster_count(slots: int) -> int:
    """How many clusters a queue of so many rows is spread over, so that their candidates are bounded.

    >>> cluster_count(100), cluster_count(1500), cluster_count(100_000)
    (6, 93, 10)
    """
    return max(1, min(128, slots // 16, _MOST // (_SPARE * max(1, slots))))


class Lowest:
    """For each of `clusters` clusters its candidates of lowest margin, exact copies once.

    What it holds depends neither on the order in which rows are offered nor on how they are cut into calls.
    """

    def __init__(self, *, clusters: int, slots: int) -> None:
        self._size = _SPARE * max(1, slots)
        self._kept = np.zeros(0, CANDIDATE)
        self._pending: list[Candidates] = []
        self._waiting = 0
        self._bounds = np.full(clusters, np.inf, np.float32)  # a margin above it cannot get in

    def offer(self, rows: Candidates) -> None:
        """Take what may be among the lowest."""
        fits = rows[rows["margin"] <= self._bounds[rows["cluster"]]]
        self._pending.append(fits)
        self._waiting += len(fits)
        if self._waiting >= _PENDING:
            self._sort_in()

    def values(self) -> Candidates:
        """The candidates by cluster, then margin."""
        self._sort_in()
        return self._kept

    def _sort_in(self) -> None:
        rows = np.concatenate([self._kept, *self._pending])
        self._pending, self._waiting = [], 0
        copies = ("key", "margin", "sketch", "phash", "cluster")
        rows = rows[np.lexsort([rows[name] for name in copies])]
        if len(rows):
            same = np.ones(len(rows), bool)
            same[0] = False
            for name in ("cluster", "phash", "sketch"):
                same[1:] &= rows[name][1:] == rows[name][:-1]
            rows = rows[~same]
        rows = rows[np.lexsort([rows[name] for name in ("key", "margin", "cluster")])]
        starts = np.searchsorted(rows["cluster"], np.arange(len(self._bounds) + 1))
        rank = np.arange(len(rows)) - starts[rows["cluster"]]
        self._kept = rows[rank < self._size]
        full = np.flatnonzero(np.diff(starts) >= self._size)
        self._bounds[full] = rows["margin"][starts[full] + self._size - 1]


def choose(candidates: Candidates, slots: int) -> Candidates:
    """At most `slots` candidates, clusters in turn, each its lowest margins, no near-duplicates of a cluster.

    The turns go over the least sure candidates first, ten for each slot, so that a cluster that the model is
    sure of does not get its share; over the others where these do not fill the queue.
    """
    order = np.lexsort((candidates["key"], candidates["margin"]))
    unsure = order[: _UNSURE * slots]
    chosen: list[int] = []
    taken: dict[int, _Taken] = {}
    keys: set[float] = set()
    for places in (unsure, order[len(unsure) :]):
        for place in places[in_turn(candidates["cluster"][places])].tolist():
            if len(chosen) == slots:
                break
            row = candidates[place]
            others = taken.setdefault(int(row["cluster"]), _Taken())
            if row["key"] in keys or others.has_near(row):
                continue
            keys.add(row["key"])
            others.add(row)
            chosen.append(place)
    return candidates[np.array(chosen, np.int64)]


class _Taken:
    """What was chosen of one cluster, for comparing."""

    def __init__(self) -> None:
        self._hashes = np.zeros((2, 16), np.uint64)
        self._count = 0

    def has_near(self, row: np.void) -> bool:
        phashes, sketches = self._hashes[:, : self._count]
        return bool(near(row["phash"], row["sketch"], phashes, sketches).any())

    def add(self, row: np.void) -> None:
        if self._count == self._hashes.shape[1]:
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)], axis=1)
        self._hashes[:, self._count] = row["phash"], row["sketch"]
        self._count += 1


def in_turn(clusters: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The order in which rows come if their clusters take turns, the one of the first row first.

    >>> in_turn(np.array([7, 7, 7, 3, 3], np.int32)).tolist()
    [0, 3, 1, 4, 2]
    """
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(inverse))])[:-1]
    rank = np.empty(len(clusters), np.int64)
    rank[order] = np.arange(len(clusters)) - starts[inverse[order]]
    return np.lexsort((first[inverse], rank))
