"""Prompts held against prompts on the same images: what `--compare` names, and the paired counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.metrics import Bool, Figure, Int64, PairedDifference, paired, share
from clip_transforms.prompts import PromptSet, load_prompt_set, shipped_templates, template_sets
from clip_transforms.prompts.templates import one_template

BARE = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A prompt set that another is held against. title: how people are told of it. derived: it is the other
    with other texts, so that the other's names and synonyms say what a truth means.
    """

    title: str
    prompts: PromptSet
    derived: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A set against a rival, on the images whose truth both know.

    differences: by what is compared (`top1`, `top5`, or `mean_average_precision` of a multi-label set), set -
    rival. texts: how many texts a class has on average, of the set and of the rival.
    """

    rival: str
    images: int
    top1: Figure
    rival_top1: Figure
    top1_difference: PairedDifference
    top5_difference: PairedDifference | None  # None where one of the two has at most five classes
    texts: float
    rival_texts: float


def rival_of(
    prompts: PromptSet, source: str, *, storage_options: Mapping[str, object] | None = None
) -> Rival:
    """What one `--compare` value means for a set.

    `bare`: each class by its name alone, no synonyms, no texts of its own. A template, known by its `{}`, or
    the name of a shipped template set: the set's names and synonyms through that. Anything else is a prompt
    set's name or file. Raises RequestError where it is none of these, or asks the same as the set itself.
    """
    if source == BARE:
        rival = Rival(title="the bare class name", prompts=_bare(prompts))
    elif "{" in source:
        rival = Rival(title=f"{source!r} alone", prompts=_templated(prompts, (one_template(source),)))
    elif source in template_sets():
        rival = Rival(
            title=f"the templates {source!r}", prompts=_templated(prompts, shipped_templates(source))
        )
    else:
        found = load_prompt_set(source, storage_options=storage_options)
        rival = Rival(title=f"the set {found.name!r}", prompts=found, derived=False)
    if rival.prompts.task != "single" or prompts.task != "single":
        raise RequestError(
            f"--compare {source}: single-label sets are compared, and "
            f"'{prompts.name if prompts.task != 'single' else rival.prompts.name}' is `task: multi`"
        )
    if rival.prompts.prompts_by_class() == prompts.prompts_by_class():
        raise RequestError(
            f"--compare {source}: the prompt set '{prompts.name}' has these very texts; nothing to compare"
        )
    return rival


def texts_a_class(prompts: PromptSet) -> float:
    """How many texts a class has, on average."""
    counts = [len(texts) for texts in prompts.prompts_by_class().values()]
    return sum(counts) / len(counts)


class PairedTally:
    """Counts images by whether the set, the rival, or both name them right."""

    def __init__(self) -> None:
        self._top1 = np.zeros((2, 2), np.int64)
        self._top5 = np.zeros((2, 2), np.int64)

    def add(self, first: tuple[Bool, Bool], second: tuple[Bool, Bool]) -> None:
        """Take images: right in top-1 and in top-5, by the set and by the rival, [N] each."""
        np.add.at(self._top1, (first[0].astype(np.int64), second[0].astype(np.int64)), 1)
        np.add.at(self._top5, (first[1].astype(np.int64), second[1].astype(np.int64)), 1)

    def comparison(
        self, prompts: PromptSet, rival: Rival, *, top5: bool, resamples: int, seed: int
    ) -> Comparison:
        """The figures; top5: whether that says anything of both sets."""
        images = int(self._top1.sum())
        return Comparison(
            rival=rival.title,
            images=images,
            top1=share(int(self._top1[1].sum()), images),
            rival_top1=share(int(self._top1[:, 1].sum()), images),
            top1_difference=_difference(self._top1, resamples, seed),
            top5_difference=_difference(self._top5, resamples, seed) if top5 else None,
            texts=texts_a_class(prompts),
            rival_texts=texts_a_class(rival.prompts),
        )


def sentence(name: str, comparison: Comparison) -> str:
    """One plain sentence: better or worse and by how much, or that neither is shown.

    It goes by the interval alone.
    """
    found = comparison.top1_difference
    if found.difference is None or found.interval is None:
        return f"{name} against {comparison.rival}: there is no interval, so nothing can be said."
    low, high = (100 * end for end in found.interval)
    told = f"{100 * found.difference:+.1f} points of top-1 [{low:+.1f}, {high:+.1f}], {found.images:,} images"
    if found.verdict == "not shown to differ":
        return f"{name} against {comparison.rival}: not shown to be better or worse ({told})."
    return f"{name} is {found.verdict} than {comparison.rival}: {told}."


def _difference(counts: Int64, resamples: int, seed: int) -> PairedDifference:
    return paired(
        int(counts[1, 1]),
        int(counts[1, 0]),
        int(counts[0, 1]),
        neither=int(counts[0, 0]),
        resamples=resamples,
        seed=seed,
    )


def _bare(prompts: PromptSet) -> PromptSet:
    labels = tuple(
        label if label.group else replace(label, synonyms=(), prompts=(), templates=("{}",))
        for label in prompts.labels
    )
    return replace(prompts, labels=labels, templates=("{}",))


def _templated(prompts: PromptSet, templates: tuple[str, ...]) -> PromptSet:
    """The set with other templates; labels that use none (texts of their own alone) stay as they are."""
    labels = tuple(replace(label, templates=None) if label.templates else label for label in prompts.labels)
    return replace(prompts, labels=labels, templates=templates)
