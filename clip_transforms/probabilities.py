"""Logits to probabilities, entropies and the largest few of each row; never NaN on finite input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_FEW = 32  # up to here, looking for the largest again and again is faster than sorting


def cosines(embeddings: Float32, texts: Float64) -> Float32:
    """[N, D] and [C, D] unit vectors -> [N, C] cosines.

    Multiplied in float64 and rounded: float32 products differ in their last bits with the number of rows
    (the library picks another kernel), and a row's result must not depend on its neighbours.
    """
    return (embeddings.astype(np.float64) @ texts.T).astype(np.float32)


def softmax(logits: Float32) -> tuple[Float32, Float32]:
    """Softmax of each row, and its entropy divided by log(number of columns).

    >>> p, entropy = softmax(np.zeros((1, 4), np.float32))
    >>> p.tolist(), entropy.tolist()
    ([[0.25, 0.25, 0.25, 0.25]], [1.0])
    """
    below = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(below)
    total = powers.sum(axis=1)
    entropy = np.log(total) - np.einsum("ij,ij->i", powers, below) / total
    return powers / total[:, None], _normalised(entropy, logits.shape[1])


def sigmoid(logits: Float32) -> Float32:
    """1 / (1 + exp(-x)), without overflow.

    >>> sigmoid(np.float32([[-1000.0, 0.0, 1000.0]])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    found: Float32 = np.exp(np.minimum(logits, 0)) / (1 + np.exp(-np.abs(logits)))
    return found


def sigmoid_entropy(logits: Float32) -> Float32:
    """Entropy of sigmoid probabilities made to add up to 1, divided by log(number of columns).

    Computed from the logarithms, so it holds where every probability underflows.

    >>> sigmoid_entropy(np.float32([[-500.0, -500.0]])).tolist()
    [1.0]
    """
    logs = np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))
    return softmax(logs)[1]


def binary_entropy(logits: Float32) -> Float32:
    """The mean over each row of the entropies, in bits, of sigmoid(x) against 1 - sigmoid(x).

    >>> binary_entropy(np.float32([[0.0, 1000.0]])).tolist()
    [0.5]
    """
    size = np.abs(logits)
    small = np.exp(-size)
    entropies = np.log1p(small) + size * small / (1 + small)
    found: Float32 = np.clip(entropies.mean(axis=1) / np.float32(np.log(2)), 0, 1)
    return found


def largest(values: Float32, count: int) -> Int32:
    """The columns of the `count` largest of each row, falling; of equal values the first column comes first.

    >>> largest(np.float32([[0.1, 0.7, 0.7, 0.2]]), 3).tolist()
    [[1, 2, 3]]
    """
    if count > _FEW:
        return np.argsort(-values, axis=1, kind="stable")[:, :count].astype(np.int32)
    left = values.copy()
    rows = np.arange(len(values))
    found = np.empty((len(values), count), np.int32)
    for place in range(count):
        found[:, place] = left.argmax(axis=1)
        left[rows, found[:, place]] = -np.inf
    return found


def _normalised(entropy: Float32, classes: int) -> Float32:
    if classes == 1:
        return np.zeros_like(entropy)
    found: Float32 = np.clip(entropy / np.float32(np.log(classes)), 0, 1)
    return found
