"""What an import has to say: counts, agreement, rejected rows by reason, conflicts, how far an audit is."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.review.importers.answers import Reason, Rejected
from clip_transforms.review.importers.selection import audit_ids
from clip_transforms.review.reviews import Verdict, set_reviews
from clip_transforms.storage import Store

_REJECTED = ("place", "reason", "message", "image", "labels", "reviewer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """Which of some reviews a run does not have yet. outdated: those it has, and that a later answer replaced."""

    reviews: pa.Table
    known: int
    outdated: int

    def counted(self, agreed: bool | None) -> int:
        """How many of the new ones agree with what was shown, do not, or were shown nothing."""
        values = self.reviews["agreed"].to_pylist()
        return sum(value is agreed for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """All reviews of a set so far; earlier: images of which all are of an earlier picture, and do not count."""

    reviews: int
    images: int
    reviewers: int
    conflicts: tuple[Verdict, ...]
    audit_drawn: int
    audit_done: int
    earlier: int


def fresh(store: Store, set_name: str, reviews: pa.Table) -> Fresh:
    """Hold reviews against those that the run has."""
    found = set_reviews(store, set_name)
    stored = found.stored
    have = pc.is_in(reviews["review_id"], value_set=stored["review_id"].combine_chunks())
    known = reviews.filter(have)
    latest = {
        (verdict.image_id, reviewer): labels
        for verdict in found.verdicts()
        for reviewer, labels in verdict.answers
    }
    counted = set(found.counted["review_id"].to_pylist())
    outdated = sum(
        row["reviewed_at"] is None
        and row["review_id"] in counted
        and latest.get((row["image_id"], row["reviewer"])) != tuple(sorted(row["labels"]))
        for row in known.to_pylist()
    )
    return Fresh(reviews=reviews.filter(pc.invert(have)), known=known.num_rows, outdated=outdated)


def progress(store: Store, set_name: str) -> Progress:
    """Count what is stored."""
    reviews = set_reviews(store, set_name)
    found = reviews.verdicts()
    drawn = audit_ids(store, set_name)
    return Progress(
        reviews=reviews.counted.num_rows,
        images=len(found),
        reviewers=len(set(reviews.counted["reviewer"].to_pylist())),
        conflicts=tuple(verdict for verdict in found if verdict.conflict),
        audit_drawn=len(drawn),
        audit_done=sum(verdict.image_id in drawn for verdict in found),
        earlier=len(reviews.earlier()),
    )


def by_reason(rejected: Iterable[Rejected]) -> list[tuple[Reason, int, Rejected]]:
    """The reasons, most frequent first, each with its count and first row."""
    rows = list(rejected)
    counts = Counter(row.reason for row in rows)
    first = {row.reason: row for row in reversed(rows)}
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def rejected_csv(rejected: Sequence[Rejected]) -> bytes:
    """Every rejected row: place, reason, message, image, labels, reviewer."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_REJECTED)
    for row in rejected:
        writer.writerow([row.place, row.reason.value, row.message, row.image, row.labels, row.reviewer])
    return text.getvalue().encode("utf-8", "replace")
