"""Clusters of a run's embeddings, fitted on a bounded seeded sample, and 64-bit sketches of single embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from clip_transforms.elements import RequestError
from clip_transforms.joined import Block, list_blocks, vectors_of
from clip_transforms.labelled import LabelledRun
from clip_transforms.pairs.hamming import Hashes, ones
from clip_transforms.probabilities import Float32, Int32
from clip_transforms.views import label_view

SAMPLE_ROWS = 8192
_SAMPLE_PARTS = 16
_ROWS_A_CLUSTER = 10  # of the sample, at least
_CHUNK = 8192  # rows at a time
_BUFFER = 1 << 20  # read ahead of the decoder, in place of a whole row group
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
        nearest = (vectors @ self.centres.T - half).argmax(axis=1).astype(np.int32)
        return nearest, np.packbits(vectors @ self.planes > 0, axis=1).view(np.uint64)[:, 0]


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
        return np.asarray(sample.mean(axis=0, keepdims=True), np.float32)
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
    order = rng.permutation(len(blocks))[:_SAMPLE_PARTS].tolist()
    found: list[Float32] = []
    left = SAMPLE_ROWS
    for done, place in enumerate(order):
        count = blocks[place].embeddings.rows
        # Parts differ in size: what a small one does not give, the next ones may.
        wanted = np.sort(rng.permutation(count)[: -(-left // (len(order) - done))])
        first = 0
        for vectors in iter_vectors(run, blocks[place]):
            here = wanted[(wanted >= first) & (wanted < first + len(vectors))]
            found.append(vectors[here - first])
            first += len(vectors)
        left -= len(wanted)
    return in_one_order(np.concatenate(found))


def in_one_order(rows: Float32) -> Float32:
    """Rows [N, D] in an order that depends on them alone: that of a part is the order in which images were decoded.

    >>> in_one_order(np.float32([[2, 1], [1, 2]])).tolist() == in_one_order(np.float32([[1, 2], [2, 1]])).tolist()
    True
    """
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    return rows[np.argsort(keys.ravel(), kind="stable")]


def iter_vectors(run: LabelledRun, block: Block) -> Iterator[Float32]:
    """The embeddings of a part, [at most _CHUNK, D] at a time."""
    with run.source.open(block.embeddings.name) as handle:
        file = pq.ParquetFile(handle, buffer_size=_BUFFER)
        for batch in file.iter_batches(batch_size=_CHUNK, columns=["embedding"], use_threads=False):
            yield vectors_of(batch.column("embedding"))


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
