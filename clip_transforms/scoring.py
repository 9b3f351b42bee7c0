"""From embeddings and text features to probabilities, labels and decisions, with NumPy only.

Probabilities, by the model's family and the set's task:

- softmax, single: softmax over the classes of logit_scale * cosine + logit_bias (the bias cancels);
- sigmoid, single: sigmoid(logit_scale * cosine + logit_bias) of each class; they need not add up to 1;
- sigmoid, multi: the same, each label by itself; negatives are not used;
- softmax, multi: each label against its negative, a two-way softmax of logit_scale * cosine, so 0.5 says
  that the image is as near to the one as to the other. The negative is the label's `negatives`, else the
  set's `none`, else the shipped DEFAULT_NEGATIVES; several texts make one mean vector, as they do for a
  label.

A group's probability is the sum of its leaves', at most 1. Single: margin = p1 - p2 (p2 is 0 where there is
one class); entropy = that of the probabilities, made to add up to 1, divided by log(number of classes), and
0 for one class. Multi: the labels are independent questions, so margin = the least distance of a label's
probability from its threshold, and entropy = the mean of the labels' two-way entropies, in bits. All are in
0..1; a small margin or a large entropy means unsure.

Neither the order of labels nor that of rows, nor how rows are split into calls, changes a result: classes
are taken in the order of `PromptSet.classes` (by id, `__none__` last), and of equal ones the first wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import Family
from clip_transforms.logits import TextSide, checked, logits_of, text_side
from clip_transforms.probabilities import (
    Float32,
    Int32,
    binary_entropy,
    largest,
    sigmoid,
    sigmoid_entropy,
    softmax,
)
from clip_transforms.probe import Probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.score_rules import DECISIONS, REASONS, Codes, ScoreRules, back_off, decide, score_rules
from clip_transforms.text_features import TextFeatures

_CHUNK = 1 << 20  # values at a time, probabilities or vectors: arrays of 4 and 8 MB, whatever the rows
_MIN_ROWS = 64  # at a time, however many classes there are


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """N scored rows as arrays; `label_rows.labels_table` makes them Arrow rows.

    label: [N] places in rules.names, -1 where abstained or multi. score, cosine: [N], of the label (of a
    group its probability and its best leaf's cosine; of the best class where there is no label). margin,
    entropy: [N]. top_index, top_score, top_cosine: [N, K], falling. hit_counts [N] and hits (places in
    rules.names, row after row, falling score): the labels of a multi set. decision, reason: [N] places in
    DECISIONS and REASONS. calibrated: [N], `score` at the calibration's temperature; NaN without one.
    """

    rules: ScoreRules
    label: Int32
    score: Float32
    calibrated: Float32
    cosine: Float32
    margin: Float32
    entropy: Float32
    top_index: Int32
    top_score: Float32
    top_cosine: Float32
    hit_counts: Int32
    hits: Int32
    decision: Codes
    reason: Codes


def score(
    embeddings: Float32,
    features: TextFeatures,
    prompts: PromptSet,
    *,
    family: Family,
    logit_scale: float,
    logit_bias: float = 0.0,
    top_k: int = 5,
    accept: Mapping[str, float] | None = None,
    temperature: float | None = None,
    probe: Probe | None = None,
) -> Scored:
    """Label embeddings [N, D], rows of norm 1, by a prompt set.

    logit_scale is already exponentiated. top_k: at most the number of classes are given. accept: by label,
    the score from which on a row is `auto_accept`, and temperature: None before `calibrate`. probe: what its
    reviewed images taught; the blended logits take the place of the zero-shot ones (as softmax's in a single
    set, whatever the family), cosines stay. Raises RequestError for options out of range, ContractError for
    embeddings, features or a probe that do not fit.
    """
    if top_k < 1:
        raise RequestError(f"top_k is {top_k}, expected 1 or more")
    rules = score_rules(prompts, accept=accept)
    model = text_side(
        features,
        prompts,
        rules,
        family=family,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        top_k=min(top_k, len(rules.classes)),
        temperature=temperature,
        probe=probe,
    )
    embeddings = checked(embeddings, model.texts.shape[1])
    step = max(_MIN_ROWS, _CHUNK // max(model.texts.shape))
    starts = range(0, max(1, len(embeddings)), step)
    return _joined([_score_chunk(embeddings[start : start + step], model) for start in starts])


def _score_chunk(embeddings: Float32, model: TextSide) -> Scored:
    cosine, logits = logits_of(embeddings, model)
    top = largest(logits, min(max(2, model.top_k), logits.shape[1]))
    if model.rules.task == "multi":
        return _multi(cosine, logits, top, model)
    return _single(cosine, logits, top, model)


def _single(cosine: Float32, logits: Float32, top: Int32, model: TextSide) -> Scored:
    rules = model.rules
    if model.family == "softmax":
        probabilities, entropy = softmax(logits)
    else:
        probabilities, entropy = sigmoid(logits), sigmoid_entropy(logits)
    found = np.take_along_axis(probabilities, top, axis=1)
    second = found[:, 1] if found.shape[1] > 1 else np.float32(0)
    best, reached = top[:, 0], found[:, 0].copy()
    passed = reached >= rules.thresholds[best]
    label = np.where(passed, best, np.int32(-1))
    if rules.members is not None:
        groups = np.minimum(probabilities.astype(np.float64) @ rules.members, 1).astype(np.float32)
        back_off(label, reached, best, groups, rules)
    decision, reason = decide(label, reached, rules)
    return Scored(
        rules=rules,
        label=label,
        score=reached,
        calibrated=_calibrated(logits, label, best, model),
        margin=np.clip(found[:, 0] - second, 0, 1),
        entropy=entropy,
        hit_counts=np.zeros(len(label), np.int32),
        hits=np.zeros(0, np.int32),
        decision=decision,
        reason=reason,
        **_top(cosine, found, top, model),
    )


def _multi(cosine: Float32, logits: Float32, top: Int32, model: TextSide) -> Scored:
    rules = model.rules
    probabilities = sigmoid(logits)
    hit = probabilities >= rules.thresholds
    rows, columns = np.nonzero(hit)
    order = np.lexsort((columns, -logits[rows, columns], rows))
    counts = hit.sum(axis=1, dtype=np.int32)
    found = np.take_along_axis(probabilities, top, axis=1)
    words = [DECISIONS.index("abstain"), DECISIONS.index("review")]
    reasons = [REASONS.index("below_threshold"), REASONS.index("uncalibrated")]
    return Scored(
        rules=rules,
        label=np.full(len(logits), -1, np.int32),
        score=found[:, 0].copy(),
        calibrated=_calibrated(logits, top[:, 0], top[:, 0], model),
        margin=np.abs(probabilities - rules.thresholds).min(axis=1),
        entropy=binary_entropy(logits),
        hit_counts=counts,
        hits=columns[order].astype(np.int32),
        decision=np.where(counts > 0, words[1], words[0]).astype(np.int8),
        reason=np.where(counts > 0, reasons[1], reasons[0]).astype(np.int8),
        **_top(cosine, found, top, model),
    )


def _calibrated(logits: Float32, label: Int32, best: Int32, model: TextSide) -> Float32:
    """The probability of each row's label (of its best class where it has none) at the temperature."""
    if model.temperature is None:
        return np.full(len(logits), np.nan, np.float32)
    cooled = logits / model.temperature
    probabilities = softmax(cooled)[0] if _is_shared(model) else sigmoid(cooled)
    rules = model.rules
    if rules.members is not None:
        groups = np.minimum(probabilities.astype(np.float64) @ rules.members, 1).astype(np.float32)
        probabilities = np.concatenate([probabilities, groups], axis=1)
    shown = np.where(label < 0, best, label)
    found: Float32 = np.take_along_axis(probabilities, shown[:, None], axis=1)[:, 0]
    return found


def _is_shared(model: TextSide) -> bool:
    """Whether the classes share one probability."""
    return model.rules.task == "single" and model.family == "softmax"


def _top(cosine: Float32, found: Float32, top: Int32, model: TextSide) -> dict[str, Any]:
    """The fields that come of the best classes: `top_*`, and the best one's cosine."""
    near = np.clip(np.take_along_axis(cosine, top, axis=1), -1, 1)
    count = model.top_k
    return {
        "cosine": near[:, 0].copy(),
        "top_index": top[:, :count],
        "top_score": found[:, :count],
        "top_cosine": near[:, :count],
    }


def _joined(chunks: list[Scored]) -> Scored:
    if len(chunks) == 1:
        return chunks[0]
    names = [item.name for item in fields(Scored) if item.name != "rules"]
    arrays = {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names}
    return Scored(rules=chunks[0].rules, **arrays)
