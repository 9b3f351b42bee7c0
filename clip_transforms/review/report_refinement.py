"""What the report says of a refined label set: what its probe learnt from, how it was judged, what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clip_transforms.labelsets import read_label_set
from clip_transforms.probe import parse_probe, probe_name
from clip_transforms.prompts.rules import NONE
from clip_transforms.refining.flips import Flips, flips_name, parse_flips

if TYPE_CHECKING:
    from clip_transforms.storage import Store

_SHOWN = 12  # changes


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementView:
    """Sentences, and rows (before, after, images)."""

    base: str
    sentence: str
    notes: tuple[str, ...]
    changed: str | None
    rows: tuple[tuple[str, str, int], ...]
    more: int  # kinds of change that are not shown


def refinement_view(store: Store, tag: str) -> RefinementView | None:
    """Of a label set of a run; None where it has no probe."""
    if not store.exists(f"text/{tag}.json"):
        return None
    name = read_label_set(store, tag).probe
    if name is None or not store.exists(probe_name(tag)):
        return None
    probe = parse_probe(store.read(probe_name(tag)))
    if "log_loss" not in probe.figures:  # made by somebody else
        return None
    flips = parse_flips(store.read(flips_name(tag))) if store.exists(flips_name(tag)) else None
    rows, more, changed = _changes(flips)
    return RefinementView(
        base=probe.figures["refined"],
        sentence=_sentence(probe.figures, len(probe.classes)),
        notes=_notes(probe.figures, flips),
        changed=changed,
        rows=rows,
        more=more,
    )


def _sentence(figures: Mapping[str, Any], classes: int) -> str:
    loss = figures["log_loss"]
    low, high = loss["interval"]
    return (
        f"A probe learnt from {len(figures['trained_on']):,} reviewed images, for {classes:,} of "
        f"{len(figures['reviews']):,} classes. Out of fold its log-loss is {loss['probe']:.3f}, zero-shot's "
        f"{loss['zero_shot']:.3f}: {loss['gain']:.3f} less (90% interval {low:.3f} to {high:.3f})."
    )


def _notes(figures: Mapping[str, Any], flips: Flips | None) -> tuple[str, ...]:
    notes = [_right(figures["out_of_fold"], "images learnt from, out of fold")]
    if figures["held_out"]:
        notes.append(_right(figures["held_out"], "audit images that nothing was learnt from"))
    if figures["label_errors"]:
        notes.append(f"{figures['label_errors']:,} reviews may be mistaken: label_errors.parquet")
    for name, told in (("trained_on", "learnt from"), ("not_trained_on", "not learnt from")):
        one = flips.reviewed[name] if flips else None
        if one and one.images:
            notes.append(
                f"of {one.images:,} reviewed images {told}, {one.after:,} have the answer, {one.before:,} had"
            )
    return tuple(notes)


def _right(found: Mapping[str, Any], whose: str) -> str:
    told = f"{found['probe']:,} of {found['images']:,} {whose} are right, {found['zero_shot']:,} zero-shot"
    if not found["interval"]:
        return told
    low, high = (100 * end for end in found["interval"])
    return f"{told} ({100 * found['difference']:+.1f} points, {low:+.1f} to {high:+.1f})"


def _changes(flips: Flips | None) -> tuple[tuple[tuple[str, str, int], ...], int, str | None]:
    if flips is None:
        return (), 0, None
    rows = tuple((_word(flip.old), _word(flip.new), flip.images) for flip in flips.flips[:_SHOWN])
    share = f" ({flips.changed / flips.images:.1%})" if flips.images else ""
    told = f"{flips.changed:,} of {flips.images:,} images{share} have other labels than in {flips.before}."
    return rows, max(0, len(flips.flips) - _SHOWN), told


def _word(label: str | None) -> str:
    return {None: "no label", NONE: "none of these"}.get(label, label or "")
