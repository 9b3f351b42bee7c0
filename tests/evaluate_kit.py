"""Synthetic embeddings with known answers: classes are axes, an image is a mix of them."""

from __future__ import annotations

import numpy as np

from clip_transforms.evaluation.judges import EvaluationOptions, SingleJudge, Subject, TextModel
from clip_transforms.evaluation.stored import EmbeddedRows
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.text_features import TextFeatures

MODEL = TextModel(family="softmax", logit_scale=20.0, logit_bias=0.0)


def prompt_set(*ids: str, **more: object) -> PromptSet:
    """A set of labels by id."""
    return PromptSet(name="known", labels=tuple(Label(id=key) for key in ids), **more)


def axes(prompts: PromptSet, dim: int | None = None) -> TextFeatures:
    """Each class (and each negative) on an axis of its own."""
    keys = tuple(prompts.prompts_by_class())
    matrix = np.eye(len(keys), dim or len(keys), dtype=np.float32)
    return TextFeatures(keys=keys, matrix=matrix, texts=(1,) * len(keys), fingerprint="f", encoder="by hand")


def unit(rows: object) -> np.ndarray:
    """Rows of norm 1."""
    wide = np.asarray(rows, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def noisy(classes: int, images: int, *, seed: int, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings, truths) of images near their class's axis."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    return unit(np.eye(classes)[truth] + noise * rng.normal(size=(images, classes))), truth


def rows_of(embeddings: np.ndarray, truths: list[str | None], *, first_key: int = 0) -> EmbeddedRows:
    """Rows as they are read, each image unlike all others."""
    keys = np.arange(first_key, first_key + len(embeddings), dtype=np.uint64)
    return EmbeddedRows(embeddings=embeddings, truths=list(truths), keys=keys)


def judged(
    prompts: PromptSet, embeddings: np.ndarray, truths: list[str | None], **options: object
) -> SingleJudge:
    """A judge that has seen the images, in batches of 7."""
    subject = Subject(tag="known@0", prompts=prompts, features=axes(prompts, embeddings.shape[1]))
    judge = SingleJudge(subject, MODEL, EvaluationOptions(**options))
    for start in range(0, len(embeddings), 7):
        judge.add(rows_of(embeddings[start : start + 7], truths[start : start + 7], first_key=start))
    return judge
