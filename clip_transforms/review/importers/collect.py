"""Answers held against a run: which become reviews, which are rejected and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from clip_transforms.fingerprint import canonical_hash
from clip_transforms.labelsets import read_label_set
from clip_transforms.review.importers.answers import Answer, Reason, Rejected, Unanswered, UnfitError, Why
from clip_transforms.review.importers.cvat import Named
from clip_transforms.review.importers.images import Images, find_images
from clip_transforms.review.importers.labels import LabelWords
from clip_transforms.review.importers.selection import Selection, read_selections
from clip_transforms.review.pictures import picture_hashes
from clip_transforms.review.reviews import first_pictures, stored_reviews
from clip_transforms.storage import Store
from schemas.reviews import REVIEWS

UNNAMED = "unnamed"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewers:
    """What reviewers are called. default: those whom a file does not name; renamed: names of files to others."""

    default: str = UNNAMED
    renamed: Mapping[str, str] = field(default_factory=dict)

    def name(self, given: str | None) -> str:
        """The reviewer of an answer."""
        return self.default if given is None else self.renamed.get(given, given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What answers came to. reviews: rows of REVIEWS, each review_id once."""

    reviews: pa.Table
    rejected: tuple[Rejected, ...]
    unanswered: Mapping[Why, int]
    read: int  # rows of all files
    repeated: int  # answers that the files hold more than once


def collect(
    store: Store,
    tag: str,
    entries: Iterable[Answer | Unanswered | Rejected],
    *,
    source: str,
    reviewers: Reviewers,
    names: Mapping[str, Named],
    now: datetime,
) -> Collected:
    """Look up images, labels and selections of the answers to a label set; writes nothing.

    tag: of the set in this run. source: of REVIEWS. names: the images by the names under which an exporter sent
    them out. Memory: the answers, and of the run what they name.
    """
    answers: list[Answer] = []
    rejected: list[Rejected] = []
    unanswered: Counter[Why] = Counter()
    read = 0
    for entry in entries:
        read += 1
        if isinstance(entry, Unanswered):
            unanswered[entry.why] += 1
        elif isinstance(entry, Rejected):
            rejected.append(entry)
        else:
            answers.append(_identified(entry, names))
    rows, unfit = _rows(store, tag, answers, source=source, reviewers=reviewers, now=now)
    rows, contradicting = _without_contradictions(rows)
    found = {row["review_id"]: row for row, _ in rows}
    return Collected(
        reviews=pa.Table.from_pylist(list(found.values()), schema=REVIEWS),
        rejected=(*rejected, *unfit, *contradicting),
        unanswered=dict(unanswered),
        read=read,
        repeated=len(rows) - len(found),
    )


def review_id(
    image_id: str,
    set_name: str,
    labels: Sequence[str],
    reviewer: str,
    reviewed_at: datetime | None,
    *,
    audit: bool = False,
    picture: str | None = None,
) -> str:
    """The same for the same answer, from whichever file and however often it comes.

    Of an answer without a time two things make it another one. audit: whether its image is drawn for an audit now,
    for the audit asks again. picture: the sha256 that its file names, where the run's first answers are to another.

    >>> review_id("a", "pets", ["cat"], "ann", None) == review_id("a", "pets", ["cat"], "ann", None)
    True
    """
    when = "audit" if audit else None
    if reviewed_at is not None:
        when, picture = reviewed_at.isoformat(timespec="microseconds"), None
    again = [] if picture is None else [picture]
    return canonical_hash([image_id, set_name, sorted(labels), reviewer, when, *again])[:32]


def _identified(answer: Answer, names: Mapping[str, Named]) -> Answer:
    named = names.get(answer.uri or "")
    if named is None or answer.image_id not in (None, named.image_id):
        return answer
    return replace(answer, image_id=named.image_id, sha256=answer.sha256 or named.sha256)


_Rows = list[tuple[dict[str, Any], Answer]]


def _rows(
    store: Store, tag: str, answers: Sequence[Answer], *, source: str, reviewers: Reviewers, now: datetime
) -> tuple[_Rows, list[Rejected]]:
    prompts = read_label_set(store, tag).prompt_set
    words = LabelWords(prompts)
    images = find_images(store, tag, answers)
    selections = read_selections(store, prompts.name, images.uris.keys(), task=prompts.task)
    pictures = _Pictures(store, prompts.name, images, answers)
    rows: _Rows = []
    rejected = []
    for answer in answers:
        reviewer = reviewers.name(answer.reviewer)
        try:
            row = _row(answer, words, images, selections, pictures, reviewer=reviewer)
        except UnfitError as error:
            rejected.append(_rejected(answer, error.reason, str(error), reviewer=reviewer))
            continue
        rows.append((row | {"source": source, "imported_at": now}, answer))
    return rows, rejected


