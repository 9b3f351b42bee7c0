"""Semantic duplicates: equal to the star rule written out within one cluster, and near to it over many."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.pairs import semantic
from clip_transforms.pairs.semantic import nearest, semantic_duplicates, spherical_kmeans


def families(seed: int, count: int, *, dim: int = 24, spread: float = 0.12) -> npt.NDArray[Any]:
    """Unit vectors around a sixth as many centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 6), dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = (
        centres[rng.integers(0, len(centres), count)] + rng.normal(size=(count, dim)) * spread / dim**0.5
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def star_rule(vectors: Any, scores: Any, ids: Any, cosine: float) -> list[int]:
    order = sorted(range(len(vectors)), key=lambda row: (-np.nan_to_num(scores[row], nan=-9), ids[row]))
    joins, kept = list(range(len(vectors))), []
    for row in order:
        for other in kept:
            if float(vectors[row] @ vectors[other]) >= cosine:
                joins[row] = other
                break
        else:
            kept.append(row)
    return joins


@pytest.mark.parametrize("cosine", [0.9, 0.98, 0.99])
def test_one_cluster_equals_the_rule_written_out(cosine: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        monkeypatch.setattr(semantic, "_BLOCK", (3, 64, 1024)[seed % 3])
        monkeypatch.setattr(semantic, "_PRODUCTS", (12, 4096, 1 << 22)[seed % 3])
        rng = np.random.default_rng(seed)
        vectors = families(seed, 200)
        scores = rng.choice(np.array([0.3, 0.2, np.nan], np.float32), 200)
        ids = rng.permutation(200)
        found = semantic_duplicates(
            lambda vectors=vectors: [vectors[:70], vectors[70:]], scores, ids, cosine=cosine
        )
        expected = star_rule(vectors, scores, ids, cosine)
        assert found.joins.tolist() == expected
        assert 10 < sum(row != join for row, join in enumerate(expected)) < 190
        assert (found.clusters, found.largest) == (1, 200)


def test_clusters_lose_little_and_merge_nothing_wrong() -> None:
    vectors = families(7, 3000)
    scores = np.random.default_rng(7).random(3000, np.float32)
    ids = np.arange(3000)
    expected = np.array(star_rule(vectors, scores, ids, 0.97))
    found = semantic_duplicates(lambda: np.array_split(vectors, 9), scores, ids, cosine=0.97, clusters=12)
    assert found.clusters == 12 and 3000 / 12 <= found.largest < 3000
    moved = np.flatnonzero(found.joins != ids)
    assert len(moved) >= 0.95 * np.count_nonzero(expected != ids)
    assert np.einsum("ij,ij->i", vectors[moved], vectors[found.joins[moved]]).min() >= 0.97
    assert (scores[found.joins] >= scores).all()
    assert (found.joins[found.joins] == found.joins).all()


def test_seeded_and_whatever_the_chunks() -> None:
    vectors, scores, ids = families(2, 900), np.random.default_rng(2).random(900, np.float32), np.arange(900)
    once, again = (
        semantic_duplicates(lambda n=n: np.array_split(vectors, n), scores, ids, clusters=7, seed=5)
        for n in (1, 13)
    )
    assert once.joins.tolist() == again.joins.tolist()
    assert (once.clusters, once.largest) == (again.clusters, again.largest)


def test_half_precision_and_other_lengths_are_normalised() -> None:
    vectors = np.array([[3, 0], [0.5, 0.01], [0, 2], [0, 0]], np.float16)
    found = semantic_duplicates(lambda: [vectors], np.float32([1, 2, 3, 4]), np.arange(4), cosine=0.99)
    assert found.joins.tolist() == [1, 1, 2, 3]


def test_no_rows() -> None:
    found = semantic_duplicates(list, np.empty(0, np.float32), np.empty(0))
    assert (found.joins.tolist(), found.clusters, found.largest) == ([], 0, 0)


def test_one_vector_for_all_in_more_clusters_than_vectors_differ() -> None:
    vectors = np.tile(np.float32([[0.6, 0.8]]), (50, 1))
    found = semantic_duplicates(lambda: [vectors], np.arange(50, dtype=np.float32), np.arange(50), clusters=8)
    assert found.joins.tolist() == [49] * 50


def test_clusters_that_lose_all_their_vectors_begin_again() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(6, dtype=np.float32), 30, axis=0)
    centroids = spherical_kmeans(vectors, 6, rng)
    assert sorted(np.bincount(nearest(vectors, centroids), minlength=6).tolist()) == [30] * 6
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cosine": 0.0}, "from a cosine of 0: expected more than 0"),
        ({"cosine": 1.1}, "from a cosine of 1.1: expected"),
        ({"clusters": 0}, "0 clusters: expected 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        semantic_duplicates(list, np.empty(0, np.float32), np.empty(0), **options)


def test_vectors_that_are_not_the_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 vectors for 3 scores"):
        semantic_duplicates(
            lambda: [np.eye(2, dtype=np.float32)], np.zeros(3, np.float32), np.arange(3), clusters=1
        )
