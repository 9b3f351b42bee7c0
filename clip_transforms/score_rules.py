"""A prompt set as arrays, with what follows from them: backing off to a group, and the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.probabilities import Float32, Float64, Int32
from clip_transforms.prompts.rules import NONE
from clip_transforms.prompts.types import PromptSet, Task

Codes = npt.NDArray[np.int8]

#: What `decision` may be; `Scored.decision` holds places in it.
DECISIONS = ("auto_accept", "review", "abstain")

#: What `decision_reason` may be; `Scored.reason` holds places in it. The order is that of the checks: the
#: first that holds is the reason.
REASONS = (
    "below_threshold",  # abstain: no class, and no group above the best one, reached its threshold
    "accepted",  # auto_accept: the score reached the label's accept threshold
    "backed_off",  # review: the label is a group, its best leaf was below its threshold
    "none_of_these",  # review: `__none__` won
    "uncalibrated",  # review: there are no accept thresholds yet
    "no_accept_threshold",  # review: there are some, but none for this label
    "below_accept_threshold",  # review: the score is under the label's accept threshold
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreRules:
    """What `scoring.score` needs of a prompt set. names are the classes (C), then the groups (G)."""

    task: Task
    classes: tuple[str, ...]
    names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...] | None  # of names, from the root; None without a hierarchy
    thresholds: Float32  # [C + G]
    accept: Float32 | None  # [C + G], NaN where there is none; None before `calibrate`
    members: Float64 | None  # [C, G], 1 where the class is below the group
    ancestors: Int32  # [C, depth], places in names, the nearest first, -1 where there is none
    negative_keys: tuple[str, ...]  # multi: distinct keys of what labels are held against
    negative_of: Int32  # multi: [C], places in negative_keys
    none: int  # the place of `__none__` in names, -1 without one


def score_rules(prompts: PromptSet, *, accept: Mapping[str, float] | None = None) -> ScoreRules:
    """The arrays of a prompt set. accept: score from which on a label, group or `__none__` is accepted.

    Raises RequestError for accept thresholds of a multi-label set or of labels that the set does not have.
    """
    classes, names = prompts.classes, (*prompts.classes, *prompts.groups)
    place = {name: number for number, name in enumerate(names)}
    paths, thresholds = prompts.paths(), prompts.thresholds()
    ancestors, members = _hierarchy(prompts, paths, place)
    by_id = {label.id: label for label in prompts.labels}
    negatives = [prompts.negatives_key(by_id[key]) for key in classes] if prompts.task == "multi" else []
    distinct = tuple(dict.fromkeys(negatives))
    return ScoreRules(
        task=prompts.task,
        classes=classes,
        names=names,
        paths=tuple(paths[name] for name in names) if prompts.groups else None,
        thresholds=np.array([thresholds[name] for name in names], np.float32),
        accept=_accept(prompts, names, accept),
        members=members,
        ancestors=ancestors,
        negative_keys=distinct,
        negative_of=np.array([distinct.index(key) for key in negatives], np.int32),
        none=place.get(NONE, -1),
    )


def back_off(label: Int32, reached: Float32, best: Int32, groups: Float32, rules: ScoreRules) -> None:
    """Give rows without a label the nearest group above their best leaf that passes, in place."""
    rows = np.arange(len(label))
    for level in range(rules.ancestors.shape[1]):
        above = rules.ancestors[best, level]
        column = np.maximum(above - len(rules.classes), 0)  # where there is no group it is not used
        probability = groups[rows, column]
        takes = (label < 0) & (above >= 0) & (probability >= rules.thresholds[above])
        label[takes] = above[takes]
        reached[takes] = probability[takes]


def decide(label: Int32, reached: Float32, rules: ScoreRules) -> tuple[Codes, Codes]:
    """Decision and reason of single-label rows; the first check of REASONS that holds is the reason."""
    code = {name: number for number, name in enumerate(REASONS)}
    if rules.accept is None:
        accepted = np.zeros(len(label), bool)
        rest = np.full(len(label), code["uncalibrated"])
    else:
        needed = rules.accept[label]  # of -1 it is another's, and below_threshold comes first
        accepted = reached >= needed  # never for NaN
        rest = np.where(np.isnan(needed), code["no_accept_threshold"], code["below_accept_threshold"])
    checks = [
        (label < 0, code["below_threshold"]),
        (accepted, code["accepted"]),
        (label >= len(rules.classes), code["backed_off"]),
        ((label == rules.none) & (rules.none >= 0), code["none_of_these"]),
    ]
    reason = np.select([check for check, _ in checks], [number for _, number in checks], rest)
    words = [DECISIONS.index("abstain"), DECISIONS.index("auto_accept")]
    decision = np.select([label < 0, accepted], words, DECISIONS.index("review"))
    return decision.astype(np.int8), reason.astype(np.int8)


def _hierarchy(
    prompts: PromptSet, paths: Mapping[str, tuple[str, ...]], place: Mapping[str, int]
) -> tuple[Int32, Float64 | None]:
    classes = prompts.classes
    depth = max(len(paths[key]) for key in classes) - 1
    ancestors = np.full((len(classes), depth), -1, np.int32)
    for row, key in enumerate(classes):
        above = [place[group] for group in reversed(paths[key][:-1])]
        ancestors[row, : len(above)] = above
    if not prompts.groups:
        return ancestors, None
    members = np.zeros((len(classes), len(prompts.groups)), np.float64)
    rows, levels = np.nonzero(ancestors >= 0)
    members[rows, ancestors[rows, levels] - len(classes)] = 1
    return ancestors, members


def _accept(prompts: PromptSet, names: tuple[str, ...], accept: Mapping[str, float] | None) -> Float32 | None:
    if accept is None:
        return None
    if prompts.task == "multi":
        raise prompts.mistake("accept thresholds are for single-label sets, this one is `task: multi`")
    unknown = next((name for name in accept if name not in names), None)
    if unknown is not None:
        raise RequestError(
            f"there is an accept threshold for '{unknown}', which '{prompts.name}' does not have"
        )
    return np.array([accept.get(name, np.nan) for name in names], np.float32)
