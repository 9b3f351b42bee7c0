"""What a reviewer is shown of each image of a queue, the same for every tool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clip_transforms.prompts import PromptSet
from clip_transforms.review.agreement import labels_of
from clip_transforms.review.queue import Queue
from clip_transforms.review.report_format import number, word


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class of a row's top k. calibrated: None without a calibration, or where it does not follow."""

    label: str
    score: float
    calibrated: float | None
    cosine: float

    @property
    def probability(self) -> float:
        """The calibrated one, where there is one."""
        return self.score if self.calibrated is None else self.calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of a queue, with what may be shown of it.

    shown: the labels that are proposed; empty where the model gave none; None where nothing is to be shown
    (blind). probability, cosine, margin, entropy and guesses are None or empty then too. paths: of each of
    `shown`, from the root, in a hierarchy. several: of a multi-label set.
    """

    position: int
    image_id: str
    uri: str
    sha256: str | None
    width: int
    height: int
    format: str
    shown: tuple[str, ...] | None
    paths: tuple[tuple[str, ...], ...]
    several: bool
    probability: float | None
    calibrated: bool
    cosine: float | None
    margin: float | None
    entropy: float | None
    guesses: tuple[Guess, ...]
    reason: str
    prob: float
    tag: str
    encoder: str

    @property
    def why(self) -> str:
        """Why the image is in the queue, in words; that of a blind row tells nothing of what the model thinks."""
        kinds = {"audit": "audit: drawn at random", "margin": "margin: the model is not sure"}
        words = kinds.get(self.reason, self.reason)
        return words if self.shown is None else f"{words}, in the queue with probability {number(self.prob)}"

    @property
    def scores(self) -> str:
        """The top k in words."""
        if self.shown is None:
            return "not shown: judge the picture alone"
        kind = "" if self.calibrated else "not calibrated; "
        guesses = " | ".join(
            f"{word(guess.label)} {number(guess.probability)} (cosine {number(guess.cosine)})"
            for guess in self.guesses
        )
        own = f"cosine {number(self.cosine or 0)}, " if not self.guesses else ""
        return (
            f"{guesses} | {kind}{own}margin {number(self.margin or 0)}, entropy {number(self.entropy or 0)}"
        )


def queue_items(queue: Queue, prompts: PromptSet, *, temperature: float | None) -> list[Item]:
    """The rows of a queue as items, in its order. temperature: of the set's calibration."""
    rows = queue.rows.to_pylist()
    sizes = queue.sizes.to_pylist()
    return items_of(rows, sizes, prompts, temperature=temperature)


def items_of(
    rows: Sequence[dict[str, Any]],
    sizes: Sequence[dict[str, Any]],
    prompts: PromptSet,
    *,
    temperature: float | None,
) -> list[Item]:
    """Rows of QUEUE, and the size and format of each, as items."""
    paths = prompts.paths() if prompts.groups else {}
    return [_item(row, size, prompts, paths, temperature) for row, size in zip(rows, sizes, strict=True)]


def _item(
    row: dict[str, Any],
    size: dict[str, Any],
    prompts: PromptSet,
    paths: dict[str, tuple[str, ...]],
    temperature: float | None,
) -> Item:
    shown = _shown(row, prompts)
    blind = shown is None
    calibrated = row["calibrated"]
    probability = row["score"] if calibrated is None else calibrated
    return Item(
        position=row["position"],
        image_id=row["image_id"],
        uri=row["uri"],
        sha256=row["sha256"],
        width=size["width"],
        height=size["height"],
        format=size["format"],
        shown=shown,
        paths=tuple(paths[label] for label in shown or () if label in paths),
        several=prompts.task == "multi",
        probability=None if blind else probability,
        calibrated=calibrated is not None,
        cosine=None if blind else row["cosine"],
        margin=None if blind else row["margin"],
        entropy=None if blind else row["entropy"],
        guesses=() if blind else _guesses(row, prompts, temperature),
        reason=row["selection_reason"],
        prob=row["selection_prob"],
        tag=row["prompt_set"],
        encoder=row["encoder"],
    )


def _shown(row: dict[str, Any], prompts: PromptSet) -> tuple[str, ...] | None:
    return None if row["blind"] else labels_of(row, prompts.task)


def _guesses(row: dict[str, Any], prompts: PromptSet, temperature: float | None) -> tuple[Guess, ...]:
    top = row["top_k"]
    scores = [guess["score"] for guess in top]
    label = row["label"] if row["label"] is not None else top[0]["label"]
    own = next((place for place, guess in enumerate(top) if guess["label"] == label), None)
    tempered: list[float] | None = None
    if temperature is not None and row["calibrated"] is not None:
        apart = prompts.task == "multi"
        tempered = tempered_scores(scores, own, row["calibrated"], temperature, apart=apart)
    return tuple(
        Guess(
            label=guess["label"],
            score=guess["score"],
            calibrated=None if tempered is None else tempered[place],
            cosine=guess["cosine"],
        )
        for place, guess in enumerate(top)
    )


def tempered_scores(
    scores: Sequence[float], own: int | None, calibrated: float, temperature: float, *, apart: bool
) -> list[float] | None:
    """The calibrated probabilities of a row's top k, from the stored ones and the calibrated one of its label.

    own: the label's place in the top k; None where it is a group. apart: each class is a question of its own
    (a multi-label set). In a single-label set the model's family shows in the label's own two numbers. None
    where they do not follow: the probabilities of classes beyond the top k would be needed.

    >>> tempered_scores([0.8, 0.2], 0, 2 / 3, 2.0, apart=False)
    [0.6666666666666666, 0.3333333333333333]
    >>> tempered_scores([0.8, 0.5], 0, 2 / 3, 2.0, apart=True)
    [0.6666666666666666, 0.5]
    """
    alone = [_cooled(score, temperature) for score in scores]
    if apart or (own is not None and abs(alone[own] - calibrated) < 1e-5):
        return alone
    if own is None or scores[own] <= 0:
        return None
    return [min(1.0, calibrated * (score / scores[own]) ** (1 / temperature)) for score in scores]


def _cooled(score: float, temperature: float) -> float:
    if not 0 < score < 1:
        return float(score)
    logit = (math.log(score) - math.log1p(-score)) / temperature
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))
