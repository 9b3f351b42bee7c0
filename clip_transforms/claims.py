"""When an audit does not carry a claim, and what is said then: how much is missing, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_transforms.auto_accept import Choice, Walk, least_accepted, lower_bounds
from clip_transforms.elements import ContractError
from clip_transforms.probabilities import Float32

if TYPE_CHECKING:
    from clip_transforms.labelled import LabelledRun
    from clip_transforms.review.audit import AuditSlots

_NAMED = 5
_DOUBT = 1e-5  # chance at which a uniform sample is taken for one that is not
_MOST = 1_000_000  # images of an audit that are worth proposing


class Refusal(ContractError):
    """The audit does not carry the claim; nothing was written."""


def refuse_empty(run: LabelledRun, slots: AuditSlots) -> Refusal:
    """There is no audit at all."""
    name = run.label_set.prompt_set.name
    why = ""
    if slots.outdated:
        why = f" ({slots.outdated} audit images were drawn when the run had fewer images)"
    if slots.trained_on:
        why += f" ({slots.trained_on} audit images are what the set's probe has learnt from)"
    if slots.skipped:
        why += f" ({slots.skipped} audit images are not reviewed)"
    return Refusal(
        f"{run.store.root} has no reviews of an audit of the set '{name}'{why}: a guarantee needs images that "
        "were drawn at random; export a queue with audit images, have all of them reviewed, import the answers"
    )


def refuse_failed(choice: Choice, slots: AuditSlots, *, audited: int, target: float, delta: float) -> Refusal:
    """No cut passed; says what is missing."""
    if None in choice.walks:
        why = _why(choice.walks[None], audited=audited)
    elif choice.walks:
        named = [
            f"'{name}': {_why(walk, audited=audited)}" for name, walk in list(choice.walks.items())[:_NAMED]
        ]
        why = "; ".join(named)
    else:
        needed = least_accepted(target, delta)
        most = list(choice.short.items())[:_NAMED]
        lacking = ", ".join(f"'{name}' {needed - count}" for name, count in most)
        why = f"a label needs {needed} audited images that were given it; missing are: {lacking}"
    told = ""
    if slots.unreviewed:
        told = f"; {slots.unreviewed} audit images are not reviewed and count as wrong"
        told += f" ({slots.earlier} of them changed after their reviews)" if slots.earlier else ""
    if slots.disputed:
        told += f"; {slots.disputed} are disputed among their reviewers and count as wrong"
    return Refusal(
        f"a precision of {target:g} cannot be promised at confidence {1 - delta:g}: {why}{told}. Nothing was relabelled"
    )


def check_uniform(score: Float32, counts: Sequence[Sequence[int]], *, rows: int) -> None:
    """Raise Refusal where the audit's scores cannot be those of a uniform random sample of all rows.

    score: [n], of the audit. counts: for each of `quartiles(score)`, how many of all rows have a higher score and
    how many at least that. The share of all rows above the k-th highest of n that were drawn is
    distributed as Beta(k, n + 1 - k), exactly.
    """
    from scipy.stats import beta

    for (rank, value), (above, at_least) in zip(quartiles(score), counts, strict=True):
        held = beta(rank, len(score) + 1 - rank)
        if 2 * min(held.cdf(at_least / rows), held.sf(above / rows)) < _DOUBT:
            raise Refusal(
                f"of the audit {rank / len(score):.1%} have a score of at least {value:.6g}, of all {rows:,} images "
                f"{at_least / rows:.1%}: the audit is no uniform random sample of them, so nothing can be promised; "
                "draw a new one and have all of it reviewed. Nothing was relabelled"
            )


def quartiles(score: Float32) -> list[tuple[int, float]]:
    """Ranks, from 1 for the highest, and the scores there.

    >>> quartiles(np.float32([0.5, 1.0, 0.25, 0.75]))
    [(1, 1.0), (2, 0.75), (3, 0.5)]
    """
    ranked = np.sort(score)[::-1]
    ranks = sorted({max(1, len(score) * part // 4) for part in (1, 2, 3)})
    return [(rank, float(ranked[rank - 1])) for rank in ranks]


def _why(walk: Walk, *, audited: int) -> str:
    """Of a walk without a cut that passed."""
    if walk.missing:
        more = ""
        if walk.labelled:
            more = f" (about {round(walk.missing * audited / walk.labelled):,} more audit images)"
        return (
            f"{walk.needed:,} audited images with a label are needed, there are {walk.needed - walk.missing:,}: "
            f"{walk.missing:,} are missing{more}"
        )
    first = walk.points[0]
    found = (
        f"of the {first.accepted:,} audited images with the highest scores {first.right:,} are right, so the "
        f"precision there is at least {first.lower:.1%} only"
    )
    enough = _enough(first.right / first.accepted, target=walk.target, delta=walk.delta)
    if enough is None:
        return f"{found}; a lower --target-precision, or better prompts, may do"
    larger = round((enough - first.accepted) * audited / first.accepted)
    return f"{found}; were it so in a larger audit, about {larger:,} more images would do"


def _enough(share: float, *, target: float, delta: float) -> int | None:
    """Accepted images at which this share of right ones would do; None where no sensible number does."""
    count = 4
    while count <= _MOST:
        right = np.array([int(share * count)], np.int32)
        if lower_bounds(right, np.array([count], np.int32), delta=delta)[0] >= target:
            return count
        count = int(count * 1.02) + 1
    return None
