"""Clusters of a run's embeddings, fitted on a bounded seeded sample, and 64-bit sketches of single embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.joined import list_blocks, read_embeddings, vectors_of
from clip_transforms.labelled import LabelledRun
from clip_transforms.pairs.hamming import Hashes, ones
from clip_transforms.probabilities import Float32, Int32
from clip_transforms.views import label_view

SAMPLE_ROWS = 16_384
_SAMPLE_PARTS = 16
_ROWS_A_CLUSTER = 10  # of the sample, at least
_CHUNK = 8192  # rows at a time
_PHASH_BITS = 4  # as `filter --dedup near`
_SKETCH_BITS = 10  # of 64: embeddings at a cosine of 0.97 differ in 5 of them, give or take 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """Centres [K, D] of embeddings, and the planes [D, 64] of their sketches."""

    centres: Float32
    planes: Float32

    def place(self, vectors: Float32) -> tuple[Int32, Hashes]:
        """Of embeddings [N, D]: the nearest centre, and the sketch: on which side of each plane they lie."""
        half = 0.5 * np.einsum("ij,ij->i", self.centres, self.centres)
        nearest = np.zeros(len(vectors), np.int32)
        sketches = np.zeros(len(vectors), np.uint64)
        for start in range(0, len(vectors), _CHUNK):
            rows = vectors[start : start + _CHUNK]
            here = slice(start, start + len(rows))
            nearest[here] = (rows @ self.centres.T - half).argmax(axis=1)
            sketches[here] = np.packbits(rows @ self.planes > 0, axis=1).view(np.uint64)[:, 0]
        return nearest, sketches


def fit_clusters(run: LabelledRun, *, count: int, seed: int) -> Clusters:
    """About `count` clusters of a run's embeddings, fewer where there are few rows.

    The sample is of at most SAMPLE_ROWS rows of some parts, both drawn by the seed. Raises RequestError
    where scikit-learn is not installed.
    """
    sample = _sample(run, seed=seed)
    count = max(1, min(count, len(sample) // _ROWS_A_CLUSTER))
    planes = np.random.default_rng(seed).standard_normal((sample.shape[1], 64)).astype(np.float32)
    return Clusters(centres=_centres(sample, count, seed=seed), planes=planes)


def _centres(sample: Float32, count: int, *, seed: int) -> Float32:
    if count == 1:
        return sample.mean(axis=0, keepdims=True)
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError:
        raise RequestError(
            "a review queue needs scikit-learn: pip install 'beamclip[review]'; or leave the margin queue out "
            "(--limit as large as --audit)"
        ) from None
    model = MiniBatchKMeans(count, random_state=seed, batch_size=2048, n_init=1, max_iter=20)
    return np.asarray(model.fit(sample).cluster_centers_, np.float32)


def _sample(run: LabelledRun, *, seed: int) -> Float32:
    blocks = list_blocks(run.source, [(label_view(run.tag), run.store)])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(blocks))[:_SAMPLE_PARTS]
    each = max(SAMPLE_ROWS // max(1, len(order)), 1)
    found, left = [], SAMPLE_ROWS
    for place in order:
        vectors = vectors_of(read_embeddings(run.source, blocks[place], ["embedding"])["embedding"])
        # Parts differ in size: what a small one does not give, the next ones may.
        rows = rng.permutation(len(vectors))[: max(each, left // max(1, len(order) - len(found)))]
        found.append(vectors[np.sort(rows[:left])].copy())
        left -= len(found[-1])
    return np.concatenate(found)


def phash_values(phashes: list[str]) -> Hashes:
    """64-bit perceptual hashes from their 16 hex digits.

    >>> phash_values(["00000000000000ff"]).tolist()
    [255]
    """
    return np.frombuffer(bytes.fromhex("".join(phashes)), ">u8").astype(np.uint64)


def near(phash: np.uint64, sketch: np.uint64, phashes: Hashes, sketches: Hashes) -> npt.NDArray[np.bool_]:
    """Which of some images are near-duplicates of one: alike to the eye and to the encoder.

    Both must agree: flat pictures share a perceptual hash whatever they show.
    """
    return (ones(phashes ^ phash) <= _PHASH_BITS) & (ones(sketches ^ sketch) <= _SKETCH_BITS)
