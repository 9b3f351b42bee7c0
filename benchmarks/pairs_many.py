"""The searches of `benchmarks.pairs` among many rows: time, memory, growth, and whether planted rows are found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.measured import Prepared, measured
from clip_transforms.pairs.hamming import ones
from clip_transforms.pairs.near import DEFAULT_DISTANCE, MIN_BITS_SET, NearDuplicates, near_duplicates
from clip_transforms.pairs.semantic import SemanticDuplicates, semantic_duplicates

RANDOM = "half of the bits, at random"
ALIKE = "alike: each bit 3 to 1"
_STEP = 1 << 16


def near_table(rows: int) -> None:
    """Time, memory and growth of the search for near duplicates; a row in twenty is a planted copy."""
    print(f"Near duplicates (d: bits that may differ, default {DEFAULT_DISTANCE}), one core")
    print(f"{'hashes':<30}{'rows':>11}{'d':>4}{'seconds':>9}{'MiB more':>10}{'bytes a row':>13}", end="")
    print(f"{'planted':>10}{'found':>9}{'others joined':>15}{'approximate':>13}")
    for kind, odds, distance in (
        (RANDOM, None, DEFAULT_DISTANCE),
        (RANDOM, None, 8),
        (ALIKE, 0.75, DEFAULT_DISTANCE),
    ):
        (first, small), (second, large) = (
            near_line(kind, odds, distance, count) for count in (rows // 10, rows)
        )
        print(f"{'':<30}{'10 times':>11}{distance:>4}{second / first:>8.1f}x{large / small:>9.1f}x")
    print(
        "planted: copies with at most d bits changed whose originals are kept; others joined: within d of a"
    )
    print("better hash by chance; approximate: compared only with the best of a crowded bucket\n")


def near_line(kind: str, odds: float | None, distance: int, rows: int) -> tuple[float, float]:
    """Print a line; its seconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        measured(lambda: write_hashes(folder, rows, odds))
        planted, found, others, partly, seconds, more = measured(lambda: search(folder, distance))
    print(
        f"{kind:<30}{rows:>11,}{distance:>4}{seconds:>9.2f}{more / 2**20:>10.1f}{more / rows:>13.0f}", end=""
    )
    print(f"{int(planted):>10,}{int(found):>9,}{int(others):>15,}{int(partly):>13,}")
    return seconds, more


def write_hashes(folder: str, rows: int, odds: float | None) -> tuple[float, ...]:
    """The hashes and scores of a table's line, in files; the first twentieth are copies, with the worst scores."""
    hashes, copies = drawn_hashes(rows, odds), rows // 20
    rng = np.random.default_rng(5)
    planted = hashes[copies : 2 * copies].copy()
    for _ in range(DEFAULT_DISTANCE):
        planted ^= np.uint64(1) << rng.integers(0, 64, copies).astype(np.uint64)
    hashes[:copies] = planted
    scores = rng.random(rows, np.float32)
    scores[:copies] = -1
    np.save(f"{folder}/hashes.npy", hashes)
    np.save(f"{folder}/scores.npy", scores)
    return ()


def search(folder: str, distance: int) -> Prepared:
    """Planted copies, those of them found, other rows joined, hashes compared in part."""
    hashes, scores = np.load(f"{folder}/hashes.npy"), np.load(f"{folder}/scores.npy")
    ids, copies = np.arange(len(hashes)), len(hashes) // 20

    def work() -> NearDuplicates:
        return near_duplicates(hashes, scores, ids, distance=distance)

    def numbers(found: NearDuplicates) -> tuple[float, ...]:
        joined = found.joins != ids
        planted = ~joined[copies : 2 * copies] & (ones(hashes[:copies]) >= MIN_BITS_SET)
        planted &= ones(hashes[copies : 2 * copies]) >= MIN_BITS_SET
        return (planted.sum(), (joined[:copies] & planted).sum(), joined[copies:].sum(), found.approximate)

    return Prepared(work, numbers)


def semantic_line(rows: int, dim: int = 256) -> None:
    """Time and memory of semantic duplicates; a row in ten is a copy of another with a cosine of about 0.99."""
    with tempfile.TemporaryDirectory() as folder:
        measured(lambda: write_vectors(folder, rows, dim))
        found, others, clusters, largest, seconds, more = measured(lambda: search_vectors(folder))
    print(
        f"Semantic duplicates, one core: {rows:,} vectors of {dim}, {int(clusters)} clusters, the largest of"
    )
    print(
        f"{int(largest):,}: {seconds:.1f} s, {more / 2**20:.0f} MiB more; of {rows // 10:,} planted copies",
        end=" ",
    )
    print(f"{100 * found / (rows // 10):.2f} % found, {int(others):,} other rows joined\n")


def write_vectors(folder: str, rows: int, dim: int) -> tuple[float, ...]:
    """Vectors around 1,000 centres; the last tenth are the first with noise."""
    rng = np.random.default_rng(23)
    centres = rng.normal(size=(1000, dim)).astype(np.float32)
    vectors = centres[rng.integers(0, 1000, rows)] + 0.8 * rng.normal(size=(rows, dim)).astype(np.float32)
    noise = rng.normal(size=(rows // 10, dim)).astype(np.float32)
    vectors[-(rows // 10) :] = vectors[: rows // 10] + 0.15 * noise
    np.save(f"{folder}/vectors.npy", vectors)
    return ()


def search_vectors(folder: str) -> Prepared:
    """Planted copies found, other rows joined, clusters, rows of the largest."""
    vectors = np.load(f"{folder}/vectors.npy", mmap_mode="r")
    ids, copies = np.arange(len(vectors)), len(vectors) // 10

    def chunks() -> Iterator[Any]:
        return (vectors[start : start + _STEP // 8] for start in range(0, len(vectors), _STEP // 8))

    def work() -> SemanticDuplicates:
        return semantic_duplicates(chunks, -ids.astype(np.float32), ids, folder=folder)

    def numbers(found: SemanticDuplicates) -> tuple[float, ...]:
        joined = found.joins != ids
        return joined[-copies:].sum(), joined[:-copies].sum(), found.clusters, found.largest

    return Prepared(work, numbers)


def drawn_hashes(rows: int, odds: float | None) -> Any:
    """Hashes with 32 of 64 bits set at random; or, with `odds`, each bit as in one pattern that often."""
    hashes = np.empty(rows, np.uint64)
    rng = np.random.default_rng(17)
    for start in range(0, rows, _STEP):
        some = rng.random((min(_STEP, rows - start), 64), np.float32)
        bits = some > np.median(some, axis=1, keepdims=True)
        if odds is not None:
            bits = (some < odds) ^ (np.arange(64) % 2 == 0)
        hashes[start : start + len(some)] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    return hashes
