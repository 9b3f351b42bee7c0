"""The audit of a label set: which images of a uniform random sample were reviewed, and what is to be held of the rest.

The sample is what makes a guarantee hold, so what is missing from it is not passed over in silence: an image that
nobody answered for, or whose reviewers do not agree, counts as wrong unless it is asked otherwise. Images of an
audit that was drawn when the run had fewer images are left out: it says nothing of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.review.queues import queue_names, read_queue
from clip_transforms.review.report_data import sample_keys
from clip_transforms.review.reviews import set_reviews
from clip_transforms.storage import Store

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
    of fewer images than the run has now. earlier: of the unreviewed or skipped, those that were reviewed before the
    image changed. trained_on: what the set's probe has learnt from. loose: of no queue
    that the run keeps, so nobody knows how many of them are missing.
    """

    slots: tuple[Slot, ...]
    disputed: int
    unreviewed: int
    skipped: int
    outdated: int
    trained_on: int
    loose: int
    earlier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """The audit of one queue: image ids with their uris, and how they were drawn.

    Drawn are the images whose number (by id and seed) is at most `bound`; those that were reviewed as audit
    before are not in the queue again. seed, bound: None where the queue does not say. images: of the run then.
    """

    uris: dict[str, str]
    images: int | None
    seed: int | None
    bound: float

    def covers(self, images: int) -> bool:
        """Whether it was drawn from as many images as there are now, but for a few."""
        return self.images is None or images <= self.images * (1 + _GROWTH)

    def holds(self, image_ids: Sequence[str]) -> set[str]:
        """Those of these images that this audit drew."""
        if self.seed is None or not image_ids:
            return self.uris.keys() & set(image_ids)
        keys = sample_keys(image_ids, seed=self.seed)
        below = {image_ids[place] for place in np.flatnonzero(keys <= self.bound).tolist()}
        return below | (self.uris.keys() & set(image_ids))


def audit_slots(
    store: Store, set_name: str, *, images: int, unreviewed: Unreviewed, trained_on: Collection[str] = ()
) -> AuditSlots:
    """The audits of a set, of all its tags. images: those that the run has now. Memory: what was drawn.

    An image of the audit that was reviewed for another reason is answered for all the same: what makes the
    sample random is which images are in it. But not where the unreviewed ones are left out, for then those
    that were reviewed because the model was unsure of them would be too many.
    """
    reviews = set_reviews(store, set_name)
    reviewed = reviews.verdicts()
    answered = {verdict.image_id: verdict for verdict in reviewed if verdict.audit}
    answers = {verdict.image_id: verdict for verdict in reviewed if verdict.audit or unreviewed == "wrong"}
    queues = list(_queues(store, set_name))
    uris: dict[str, str | None] = {image_id: verdict.uri for image_id, verdict in answered.items()}
    for drawn in queues:
        uris.update(drawn.uris)
    known = {image_id for drawn in queues for image_id in drawn.uris}
    loose = answered.keys() - known
    ids = sorted(uris)
    current = {image_id for drawn in queues if drawn.covers(images) for image_id in drawn.holds(ids)} | loose
    held = current.difference(trained_on)
    missing = held - answers.keys()
    kept = sorted(held if unreviewed == "wrong" else held - missing)
    slots = tuple(
        Slot(
            image_id=image_id,
            uri=uris[image_id],
            labels=answers[image_id].labels if image_id in answers else None,
        )
        for image_id in kept
    )
    counted = len(missing) if unreviewed == "wrong" else 0
    return AuditSlots(
        slots=slots,
        disputed=sum(slot.labels is None for slot in slots) - counted,
        unreviewed=counted,
        skipped=len(missing) - counted,
        outdated=len(known - current),
        trained_on=len(current) - len(held),
        loose=len(loose),
        earlier=len(missing & reviews.earlier()),
    )


def _queues(store: Store, set_name: str) -> Iterator[_Drawn]:
    """The queues of a set that have an audit, also of one whose images were all reviewed before."""
    for name in queue_names(store):
        table, facts = read_queue(store, name, ["image_id", "uri", "prompt_set", "audit", "audit_prob"])
        mine = pc.starts_with(table["prompt_set"].cast(pa.string()), f"{set_name}@")
        table = table.filter(pc.and_(mine, table["audit"]))
        if not (table.num_rows or (facts.get("set_name") == set_name and facts.get("drawn"))):
            continue
        share = table["audit_prob"][0].as_py() if table.num_rows else None
        yield _Drawn(
            uris=dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True)),
            images=facts.get("images", round(table.num_rows / share) if share else None),
            seed=facts.get("seed"),
            bound=facts.get("bound", -1.0),
        )
