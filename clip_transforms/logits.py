"""The logits behind the scores: cosines with the texts, the model's scale and bias, negatives, and a probe's blend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clip_transforms.elements import ContractError, RequestError
from clip_transforms.encoders.base import Family
from clip_transforms.probabilities import Float32, Float64, cosines
from clip_transforms.probe import Probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.score_rules import ScoreRules, score_rules
from clip_transforms.text_features import TextFeatures

_MAX_LOGIT = 1e6  # far above any trained model's, far below where float32 overflows
_NORM_TOLERANCE = 0.01  # of an embedding that was stored as float16 it is 0.001


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextSide:
    """The text side of a scoring: what every chunk of rows is held against."""

    family: Family
    rules: ScoreRules
    texts: Float64  # [C, D]
    negatives: Float64 | None  # [distinct negatives, D]: multi with a softmax-trained model
    scale: np.float32
    bias: np.float32
    top_k: int
    probe: Probe | None
    temperature: np.float32 | None


def class_logits(
    embeddings: Float32,
    features: TextFeatures,
    prompts: PromptSet,
    *,
    family: Family,
    logit_scale: float,
    logit_bias: float = 0.0,
    probe: Probe | None = None,
) -> Float32:
    """The logits [N, C] behind the probabilities of `score`, which takes the same, in the order of the classes."""
    model = text_side(
        features,
        prompts,
        score_rules(prompts),
        family=family,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        probe=probe,
    )
    return logits_of(checked(embeddings, model.texts.shape[1]), model)[1]


def text_side(
    features: TextFeatures,
    prompts: PromptSet,
    rules: ScoreRules,
    *,
    family: Family,
    logit_scale: float,
    logit_bias: float,
    probe: Probe | None,
    top_k: int = 1,
    temperature: float | None = None,
) -> TextSide:
    """What `scoring.score` holds rows against. Raises RequestError for options out of range, ContractError for features
    of other classes.
    """
    if family not in ("softmax", "sigmoid"):
        raise RequestError(f"the model family is '{family}', expected 'softmax' or 'sigmoid'")
    if not (0 < logit_scale <= _MAX_LOGIT and abs(logit_bias) <= _MAX_LOGIT):  # NaN is refused too
        given = f"logit_scale {logit_scale} and logit_bias {logit_bias}"
        raise RequestError(f"{given}, expected a scale above 0 and both at most {_MAX_LOGIT:g}")
    if temperature is not None and not 0 < temperature <= _MAX_LOGIT:
        raise RequestError(f"the temperature is {temperature}, expected a number above 0")
    two_way = prompts.task == "multi" and family == "softmax"
    return TextSide(
        family="softmax" if probe is not None and prompts.task == "single" else family,
        rules=rules,
        probe=probe,
        temperature=None if temperature is None else np.float32(temperature),
        texts=features.rows(rules.classes).astype(np.float64),
        negatives=features.rows(rules.negative_keys).astype(np.float64) if two_way else None,
        scale=np.float32(logit_scale),
        bias=np.float32(logit_bias),
        top_k=top_k,
    )


def checked(embeddings: Float32, dim: int) -> Float32:
    """The embeddings [N, D] as float32. Raises ContractError where D is not dim, or a row has not norm 1."""
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        told = f"embeddings of shape {embeddings.shape}, text features of {dim} dimensions"
        raise ContractError(f"{told}: they are not of one encoder")
    embeddings = embeddings.astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))  # NaN is bad too
    if len(bad):
        told = f"the embedding of row {bad[0]} has norm {norms[bad[0]]}, expected 1"
        raise ContractError(f"{told} ({len(bad)} such rows)")
    return embeddings


def logits_of(embeddings: Float32, model: TextSide) -> tuple[Float32, Float32]:
    """Cosines and logits, [N, C] each."""
    cosine = cosines(embeddings, model.texts)
    if model.negatives is None:
        logits = model.scale * cosine + model.bias
    else:
        against = cosines(embeddings, model.negatives)[:, model.rules.negative_of]
        logits = model.scale * (cosine - against)
    if model.probe is not None:
        logits = model.probe.blended(embeddings, logits, model.rules.classes)
    return cosine, logits
