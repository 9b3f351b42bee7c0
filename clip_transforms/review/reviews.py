"""The stored reviews of a run: appended once, read together, and what they come to for each image."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.fingerprint import canonical_hash
from clip_transforms.review.pictures import of_present_pictures
from clip_transforms.storage import Store
from schemas.reviews import REVIEWS

FOLDER = "reviews"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the reviews of one image come to.

    labels: the answer of most reviewers, each reviewer's latest one; None where no answer has more than any
    other (conflict). answers: each reviewer's. The selection is that of any of the reviews: an image that was
    drawn for an audit once is of the audit.
    """

    image_id: str
    uri: str | None
    labels: tuple[str, ...] | None
    answers: tuple[tuple[str, tuple[str, ...]], ...]  # (reviewer, labels), by reviewer
    audit: bool
    selection_prob: float | None
    reviewed_at: datetime | None  # the latest
    prompt_set: str | None  # the tag that was shown last

    @property
    def conflict(self) -> bool:
        """Whether the reviewers do not agree."""
        return len({labels for _, labels in self.answers}) > 1


def append_reviews(store: Store, reviews: pa.Table) -> int:
    """Write those of these rows of REVIEWS that the run does not have yet; how many they are.

    The part's name comes from its review ids, so an import that was killed, or done twice at once, writes
    the same object.
    """
    known = {value for table in _tables(store, ["review_id"]) for value in table["review_id"].to_pylist()}
    places: dict[str, int] = {}
    for place, value in enumerate(reviews["review_id"].to_pylist()):
        if value not in known:
            places.setdefault(value, place)
    fresh = reviews.take(pa.array(list(places.values()), pa.int64()))
    if not fresh.num_rows:
        return 0
    name = canonical_hash(sorted(fresh["review_id"].to_pylist()))[:16]
    buffer = io.BytesIO()
    pq.write_table(fresh.cast(REVIEWS), buffer, compression="zstd")
    store.create(f"{FOLDER}/part-{name}.parquet", buffer.getvalue())
    return int(fresh.num_rows)


def stored_reviews(store: Store, set_name: str | None = None) -> pa.Table:
    """All reviews of a run, or of one set, oldest import first. Memory: what people have reviewed."""
    tables = [_whole(table) for table in _tables(store, None)]
    whole = pa.concat_tables(tables) if tables else REVIEWS.empty_table()
    if set_name is not None:
        whole = whole.filter(pc.equal(whole["set_name"].cast(pa.string()), set_name))
    return whole.sort_by([("imported_at", "ascending"), ("review_id", "ascending")])


def read_reviews(store: Store, set_name: str | None = None) -> pa.Table:
    """Those that count: not of a picture that was replaced since by `--on-changed redo`."""
    return of_present_pictures(store, stored_reviews(store, set_name))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetReviews:
    """The reviews of one set: all that are stored, and those that count."""

    stored: pa.Table
    counted: pa.Table

    def verdicts(self) -> list[Verdict]:
        """What those that count come to, by image id."""
        return verdicts_of(self.counted)

    def earlier(self) -> set[str]:
        """The ids of images of which all reviews are of an earlier picture."""
        return set(self.stored["image_id"].to_pylist()) - set(self.counted["image_id"].to_pylist())


def set_reviews(store: Store, set_name: str) -> SetReviews:
    """The same, read once."""
    stored = stored_reviews(store, set_name)
    return SetReviews(stored=stored, counted=of_present_pictures(store, stored))


def first_pictures(stored: pa.Table) -> dict[str, str]:
    """By image id, the sha256 of the picture that its first review is of, where that is known."""
    found: dict[str, str] = {}
    for image_id, sha256 in zip(stored["image_id"].to_pylist(), stored["sha256"].to_pylist(), strict=True):
        if sha256 is not None:
            found.setdefault(image_id, sha256)
    return found


def verdicts(store: Store, set_name: str) -> list[Verdict]:
    """What the reviews of each image of a set come to, by image id; of its present picture."""
    return verdicts_of(read_reviews(store, set_name))


def verdicts_of(reviews: pa.Table) -> list[Verdict]:
    """The same of rows of REVIEWS, all of one set."""
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in reviews.to_pylist():
        by_image[row["image_id"]].append(row)
    return [_verdict(rows) for _, rows in sorted(by_image.items())]


def _verdict(rows: Sequence[dict[str, Any]]) -> Verdict:
    latest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=when):
        latest[row["reviewer"]] = row
    answers = tuple((name, tuple(sorted(latest[name]["labels"]))) for name in sorted(latest))
    ranked = Counter(labels for _, labels in answers).most_common(2)
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    last = max(latest.values(), key=when)
    known = [row["selection_prob"] for row in rows if row["selection_prob"] is not None]
    return Verdict(
        image_id=last["image_id"],
        uri=last["uri"],
        labels=None if tied else ranked[0][0],
        answers=answers,
        audit=any(row["audit"] for row in rows),
        selection_prob=max(known) if known else None,
        reviewed_at=last["reviewed_at"],
        prompt_set=last["prompt_set"],
    )


def when(row: dict[str, Any]) -> tuple[datetime, datetime]:
    """Of an answer without its own time, that of its import."""
    return (row["reviewed_at"] or row["imported_at"], row["imported_at"])


def _whole(table: pa.Table) -> pa.Table:
    """With all columns of REVIEWS, also where the part was written before there was one."""
    for field in REVIEWS:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(REVIEWS.names)


def _tables(store: Store, columns: list[str] | None) -> Iterator[pa.Table]:
    names = sorted(found.name for found in store.list(f"{FOLDER}/") if found.name.endswith(".parquet"))
    for name in names:
        with store.open(name) as handle:
            # Arrow's own threads may still hold the file when a command ends here, and end it with an abort.
            yield pq.ParquetFile(handle).read(columns=columns, use_threads=False)
