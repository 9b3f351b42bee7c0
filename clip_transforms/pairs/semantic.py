"""Semantic duplicates: embeddings with a high cosine, looked for within clusters (SemDeDup, arXiv:2303.09540).

Vectors are clustered by spherical k-means, and only those of one cluster are compared: alike pictures at the
border of two clusters may be missed. Where SemDeDup keeps the picture that is furthest from the centroid, here
the star rule holds (`clip_transforms.pairs.stars`): the best by score is kept, and what joins it is alike to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.pairs.stars import Rows, best_first, stars

Vectors = npt.NDArray[np.float32]

#: By measurement with `beamclip-tiny` (`python -m benchmarks.pairs`): at 0.95 three of the 36 shipped drawings
#: join another, at 0.97 none. Other encoders spread their cosines otherwise.
DEFAULT_COSINE = 0.97
_CLUSTER_ROWS = 1 << 13  # on average; SemDeDup has 440 million rows in 50,000 clusters
_SAMPLE = 256  # rows a cluster to learn the centroids from ...
_SAMPLES = 1 << 18  # ... and at most
_ROUNDS = 20
_PRODUCTS = 1 << 22  # cosines at once
_BLOCK = 1 << 10  # rows of a cluster at once


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticDuplicates:
    """What `semantic_duplicates` found."""

    joins: Rows  # for each row the row that it joins: itself if it is kept
    clusters: int
    largest: int  # rows of the largest cluster


def semantic_duplicates(
    chunks: Callable[[], Iterable[npt.NDArray[Any]]],
    scores: npt.NDArray[Any],
    ids: npt.NDArray[Any],
    *,
    cosine: float = DEFAULT_COSINE,
    clusters: int | None = None,
    seed: int = 0,
    folder: str | None = None,
) -> SemanticDuplicates:
    """Which rows are semantic duplicates of which: of one cluster, with a cosine of at least `cosine`.

    chunks: called three times; arrays of shape (rows, dimensions), in the order of `scores` and `ids`, which
    have all rows (NaN: no score, last; ties by ascending id). clusters: default one for 8,192 rows, so that
    up to there the result is exact. folder: where a temporary file is made (default: the system's), with 4
    bytes a row and dimension; it is what bounds memory: a sample of at most 262,144 vectors, about 50 MB of
    cosines, and about 50 bytes a row. Seeded: the same rows in the same order give the same clusters.

    Raises:
        RequestError: `cosine` is not in (0, 1], or `clusters` is not positive.
        ValueError: the chunks have another number of rows than `scores`.

    >>> vectors = np.float32([[1, 0], [0.6, 0.8], [0.99, 0.1]])
    >>> semantic_duplicates(lambda: [vectors], np.float32([0.2, 0.1, 0.3]), np.arange(3)).joins.tolist()
    [2, 1, 2]
    """
    if not 0 < cosine <= 1:
        raise RequestError(
            f"semantic duplicates from a cosine of {cosine:g}: expected more than 0, at most 1"
        )
    if clusters is not None and clusters < 1:
        raise RequestError(f"{clusters} clusters: expected 1 or more")
    rows = len(scores)
    joins = np.arange(rows, dtype=np.int64)
    if not rows:
        return SemanticDuplicates(joins=joins, clusters=0, largest=0)
    wanted = min(rows, clusters or -(-rows // _CLUSTER_ROWS))
    rng = np.random.default_rng(seed)
    centroids = spherical_kmeans(
        _sample(chunks, rows, min(rows, _SAMPLES, _SAMPLE * wanted), rng), wanted, rng
    )
    cluster = np.concatenate([nearest(chunk, centroids) for chunk in _unit(chunks)])
    if len(cluster) != rows:
        raise ValueError(f"{len(cluster)} vectors for {rows} scores")
    order = best_first(scores, ids)
    order = order[np.argsort(cluster[order], kind="stable")]  # by cluster, best first
    sizes = np.bincount(cluster, minlength=len(centroids))
    with tempfile.TemporaryFile(dir=folder, prefix="beamclip-semantic-") as file:
        vectors = np.memmap(file, np.float32, "w+", shape=(rows, centroids.shape[1]))
        _gather(vectors, chunks, order)
        start = 0
        for size in sizes.tolist():
            mine = order[start : start + size]
            joins[mine] = mine[_stars(vectors[start : start + size], cosine)]
            start += size
        del vectors  # before its file goes
    return SemanticDuplicates(joins=joins, clusters=int(np.count_nonzero(sizes)), largest=int(sizes.max()))


def spherical_kmeans(vectors: Vectors, clusters: int, rng: np.random.Generator) -> Vectors:
    """Centroids of unit length, `clusters` of them, of vectors of unit length; begun from some of the vectors.

    >>> square = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
    >>> sorted(spherical_kmeans(square, 2, np.random.default_rng(1)).round(3).tolist())
    [[0.0, 1.0], [1.0, 0.0]]
    """
    centroids = vectors[np.sort(rng.choice(len(vectors), clusters, replace=False))]
    labels = np.full(len(vectors), -1, np.int32)
    for _ in range(_ROUNDS):
        before, labels = labels, nearest(vectors, centroids)
        if np.array_equal(before, labels):
            break
        order = np.argsort(labels, kind="stable")
        taken, starts = np.unique(labels[order], return_index=True)
        centroids = centroids.copy()
        centroids[taken] = _normalised(np.add.reduceat(vectors[order], starts, axis=0))
        empty = np.setdiff1d(np.arange(clusters), taken)
        if len(empty):  # they begin again at the vectors that are furthest from their own centroid
            fit = np.einsum("ij,ij->i", vectors, centroids[labels])
            centroids[empty] = vectors[np.argsort(fit, kind="stable")[: len(empty)]]
    return centroids


def nearest(vectors: Vectors, centroids: Vectors) -> npt.NDArray[np.int32]:
    """For each vector the number of the centroid with the highest cosine: the key by which alike ones meet.

    >>> nearest(np.float32([[0.8, 0.6], [0, 1]]), np.float32([[1, 0], [0, 1]])).tolist()
    [0, 1]
    """
    labels = np.empty(len(vectors), np.int32)
    step = max(1, _PRODUCTS // len(centroids))
    for start in range(0, len(vectors), step):
        labels[start : start + step] = np.argmax(vectors[start : start + step] @ centroids.T, axis=1)
    return labels


def _normalised(vectors: npt.NDArray[Any]) -> Vectors:
    single = vectors.astype(np.float32, copy=False)
    lengths = np.linalg.norm(single, axis=1, keepdims=True)
    return (single / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def _unit(chunks: Callable[[], Iterable[npt.NDArray[Any]]]) -> Iterator[Vectors]:
    return (_normalised(chunk) for chunk in chunks())


def _sample(
    chunks: Callable[[], Iterable[npt.NDArray[Any]]], rows: int, wanted: int, rng: np.random.Generator
) -> Vectors:
    numbers = np.sort(rng.choice(rows, wanted, replace=False))
    found, start = [], 0
    for chunk in _unit(chunks):
        low, high = np.searchsorted(numbers, [start, start + len(chunk)])
        found.append(chunk[numbers[low:high] - start])
        start += len(chunk)
    if start != rows:
        raise ValueError(f"{start} vectors for {rows} scores")
    return np.concatenate(found)


def _gather(vectors: Vectors, chunks: Callable[[], Iterable[npt.NDArray[Any]]], order: Rows) -> None:
    """Write the vectors in the given order of rows."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    start = 0
    for chunk in _unit(chunks):
        vectors[place[start : start + len(chunk)]] = chunk
        start += len(chunk)


def _stars(vectors: Vectors, cosine: float) -> Rows:
    """For each vector of a cluster, best first, the one that it joins."""
    joins = np.arange(len(vectors), dtype=np.int64)
    kept = np.empty(0, np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(vectors)), dtype=np.int64)
        for first in range(0, len(kept), _PRODUCTS // _BLOCK):
            some = kept[first : first + _PRODUCTS // _BLOCK]
            alike = vectors[block] @ vectors[some].T >= cosine
            joined = alike.any(axis=1)
            joins[block[joined]] = some[np.argmax(alike[joined], axis=1)]  # the first is the best
            block = block[~joined]
        left = vectors[block]
        better, worse = np.nonzero(np.triu(left @ left.T >= cosine, 1))
        joins[block] = block[stars(len(block), better, worse)]
        kept = np.concatenate([kept, block[joins[block] == block]])
    return joins
