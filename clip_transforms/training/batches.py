"""Batches for training: which pictures come together, with which captions, and which captions fit which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

import numpy as np
import numpy.typing as npt

from clip_transforms.training.captions import CaptionOptions, choose
from clip_transforms.training.examples import Examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of the examples, a sentence for each, and which sentences fit which pictures."""

    rows: npt.NDArray[np.int64]  # [B]
    texts: list[str]
    fits: npt.NDArray[np.bool_]  # [B, B]: sentence j fits picture i


class Sampler:
    """Draws pictures by weight; two of one concept, in different styles where there are such, go together.

    A concept with many pictures is drawn more often than one with few, but by the square root of what its
    pictures weigh together: the commonest icons would else fill every batch. State is the two generators.
    """

    def __init__(
        self, examples: Examples, *, seed: int, captions: CaptionOptions, pairs: bool = True
    ) -> None:
        self.examples = examples
        self.captions = captions
        self.pairs = pairs
        self.random = Random(seed)
        self.numpy = np.random.default_rng(seed)
        order = np.argsort(examples.concept, kind="stable")
        cuts = np.flatnonzero(np.diff(examples.concept[order])) + 1
        self._members = np.split(order, cuts)
        weights = np.array([examples.weight[rows].sum() for rows in self._members])
        self._concept_p = np.sqrt(weights) / np.sqrt(weights).sum()
        self._names = [frozenset((*c, *t)) for c, t in zip(examples.captions, examples.tags, strict=True)]

    def batch(self, size: int) -> Batch:
        """One batch of `size` pictures."""
        rows = self._paired(size) if self.pairs else self._drawn(size)
        chosen = [
            choose(self.examples.captions[row], self.examples.tags[row], self.captions, self.random)
            for row in rows
        ]
        fits = fitting([name for name, _ in chosen], [self._names[row] for row in rows])
        return Batch(rows=np.array(rows, np.int64), texts=[text for _, text in chosen], fits=fits)

    def _paired(self, size: int) -> list[int]:
        rows: list[int] = []
        for concept in self.numpy.choice(len(self._members), (size + 1) // 2, p=self._concept_p):
            members = self._members[concept]
            first = self._one(members)
            others = members[self.examples.style[members] != self.examples.style[first]]
            rows += [first, self._one(others if len(others) else members)]
        return rows[:size]

    def _drawn(self, size: int) -> list[int]:
        concepts = self.numpy.choice(len(self._members), size, p=self._concept_p)
        return [self._one(self._members[concept]) for concept in concepts]

    def _one(self, members: npt.NDArray[np.int64]) -> int:
        weights = self.examples.weight[members]
        total = weights.sum()
        if total <= 0:
            return int(members[self.numpy.integers(len(members))])
        return int(members[np.searchsorted(np.cumsum(weights), self.numpy.random() * total)])

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"random": self.random.getstate(), "numpy": self.numpy.bit_generator.state}

    def restore(self, state: dict[str, object]) -> None:
        """Goes on where `state` was taken."""
        version, numbers, gauss = cast("tuple[int, list[int], float | None]", state["random"])
        self.random.setstate((version, tuple(numbers), gauss))
        self.numpy.bit_generator.state = state["numpy"]  # type: ignore[assignment]


def fitting(names: Sequence[str], known: Sequence[frozenset[str]]) -> npt.NDArray[np.bool_]:
    """[B, B]: whether the name chosen for picture j is among the names of picture i.

    >>> fitting(["cat", "animal"], [frozenset(["cat", "animal"]), frozenset(["dog", "animal"])]).tolist()
    [[True, True], [False, True]]
    """
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name, []).append(column)
    fits = np.zeros((len(known), len(names)), bool)
    for row, mine in enumerate(known):
        for name in columns.keys() & mine:
            fits[row, columns[name]] = True
    return fits
