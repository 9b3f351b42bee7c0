"""The diff of two label sets as JSON, as a page complete in itself, and as the table that is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from clip_transforms.evaluation.metrics import wilson
from clip_transforms.evaluation.text import Table, ends, percent
from clip_transforms.prompts import NONE
from clip_transforms.review import report_format
from clip_transforms.review.diff import Cell, Diff, follows
from clip_transforms.review.migrating import Hint
from clip_transforms.review.pages import shipped, template
from clip_transforms.taxonomy import LabelMap

FOLDER = "diffs"
_PAGE_CELLS = 300
_PAGE_ROWS = 200
_PRINTED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All that a migration did.

    carried: reviews that came over. new_reviews: those of them that the run did not have. audit: images of the old
    set's audits that are audits of the new one now.
    """

    old_tag: str
    new_tag: str
    label_map: LabelMap
    diff: Diff
    carried: int
    new_reviews: int
    already: int
    hints: Sequence[Hint]
    audit: int
    facts: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """The name of its files without suffix."""
        return f"{FOLDER}/{self.old_tag}--{self.new_tag}"


def as_json(change: Change) -> bytes:
    """The content of the diff's JSON: the whole sparse matrix, examples, reviews."""
    diff, label_map = change.diff, change.label_map
    content = {
        "old": change.old_tag,
        "new": change.new_tag,
        **change.facts,
        "map": {old: list(targets) for old, targets in sorted(label_map.targets.items())},
        "added": list(label_map.added),
        "images": diff.rows,
        "as_mapped": diff.as_mapped,
        "cells": [
            {
                "old": old,
                "new": new,
                "count": count,
                "as_mapped": follows(label_map, old, new),
                "examples": [asdict(example) for example in diff.examples.get((old, new), [])],
            }
            for (old, new), count in _ranked(diff)
        ],
        "reviews": {
            "carried": change.carried,
            "new": change.new_reviews,
            "answers_to_the_new_set": change.already,
            "audit_images": change.audit,
            "images": diff.reviewed,
            "old_model_agreed": diff.old_agreed,
            "new_model_agreed": diff.new_agreed,
            "new_model_agreed_wilson_95": wilson(diff.new_agreed, diff.reviewed),
            "disagreements": [asdict(entry) for entry in diff.disagreements],
            "to_review_again": [asdict(hint) for hint in change.hints],
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace")


def render(change: Change) -> bytes:
    """The page, UTF-8; it loads nothing and runs no script; what came from outside is shown as text."""
    diff = change.diff
    page = template(
        "diff.html.j2", filters={"share": percent, "ends": ends, "label": _shown, "labels": _joined}
    ).render(
        change=change,
        diff=diff,
        cells=[(cell, count, diff.examples.get(cell, [])) for cell, count in _ranked(diff)[:_PAGE_CELLS]],
        all_cells=len(diff.cells),
        disagreements=diff.disagreements[:_PAGE_ROWS],
        hints=change.hints[:_PAGE_ROWS],
        follows=lambda cell: follows(change.label_map, *cell),
        wilson=wilson(diff.new_agreed, diff.reviewed),
        facts=report_format.flat(change.facts),
        css=Markup(shipped("report.css")),
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def printed(change: Change) -> list[str]:
    """The closing table, a line each."""
    diff = change.diff
    head = ("old label", "new label", "images", "share", "")
    rows = [
        (
            _shown(old),
            _shown(new),
            f"{count:,}",
            percent(count / max(1, diff.rows)),
            "" if follows(change.label_map, old, new) else "not as mapped",
        )
        for (old, new), count in _telling(change)[:_PRINTED]
    ]
    lines = [f"{change.old_tag} -> {change.new_tag}, {diff.rows:,} images, {percent(_share(diff))} as mapped"]
    lines += Table(title="", head=head, rows=tuple(rows)).plain().split("\n")
    if len(diff.cells) > _PRINTED:
        lines.append(f"{len(diff.cells) - _PRINTED:,} more pairs of labels are in the diff")
    lines += [
        "",
        f"reviews carried over   {change.carried:,}, {change.new_reviews:,} of them new here",
        f"to be reviewed again   {len(change.hints):,}",
    ]
    if change.audit:
        lines.append(f"audit carried over     {change.audit:,} images, drawn at random for the old set")
    if diff.reviewed:
        lines.append(
            f"the model agrees with  {diff.new_agreed:,} of {diff.reviewed:,} reviewed images; the old set's labels "
            f"with {diff.old_agreed:,}"
        )
    return lines


def _share(diff: Diff) -> float | None:
    return diff.as_mapped / diff.rows if diff.rows else None


def _ranked(diff: Diff) -> list[tuple[Cell, int]]:
    return sorted(diff.cells.items(), key=lambda entry: (-entry[1], str(entry[0])))


def _telling(change: Change) -> list[tuple[Cell, int]]:
    """What does not follow the map first, then labels that are called otherwise, then those that stayed."""
    found = _ranked(change.diff)
    return sorted(found, key=lambda entry: (follows(change.label_map, *entry[0]), entry[0][0] == entry[0][1]))


def _shown(label: str | None) -> str:
    return "(no label)" if label is None else "(none of these)" if label == NONE else label


def _joined(labels: Sequence[str]) -> str:
    return ", ".join(map(_shown, labels)) or "(no label)"
