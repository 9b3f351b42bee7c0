"""A refit in words and tables: what the command prints."""

from __future__ import annotations

from collections.abc import Sequence

from clip_transforms.evaluation.metrics import PairedDifference
from clip_transforms.evaluation.text import Table
from clip_transforms.prompts.rules import NONE
from clip_transforms.refining.cross_validation import FOLDS
from clip_transforms.refining.flips import Agreement, Flips
from clip_transforms.refining.label_errors import LabelError
from clip_transforms.refining.refit import LEAST, Refit, effective
from clip_transforms.refining.reviewed import MOST_WEIGHT, Reviewed
from clip_transforms.summary import printable

_SHOWN = 10  # rows of a printed table
_NAMED = 6  # classes in one sentence


def reviewed_lines(reviewed: Reviewed) -> list[str]:
    """Which reviews there are, and which are used."""
    held = int(reviewed.held_out.sum())
    left = "".join(f"; {count:,} left out: {why}" for why, count in reviewed.left_out.items())
    kept = f", {held:,} of the audit held out for calibrate" if held else ""
    return [f"reviewed   {len(reviewed.ids) - held:,} images to learn from{kept}{left}"]


def refit_lines(found: Refit, trained: Reviewed, held: PairedDifference | None) -> list[str]:
    """What was fitted, and how it stands against zero-shot."""
    weights, loss, choice = trained.weights, found.loss, found.choice
    lines = [f"classes    {len(found.probe.classes):,} of {len(found.counts):,} get a probe{_others(found)}"]
    if weights.max() > weights.min():
        spread = weights.max() / weights.min()
        limit = f", cut off at {MOST_WEIGHT:g}" if spread >= MOST_WEIGHT * (1 - 1e-9) else ""
        lines.append(
            f"weights    by 1 / chance of selection, 1 to {spread:.3g}{limit}: worth {effective(weights):.0f} "
            "images of one weight"
        )
    lines += [
        f"chosen     C {choice.c:g}, blend {choice.blend:g}, temperature {choice.temperature:.3g}, in {FOLDS} folds",
        f"log-loss   {loss.zero_shot:.3f} zero-shot, {loss.probe:.3f} with the probe, out of fold: gain "
        f"{loss.gain:+.3f} [{loss.interval[0]:+.3f}, {loss.interval[1]:+.3f}] (90 %)",
        f"right      {_difference(found.right)}, of the images learnt from, out of fold",
    ]
    if held is not None:
        lines.append(f"held out   {_difference(held)}, of the audit that nothing was learnt from")
    return lines


def errors_table(errors: Sequence[LabelError]) -> Table:
    """The likeliest mistakes among the reviews."""
    more = f", the {_SHOWN} likeliest" if len(errors) > _SHOWN else ""
    return Table(
        title=f"reviews that may be mistaken: {len(errors):,}{more}; look at them again, nothing was changed",
        head=("image", "given", "suggested", "probability of the given"),
        rows=tuple(
            (printable(one.uri), _words(one.given), _words(one.suggested), f"{one.score:.3f}")
            for one in errors[:_SHOWN]
        ),
    )


def flips_table(flips: Flips) -> Table:
    """The most frequent changes."""
    kinds = len(flips.flips)
    more = f", the {_SHOWN} most frequent of {kinds:,} kinds" if kinds > _SHOWN else ""
    share = f" ({flips.changed / flips.images:.1%})" if flips.images else ""
    return Table(
        title=f"{flips.before} -> {flips.after}: {flips.changed:,} of {flips.images:,} images changed{share}{more}",
        head=("before", "after", "images"),
        rows=tuple((_word(one.old), _word(one.new), f"{one.images:,}") for one in flips.flips[:_SHOWN]),
    )


def agreement_lines(flips: Flips) -> list[str]:
    """How many reviewed images have the reviewers' answer, before and after."""
    told = {"trained_on": "images learnt from", "not_trained_on": "other reviewed images"}
    return [
        f"{_counted(one)} of the {told[name]} have the reviewers' answer"
        for name, one in flips.reviewed.items()
        if one.images
    ]


def _counted(one: Agreement) -> str:
    return f"{one.after / one.images:.1%} (before: {one.before / one.images:.1%}) of {one.images:,}"


def _others(found: Refit) -> str:
    others = found.stays_zero_shot
    if not others:
        return ""
    named = ", ".join(f"{_word(name)} ({found.counts[name]})" for name in others[:_NAMED])
    more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
    return f"; zero-shot stay those with fewer than {LEAST} reviews: {named}{more}"


def _difference(found: PairedDifference) -> str:
    first, second = found.both + found.only_first, found.both + found.only_second
    told = f"{second} zero-shot, {first} with the probe, of {found.images}"
    if found.difference is None or found.interval is None:
        return told
    low, high = (100 * end for end in found.interval)
    return f"{told}: {100 * found.difference:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _words(labels: Sequence[str]) -> str:
    return " + ".join(map(_word, labels)) or "none of them"


def _word(label: str | None) -> str:
    if label is None:
        return "no label"
    return "none of these" if label == NONE else printable(label)
