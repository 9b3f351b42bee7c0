"""The accounts of a report: the numbers of run.json against the rows that the folders hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_transforms.review.report_values import Images, SetStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the accounts: two numbers that must be equal."""

    what: str
    expected: int
    found: int

    @property
    def holds(self) -> bool:
        return self.expected == self.found


def checks(
    run: Mapping[str, Any], *, images: Images, failed: int, sets: Sequence[SetStats]
) -> tuple[Check, ...]:
    """What must be equal in a finished run: `run.json` against the rows of the folders."""
    found = []
    inputs, embedded, fails = (run.get(name) for name in ("inputs", "embedded", "failed"))
    units = run.get("units")
    if isinstance(units, Mapping) and {"planned", "committed"} <= set(units):
        found.append(
            Check(
                what="units committed, of those planned", expected=units["planned"], found=units["committed"]
            )
        )
    if not run.get("from_run") and None not in (inputs, embedded, fails):
        planned = run.get("planned_images")
        if planned is not None:
            found.append(
                Check(what="inputs with a row, of those planned", expected=planned, found=int(inputs or 0))
            )
        found += [
            Check(
                what="inputs = embedded + failed",
                expected=int(inputs or 0),
                found=int(embedded or 0) + int(fails or 0),
            ),
            Check(what="rows in embeddings/", expected=int(embedded or 0), found=images.rows),
            Check(what="rows in failures/", expected=int(fails or 0), found=failed),
        ]
    funnel = run.get("filter")
    if funnel:
        accounted = funnel["kept"] + sum(funnel["dropped"].values()) + funnel["failed"]
        found += [
            Check(what="inputs = kept + dropped + failed pairs", expected=funnel["inputs"], found=accounted),
            Check(what="rows in pairs/", expected=funnel["inputs"] - funnel["failed"], found=funnel["pairs"]),
            Check(what="rows in kept/", expected=funnel["kept"], found=funnel["kept_rows"]),
        ]
    found += [
        Check(what=f"rows in labels/{stats.tag}/", expected=images.rows, found=stats.rows) for stats in sets
    ]
    return tuple(found)
