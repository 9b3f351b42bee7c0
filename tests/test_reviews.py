"""Stored reviews: appended once, latest answers, majorities and conflicts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa

from clip_transforms.review.reviews import append_reviews, read_reviews, verdicts
from clip_transforms.storage import Store
from schemas.reviews import REVIEWS

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def review(image: str, reviewer: str, *labels: str, minutes: int = 0, **more: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(REVIEWS.names)
    return row | {
        "review_id": f"{image}-{reviewer}-{minutes}-{'+'.join(labels)}",
        "image_id": image,
        "set_name": "pets",
        "labels": list(labels),
        "reviewer": reviewer,
        "reviewed_at": NOON + timedelta(minutes=minutes),
        "audit": False,
        "source": "csv",
        "imported_at": NOON,
        **more,
    }


def rows(*found: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=REVIEWS)


def test_the_same_answer_is_kept_once_however_often_it_comes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = rows(review("a", "ann", "cat"), review("b", "ann", "dog"), review("a", "ann", "cat"))
    assert append_reviews(store, first) == 2
    assert append_reviews(store, first) == 0
    assert append_reviews(store, rows(review("b", "ann", "dog"), review("c", "ann", "dog"))) == 1
    assert read_reviews(store)["image_id"].to_pylist() == ["a", "b", "c"]
    assert read_reviews(store).schema.equals(REVIEWS)
    assert read_reviews(store, "other").num_rows == 0


def test_a_reviewers_last_answer_counts_whatever_the_order_of_imports(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    append_reviews(store, rows(review("a", "ann", "dog", minutes=5)))
    append_reviews(store, rows(review("a", "ann", "cat", minutes=1, imported_at=NOON + timedelta(days=1))))
    (found,) = verdicts(store, "pets")
    assert found.labels == ("dog",) and not found.conflict
    assert found.reviewed_at == NOON + timedelta(minutes=5)


def test_most_reviewers_decide_and_a_tie_decides_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    append_reviews(
        store,
        rows(
            review("a", "ann", "cat"),
            review("a", "bob", "dog", audit=True, selection_prob=0.1),
            review("a", "cat", "cat"),
            review("b", "ann", "cat"),
            review("b", "bob", "dog"),
        ),
    )
    most, tie = verdicts(store, "pets")
    assert most.labels == ("cat",) and most.conflict and most.audit and most.selection_prob == 0.1
    assert tie.labels is None and tie.conflict and not tie.audit
    assert tie.answers == (("ann", ("cat",)), ("bob", ("dog",)))
