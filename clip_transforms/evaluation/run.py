"""`evaluate_stored`: prompt sets held against the truths of stored embeddings, in bounded memory.

Embeddings are read in batches and never kept, but for the few images that few-shot probes are trained on.
Per image are kept: 12 bytes where probes are asked for; five bytes a label and eight more for a multi-label
set, in a temporary file where that is much; otherwise nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from clip_transforms.evaluation.compare import Comparison, texts_a_class
from clip_transforms.evaluation.judges import EvaluationOptions, MultiJudge, SingleJudge, Subject, TextModel
from clip_transforms.evaluation.multi import MultiFigures
from clip_transforms.evaluation.shots import FewShot
from clip_transforms.evaluation.single import SingleFigures
from clip_transforms.evaluation.stored import StoredEmbeddings
from clip_transforms.evaluation.truth import TruthCounts, TruthMap, nothing_matches


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEvaluation:
    """All that was found for one prompt set: `single` or `multi`, by its task.

    failed: images that could not be embedded and whose truth the set knows (or, where truths are in a column,
    all that failed); they are in no figure but those that say so. failed_other: the rest of what failed.
    """

    tag: str
    task: str
    classes: int
    texts: float  # a class, on average
    counts: TruthCounts
    failed: int
    failed_other: int
    single: SingleFigures | None
    multi: MultiFigures | None
    comparisons: tuple[Comparison, ...]
    few_shot: FewShot | None


def evaluate_stored(
    stored: StoredEmbeddings,
    subjects: Sequence[Subject],
    model: TextModel,
    options: EvaluationOptions,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[SetEvaluation, ...]:
    """Evaluate prompt sets in one pass over the embeddings; few-shot probes take two more each.

    report: is told what takes long. Raises RequestError where a set knows none of the truths, or the few-shot
    comparison cannot be made.
    """
    with ExitStack() as stack:
        judges = [_judge(subject, stored, model, options) for subject in subjects]
        for judge in judges:
            stack.enter_context(closing(judge))
        for rows in stored.batches():
            for judge in judges:
                judge.add(rows)
        for judge in judges:
            if not judge.counts.judged:
                columns = stored.column_names()
                raise nothing_matches(stored.source, judge.subject.prompts, judge.counts, columns=columns)
        return tuple(_evaluation(judge, stored, report) for judge in judges)


def _judge(
    subject: Subject, stored: StoredEmbeddings, model: TextModel, options: EvaluationOptions
) -> SingleJudge | MultiJudge:
    if subject.prompts.task == "multi":
        return MultiJudge(subject, model, options, images=stored.rows)
    return SingleJudge(subject, model, options)


def _evaluation(
    judge: SingleJudge | MultiJudge, stored: StoredEmbeddings, report: Callable[[str], None]
) -> SetEvaluation:
    failed, failed_other = _failed(stored, judge.truths)
    single = judge if isinstance(judge, SingleJudge) else None
    multi = judge if isinstance(judge, MultiJudge) else None
    prompts = judge.subject.prompts
    return SetEvaluation(
        tag=judge.subject.tag,
        task=prompts.task,
        classes=len(prompts.classes),
        texts=texts_a_class(prompts),
        counts=judge.counts,
        failed=failed,
        failed_other=failed_other,
        single=single.figures(failed=failed) if single else None,
        multi=multi.figures(failed=failed) if multi else None,
        comparisons=single.comparisons() if single else (),
        few_shot=single.few_shot(stored, report) if single else None,
    )


def _failed(stored: StoredEmbeddings, truths: TruthMap) -> tuple[int, int]:
    """Images that failed: those that count for this set, and others."""
    counted = other = 0
    for truth in stored.failed():
        if truth is not None and truths.place(truth) < 0:
            other += 1
        else:
            counted += 1
    return counted, other
