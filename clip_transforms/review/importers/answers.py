"""What a file of answers holds, row by row: an answer, none yet, or a row that cannot be used and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(\.\d+)?\s*(Z|UTC|[+-]\d\d:?\d\d)?)?", re.IGNORECASE
)


class Reason(str, Enum):
    """Why a row of a file is not taken; each is counted and told with examples."""

    BAD_ROW = "bad_row"  # it cannot be read
    UNKNOWN_IMAGE = "unknown_image"
    AMBIGUOUS_IMAGE = "ambiguous_image"  # a file name that several images have
    UNKNOWN_LABEL = "unknown_label"
    AMBIGUOUS_LABEL = "ambiguous_label"  # a name that several labels have
    WRONG_PATH = "wrong_path"  # of a hierarchy: these labels do not lie below each other
    SEVERAL_LABELS = "several_labels"  # in a single-label set
    NO_LABEL = "no_label"  # an answer without any, in a single-label set
    NONE_AND_LABELS = "none_and_labels"  # "none of these", and a label
    OTHER_SET = "other_set"
    CONTRADICTION = "contradiction"  # one reviewer, one image, one time, two answers


class Why(str, Enum):
    """Why a row holds no answer; not a mistake of anybody."""

    SKIPPED = "skipped"  # the annotator passed it over
    EMPTY = "not answered yet"
    UNTOUCHED = "untouched predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as a file has it: images and labels are not looked up yet.

    place: the file and the row, for messages. uri may be a file name. labels: each as a path from the root, a
    plain label is a path of one. left: predictions that stand beside them and that nobody touched; in a
    multi-label set they are labels too. cell: the labels as they stand in a table, where one label may hold what
    divides several. prompt_set: the tag that was shown; shown: the labels that were; sha256: of the picture; each
    if the file says.
    """

    place: str
    labels: tuple[tuple[str, ...], ...]
    image_id: str | None = None
    uri: str | None = None
    reviewer: str | None = None
    reviewed_at: datetime | None = None
    lead_time: float | None = None  # seconds
    comment: str | None = None
    prompt_set: str | None = None
    shown: tuple[str, ...] | None = None
    left: tuple[tuple[str, ...], ...] = ()
    cell: str | None = None
    sha256: str | None = None

    @property
    def image(self) -> str:
        """How the file calls the image."""
        return self.image_id or self.uri or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A row without an answer."""

    place: str
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row that is not taken, and why; the message names what was given and what was expected."""

    place: str
    reason: Reason
    message: str
    image: str = ""
    labels: str = ""
    reviewer: str = ""


class UnfitError(Exception):
    """Why an answer, or the text of a time, is not taken; becomes a Rejected, never leaves this package."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def moment(text: str) -> datetime:
    """An ISO 8601 time or day, aware; without a zone it is UTC. Raises UnfitError.

    >>> moment("2026-11-26T13:10:11.5Z").isoformat(), moment("2026-11-26 13:10+02:00").isoformat()
    ('2026-11-26T13:10:11.500000+00:00', '2026-11-26T11:10:00+00:00')
    """
    found = _TIME.fullmatch(text.strip())
    expected = "expected an ISO 8601 time such as 2026-11-26T13:10:00Z"
    if found is None:
        raise UnfitError(Reason.BAD_ROW, f"the time {text!r}: {expected}")
    day, clock, fraction, zone = found.groups()
    zone = "+00:00" if zone is None or zone.upper() in ("Z", "UTC") else zone
    zone = zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    clock = "00:00" if clock is None else clock
    clock = clock if clock.count(":") == 2 else f"{clock}:00"
    try:
        made = datetime.fromisoformat(f"{day}T{clock}{(fraction or '.0')[:7].ljust(7, '0')}{zone}")
        return made.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise UnfitError(Reason.BAD_ROW, f"the time {text!r}: {expected}")


def seconds(value: object) -> float | None:
    """A lead time; None where there is none. Raises UnfitError for what is no number of seconds.

    >>> seconds("2.5"), seconds(None), seconds("")
    (2.5, None, None)
    """
    if value is None or value == "":
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e12:  # NaN is refused too
        raise UnfitError(Reason.BAD_ROW, f"the lead time {value!r}: expected seconds such as 2.5")
    return found
