"""The reviewed images of a label set as arrays: embeddings, answers, weights, and which are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.found_rows import find_rows
from clip_transforms.labelled import LabelledRun
from clip_transforms.probabilities import Float32, Float64
from clip_transforms.prompts.rules import NONE
from clip_transforms.prompts.types import PromptSet, Task
from clip_transforms.review.report_data import sample_keys
from clip_transforms.review.reviews import Verdict

Bool = npt.NDArray[np.bool_]

#: How many times the least weight of an image the greatest may be.
MOST_WEIGHT = 3.0
HELD_OUT = 0.5  # of the audit, by a hash of the image id: the same images every time
_HELD_OUT_SEED = 20_210_226


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reviewed:
    """N reviewed images, sorted by id.

    embeddings: [N, D], norm 1. targets: [N, C] in the order of `classes`; a single-label set has one a row.
    weights: [N], mean 1. held_out: [N], those of the audit that nothing is trained on. left_out: why reviews
    were not used -> how many images.
    """

    task: Task
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    uris: tuple[str, ...]
    embeddings: Float32
    targets: Bool
    weights: Float64
    held_out: Bool
    left_out: Mapping[str, int]

    @property
    def trained(self) -> Reviewed:
        """Those that a probe may learn from; their weights again have the mean 1."""
        return self.rows(~self.held_out)

    def rows(self, chosen: Bool) -> Reviewed:
        """Some of them."""
        places = np.flatnonzero(chosen).tolist()
        weights = self.weights[chosen]
        return Reviewed(
            task=self.task,
            classes=self.classes,
            ids=tuple(self.ids[place] for place in places),
            uris=tuple(self.uris[place] for place in places),
            embeddings=self.embeddings[chosen],
            targets=self.targets[chosen],
            weights=weights / weights.mean() if len(weights) else weights,
            held_out=self.held_out[chosen],
            left_out=self.left_out,
        )


def read_reviewed(run: LabelledRun, verdicts: Sequence[Verdict], *, earlier: int = 0) -> Reviewed:
    """The images of these verdicts, found in one pass over the run.

    earlier: images that have no verdict, as they changed after their reviews. Left out besides are images whose
    reviewers do not agree, those that the run does not have, and answers that no class can learn from: a group of a
    hierarchy, `__none__` where the set has no such class, labels that the set does not have. Of images that share an
    id the one that was reviewed counts. Memory: the reviewed rows.
    """
    prompts = run.label_set.prompt_set
    left_out: Counter[str] = Counter({"the image changed since": earlier} if earlier else {})
    answers: dict[str, tuple[Verdict, tuple[int, ...]]] = {}
    for verdict in verdicts:
        places = _places(verdict, prompts, left_out)
        if places is not None:
            answers[verdict.image_id] = (verdict, places)
    found = find_rows(run, {key: verdict.uri for key, (verdict, _) in answers.items()})
    ids = found.ids
    if len(ids) < len(answers):
        left_out["the run has no such image"] += len(answers) - len(ids)
    chosen = [answers[key][0] for key in ids]
    targets = np.zeros((len(ids), len(prompts.classes)), bool)
    for row, key in enumerate(ids):
        targets[row, list(answers[key][1])] = True
    return Reviewed(
        task=prompts.task,
        classes=prompts.classes,
        ids=ids,
        uris=found.uris,
        embeddings=_normalised(found.embeddings),
        targets=targets,
        weights=selection_weights(
            [verdict.selection_prob for verdict in chosen], [verdict.audit for verdict in chosen]
        ),
        held_out=held_out(ids, [verdict.audit for verdict in chosen]),
        left_out={why: left_out[why] for why in sorted(left_out)},
    )


def held_out(ids: Sequence[str], audit: Sequence[bool]) -> Bool:
    """Which of these reviewed images are kept for `calibrate`: half of the audit, the same ones every time.

    >>> int(held_out([f"{n}" for n in range(1000)], [True] * 1000).sum())
    522
    """
    chosen: Bool = np.array(audit, bool) & (sample_keys(ids, seed=_HELD_OUT_SEED) < HELD_OUT)
    return chosen


def selection_weights(probs: Sequence[float | None], audit: Sequence[bool]) -> Float64:
    """What each image stands for: 1 / its chance of being chosen and trained on, with the mean 1.

    Of audit rows half are held out, which halves the chance of those that came by the audit alone. An image
    of unknown chance (a review without a queue) counts as chosen on purpose. A weight is at most MOST_WEIGHT
    times the least: where a handful of audit rows stands for millions of images, all other reviews would
    count for nothing.

    >>> selection_weights([1.0, None, 0.5, 0.001], [False, False, True, True]).round(2).tolist()
    [0.5, 0.5, 1.5, 1.5]
    """
    if not probs:
        return np.zeros(0)
    chances = np.array([1.0 if prob is None else prob for prob in probs])
    by_audit = np.array(audit, bool) & (chances < 1)
    weights = 1 / np.where(by_audit, chances * (1 - HELD_OUT), chances)
    weights = np.minimum(weights, MOST_WEIGHT * weights.min())
    found: Float64 = weights / weights.mean()
    return found


def _places(verdict: Verdict, prompts: PromptSet, left_out: Counter[str]) -> tuple[int, ...] | None:
    """The classes of an answer; None where nothing can be learnt from it, which is counted."""
    if verdict.labels is None:
        left_out["the reviewers do not agree"] += 1
        return None
    at = {name: place for place, name in enumerate(prompts.classes)}
    strange = [name for name in verdict.labels if name not in at]
    if not strange and (prompts.task == "multi" or len(verdict.labels) == 1):
        return tuple(at[name] for name in verdict.labels)
    if any(name in prompts.groups for name in strange):
        left_out["the answer is a group of labels"] += 1
    elif NONE in strange:
        left_out["the answer is none of these, and the set has no such class"] += 1
    else:
        left_out["the answer is no label of the set"] += 1
    return None


def _normalised(embeddings: Float32) -> Float32:
    """Rows of norm 1: of stored float16 they are not quite."""
    rows = embeddings.astype(np.float64)
    found: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found
