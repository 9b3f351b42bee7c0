"""What `beamclip calibrate` says of what it found: the closing table, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from clip_transforms.auto_accept import Walk
from clip_transforms.calibrating import Accounts, Calibrated, Claim
from clip_transforms.evaluation.metrics import wilson
from clip_transforms.review.audit import AuditSlots
from clip_transforms.summary import printable

_KEY = 13


def found_lines(found: Calibrated, tag: str) -> list[str]:
    """The table. tag: of the calibrated set."""
    lines = [_line("set", f"{tag}, from {found.calibration.base}"), _line("audit", _audit(found))]
    lines.append(_line("temperature", _temperature(found)))
    if found.choice is None or found.accounts is None:
        return [*lines, _line("accepted", "nothing: only a temperature was asked for")]
    claim = Claim(**found.calibration.figures["claim"])
    if None in found.choice.walks:
        lines += _single(found.choice.walks[None], found.accounts, found.found, claim)
    else:
        lines += _per_class(found, found.accounts, claim)
    return [*lines, *(_line("note", note) for note in _notes(found.audit))]


def _line(key: str, text: str) -> str:
    return f"{key:<{_KEY}}{printable(text)}"


def _audit(found: Calibrated) -> str:
    slots = found.audit
    wrong = [
        f"{count:,} {words}"
        for count, words in ((slots.unreviewed, "not reviewed"), (slots.disputed, "disputed"))
        if count
    ]
    counted = f"; {' and '.join(wrong)}: counted as wrong" if wrong else ""
    return f"{found.found:,} images drawn at random{counted}"


def _temperature(found: Calibrated) -> str:
    fitted = found.fitted
    if fitted is None:
        return "1, for too few of the audit's images have an answer of the set"
    if fitted.at_limit:
        return (
            f"1: no temperature fits the {fitted.rows:,} images (the search ends at {fitted.temperature:g})"
        )
    before, after = fitted.before, fitted.after
    return (
        f"{fitted.temperature:g}, on {fitted.rows:,} images; cross-validated: calibration error "
        f"{before.error:.1%} to {after.error:.1%}, log-loss {before.nll:.3f} to {after.nll:.3f}"
    )


def _single(walk: Walk, accounts: Accounts, audited: int, claim: Claim) -> Iterator[str]:
    chosen = walk.chosen
    if chosen is None:
        return
    count = sum(accounts.accepted.values())
    low, high = wilson(chosen.accepted, audited) or (0.0, 1.0)
    yield _line(
        "accepted",
        f"{count:,} of {accounts.rows:,} images, {count / accounts.rows:.1%} (of the audit "
        f"{chosen.accepted / audited:.1%}, 95% interval {low:.1%} to {high:.1%}): scores from {chosen.cut:.6g} on",
    )
    yield _line(
        "precision",
        f"at least {chosen.lower:.2%} of them are right, at confidence {claim.confidence:g} (asked: {claim.target:g}); "
        f"of the audit {chosen.right:,} of {chosen.accepted:,}, {chosen.right / chosen.accepted:.2%}",
    )


def _per_class(found: Calibrated, accounts: Accounts, claim: Claim) -> Iterator[str]:
    choice = found.choice
    if choice is None:
        return
    count = sum(accounts.accepted.values())
    passed = sum(walk.chosen is not None for walk in choice.walks.values())
    yield _line("accepted", f"{count:,} of {accounts.rows:,} images, {count / accounts.rows:.1%}")
    yield _line(
        "precision",
        f"at least {claim.target:g} for each of {passed} labels, all at once at confidence {claim.confidence:g}",
    )
    width = max(len(printable(str(label))) for label in choice.walks)
    for label, walk in choice.walks.items():
        name, chosen = str(label), walk.chosen
        if chosen is None:
            told = f"not accepted: no cut passed, {walk.labelled:,} audit images"
        else:
            of = f"{accounts.accepted.get(name, 0):,} of {accounts.labelled.get(name, 0):,}"
            told = (
                f"{of}, scores from {chosen.cut:.6g} on, at least {chosen.lower:.2%} right; "
                f"of the audit {chosen.right:,} of {chosen.accepted:,}"
            )
        yield _line("", f"{printable(name):<{width}}  {told}")
    if choice.short:
        yield _line(
            "", f"not accepted, for too few audit images have them: {len(choice.short):,} other labels"
        )


def _notes(slots: AuditSlots) -> Iterator[str]:
    if slots.skipped:
        yield (
            f"{slots.skipped:,} audit images are not reviewed and were left out: the promise holds only if they are "
            "a random part of the audit, not those that are hard"
        )
    if slots.earlier:
        yield f"{slots.earlier:,} audit images changed after their reviews; `beamclip review export` asks again"
    if slots.outdated:
        yield f"{slots.outdated:,} audit images were left out: the run had fewer images when they were drawn"
    if slots.trained_on:
        yield f"{slots.trained_on:,} audit images were left out: the set's probe has learnt from them"
    if slots.loose:
        yield (
            f"{slots.loose:,} audit reviews are of no queue that the run keeps: whether others are missing is not known"
        )