def _row(
    answer: Answer,
    words: LabelWords,
    images: Images,
    selections: Mapping[str, Selection],
    pictures: _Pictures,
    *,
    reviewer: str,
) -> dict[str, Any]:
    """One row of REVIEWS but for its source and the time of its import. Raises UnfitError."""
    name = words.prompts.name
    if answer.prompt_set is not None and answer.prompt_set.partition("@")[0] != name:
        raise UnfitError(Reason.OTHER_SET, f"it answers {answer.prompt_set}, this is an import of '{name}'")
    image_id = images.of(answer)
    labels = words.answer(answer)
    selection = selections.get(image_id)
    shown = selection.shown if selection else None
    if answer.shown is not None:  # the file itself knows best
        shown = words.shown(answer.shown, divided=answer.cell is not None)
    audit = selection is not None and selection.audit
    sha256 = pictures.of(image_id, answer)
    return {
        "review_id": review_id(
            image_id,
            name,
            labels,
            reviewer,
            answer.reviewed_at,
            audit=audit,
            picture=pictures.later(image_id, answer),
        ),
        "image_id": image_id,
        "uri": images.uris[image_id],
        "sha256": sha256,
        "set_name": name,
        "prompt_set": answer.prompt_set or (selection and selection.prompt_set),
        "labels": list(labels),
        "reviewer": reviewer,
        "reviewed_at": answer.reviewed_at,
        "lead_time": answer.lead_time,
        "shown": None if shown is None else list(shown),
        "agreed": None if shown is None else tuple(shown) == labels,
        "queue": selection and selection.queue,
        "selection_reason": selection and selection.reason,
        "selection_prob": selection and selection.probability,
        "audit": audit,
        "comment": answer.comment,
    }


class _Pictures:
    """The sha256 of the picture that an answer is to: its file says so; else it is what the run has now."""

    def __init__(self, store: Store, set_name: str, images: Images, answers: Sequence[Answer]) -> None:
        self._first = first_pictures(stored_reviews(store, set_name))
        untold = any(answer.sha256 is None for answer in answers)
        self._now = picture_hashes(store, images.uris) if untold else {}

    def of(self, image_id: str, answer: Answer) -> str | None:
        """None where nobody knows. Raises UnfitError for what is no sha256."""
        if answer.sha256 is None:
            return self._now.get(image_id)
        found = answer.sha256.lower()
        if not _SHA256.fullmatch(found):
            raise UnfitError(Reason.BAD_ROW, f"the sha256 is {answer.sha256!r}, expected 64 hex digits")
        return found

    def later(self, image_id: str, answer: Answer) -> str | None:
        """The picture that the file names, if the first answers to the image that the run has were to another one."""
        named = self.of(image_id, answer) if answer.sha256 else None
        return None if self._first.get(image_id, named) == named else named


def _without_contradictions(rows: _Rows) -> tuple[_Rows, list[Rejected]]:
    """All but the rows in which one reviewer answers two things of one image at one time: which holds?"""
    said: dict[tuple[Any, ...], set[tuple[str, ...]]] = defaultdict(set)
    for row, _ in rows:
        said[_occasion(row)].add(tuple(row["labels"]))
    kept = [(row, answer) for row, answer in rows if len(said[_occasion(row)]) == 1]
    rejected = []
    for row, answer in rows:
        if len(answers := said[_occasion(row)]) > 1:
            told = " and ".join(sorted(" | ".join(labels) or "none" for labels in answers))
            message = f"{row['reviewer']} answers {told} at one time; leave one, or give reviewed_at"
            rejected.append(_rejected(answer, Reason.CONTRADICTION, message, reviewer=row["reviewer"]))
    return kept, rejected


def _occasion(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["image_id"], row["reviewer"], row["reviewed_at"]


def _rejected(answer: Answer, reason: Reason, message: str, *, reviewer: str) -> Rejected:
    return Rejected(
        place=answer.place,
        reason=reason,
        message=message,
        image=answer.image,
        labels=" | ".join(" > ".join(path) for path in answer.labels),
        reviewer=reviewer,
    )
