"""Reviews of one label set carried over to another: each reviewer's latest answers, as far as a map decides them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from clip_transforms.labelsets import label_set_tags, read_label_set
from clip_transforms.review.answer_tables import ANSWER_COLUMNS
from clip_transforms.review.importers.collect import review_id
from clip_transforms.review.reviews import first_pictures, read_reviews, stored_reviews, when
from clip_transforms.storage import Store
from clip_transforms.taxonomy import LabelMap
from schemas.reviews import REVIEWS

SOURCE = "migrated"
_CSV = (*ANSWER_COLUMNS, "candidates", "earlier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """An answer that the map does not decide: to be reviewed again. candidates: none where any label may be."""

    image_id: str
    uri: str | None
    reviewer: str
    labels: tuple[str, ...]  # of the old set
    candidates: tuple[str, ...]
    sha256: str | None = None  # of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What reviews came to.

    reviews: rows of REVIEWS for the new set. already: answers that need not be carried, for people have answered the
    new set itself.
    """

    reviews: pa.Table
    hints: tuple[Hint, ...]
    already: int


def migrate_reviews(store: Store, label_map: LabelMap, *, new_tag: str, now: datetime) -> Migrated:
    """Carry each reviewer's latest answer to each image over; writes nothing.

    An answer that was given to the new set's own prompts stays as it is (both sets may have one name), and an image
    that was reviewed with the new set since is no hint any more. When an answer was given, by whom, and how its image
    was chosen stays; what was shown is of the old set, so it is left out. Memory: the reviews.
    """
    answered = _answered(store, label_map)
    first = first_pictures(stored_reviews(store, label_map.new.name))
    hashes = _prompt_hashes(store) | {new_tag: label_map.new.hash}
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(read_reviews(store, label_map.old.name).to_pylist(), key=when):
        latest[row["image_id"], row["reviewer"]] = row
    carried: list[dict[str, Any]] = []
    hints: list[Hint] = []
    already = 0
    for _, row in sorted(latest.items()):
        if label_map.old.name == label_map.new.name and hashes.get(row["prompt_set"]) == label_map.new.hash:
            already += 1
            continue
        labels = tuple(row["labels"])
        found = label_map.carried(labels)
        if found.labels is None and row["image_id"] in answered:
            already += 1
        elif found.labels is None:
            hints.append(_hint(row, labels, found.candidates))
        else:
            carried.append(_carried(row, found.labels, label_map.new.name, new_tag, first, now))
    return Migrated(
        reviews=pa.Table.from_pylist(carried, schema=REVIEWS), hints=tuple(hints), already=already
    )


def hints_csv(hints: Sequence[Hint], *, tag: str, shown: Mapping[str, Sequence[str]]) -> bytes:
    """A review CSV to be filled in and imported, with the candidates and the earlier answer beside.

    shown: by image id, the new model's labels.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_CSV)
    for hint in hints:
        row: dict[str, str] = dict.fromkeys(_CSV, "")
        row |= {"image_id": hint.image_id, "uri": hint.uri or "", "prompt_set": tag}
        row |= {"sha256": hint.sha256 or ""}
        row |= {"shown": "|".join(shown.get(hint.image_id, ())), "candidates": "|".join(hint.candidates)}
        row |= {"earlier": f"{hint.reviewer}: {'|'.join(hint.labels) or '-'}"}
        writer.writerow([row[name] for name in _CSV])
    return text.getvalue().encode("utf-8", "replace")


def _answered(store: Store, label_map: LabelMap) -> set[str]:
    """Images that people have reviewed with the new set, where it has a name of its own."""
    if label_map.old.name == label_map.new.name:
        return set()
    rows = read_reviews(store, label_map.new.name).select(["image_id", "source"]).to_pylist()
    return {row["image_id"] for row in rows if row["source"] != SOURCE}


def _prompt_hashes(store: Store) -> dict[str, str]:
    """Of each label set of the run; calibrated ones have the prompts of those that they are made from."""
    return {tag: read_label_set(store, tag).prompt_set.hash for tag in label_set_tags(store)}


def _hint(row: Mapping[str, Any], labels: tuple[str, ...], candidates: tuple[str, ...]) -> Hint:
    return Hint(
        image_id=row["image_id"],
        uri=row["uri"],
        reviewer=row["reviewer"],
        labels=labels,
        candidates=candidates,
        sha256=row["sha256"],
    )


def _carried(
    row: Mapping[str, Any],
    labels: tuple[str, ...],
    set_name: str,
    tag: str,
    first: Mapping[str, str],
    now: datetime,
) -> dict[str, Any]:
    image_id, who, when, picture = row["image_id"], row["reviewer"], row["reviewed_at"], row["sha256"]
    later = picture if first.get(image_id, picture) != picture else None
    key = review_id(image_id, set_name, labels, who, when, audit=row["audit"], picture=later)
    return {
        **row,
        "review_id": key,
        "set_name": set_name,
        "prompt_set": tag,
        "labels": list(labels),
        "shown": None,
        "agreed": None,
        "source": SOURCE,
        "imported_at": now,
    }
