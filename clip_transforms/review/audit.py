"""The audit of a label set: which images of a uniform random sample were reviewed, and what is to be held of the rest.

The sample is what makes a guarantee hold, so what is missing from it is not passed over in silence: an image that
nobody answered for, or whose reviewers do not agree, counts as wrong unless it is asked otherwise. Images of an
audit that was drawn when the run had fewer images are left out: it says nothing of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.review.reviews import Verdict, verdicts
from clip_transforms.storage import Store

QUEUES = "queues"
_GROWTH = 0.01  # of the images, since an audit was drawn, that is let pass

Unreviewed = Literal["wrong", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One image of the audit. labels: what it shows; None where nobody knows, which counts as wrong."""

    image_id: str
    uri: str | None
    labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSlots:
    """All images of the audits of a set that count, by image id, and how many do not, or not fully.

    disputed, unreviewed: counted as wrong. skipped: not reviewed and left out as asked. outdated: of audits
    of fewer images than the run has now. trained_on: what the set's probe has learnt from. loose: of no queue
    that the run keeps, so nobody knows how many of them are missing.
    """

    slots: tuple[Slot, ...]
    disputed: int
    unreviewed: int
    skipped: int
    outdated: int
    trained_on: int
    loose: int


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The audit slots of one queue: image ids with their uris, and of how many images they were drawn."""

    uris: dict[str, str]
    images: int | None


def audit_slots(
    store: Store, set_name: str, *, images: int, unreviewed: Unreviewed, trained_on: Collection[str] = ()
) -> AuditSlots:
    """The audits of a set, of all its tags. images: those that the run has now. Memory: what was drawn."""
    answered = {verdict.image_id: verdict for verdict in verdicts(store, set_name) if verdict.audit}
    queues = list(_queues(store, set_name))
    fresh = [drawn for drawn in queues if drawn.images is None or images <= drawn.images * (1 + _GROWTH)]
    current: dict[str, str | None] = {}
    for drawn in fresh:
        current.update(drawn.uris)
    known = {image_id for drawn in queues for image_id in drawn.uris}
    loose = [verdict for image_id, verdict in answered.items() if image_id not in known]
    current.update({verdict.image_id: verdict.uri for verdict in loose})
    held = {image_id: uri for image_id, uri in current.items() if image_id not in trained_on}
    missing = [image_id for image_id in held if image_id not in answered]
    kept = held if unreviewed == "wrong" else {i: uri for i, uri in held.items() if i in answered}
    slots = tuple(_slot(image_id, kept[image_id], answered.get(image_id)) for image_id in sorted(kept))
    unknown = sum(slot.labels is None for slot in slots)
    counted = len(missing) if unreviewed == "wrong" else 0
    return AuditSlots(
        slots=slots,
        disputed=unknown - counted,
        unreviewed=counted,
        skipped=len(missing) - counted,
        outdated=len(known - current.keys()),
        trained_on=len(current) - len(held),
        loose=len(loose),
    )


def _slot(image_id: str, uri: str | None, verdict: Verdict | None) -> Slot:
    return Slot(image_id=image_id, uri=uri, labels=None if verdict is None else verdict.labels)


def _queues(store: Store, set_name: str) -> Iterator[_Drawn]:
    """The queues of a set that have an audit."""
    for entry in sorted(store.list(f"{QUEUES}/"), key=lambda found: found.name):
        if not entry.name.endswith(".parquet"):
            continue
        with store.open(entry.name) as handle:
            columns = ["image_id", "uri", "prompt_set", "audit", "audit_prob"]
            table = pq.ParquetFile(handle).read(columns=columns)
        mine = pc.starts_with(table["prompt_set"].cast(pa.string()), f"{set_name}@")
        table = table.filter(pc.and_(mine, table["audit"]))
        if not table.num_rows:
            continue
        share = table["audit_prob"][0].as_py()
        uris = dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
        yield _Drawn(uris, round(table.num_rows / share) if share else None)
