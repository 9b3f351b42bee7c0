"""The values that a report is made of: its options, its inputs, and what was read of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clip_transforms.elements import RequestError
from clip_transforms.prompts.rules import NONE
from clip_transforms.review.report_histogram import Histogram

if TYPE_CHECKING:
    from clip_transforms.review.report_calibration import CalibrationView
    from clip_transforms.review.report_refinement import RefinementView
    from clip_transforms.storage import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """The bounds of a report's page. Raises RequestError when one of them makes no sense."""

    max_labels: int = 40  # sheets of one prompt set, the most frequent labels first
    max_sheets: int = 80  # sheets of all prompt sets together
    max_bars: int = 300  # labels in a set's list
    tiles_per_label: int = 12  # the least sure
    sample_per_label: int = 6  # drawn at random from the rest
    failures_per_reason: int = 6
    thumbnail_px: int = 160  # longest side
    sharp_px: int = (
        320  # the same, where the images shown are few: a page of both kinds weighs about the same
    )
    sharp_images: int = 360
    thumbnail_seconds: float = 120.0  # for all thumbnails together; the rest become placeholders
    threads: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "max_labels",
            "max_sheets",
            "max_bars",
            "tiles_per_label",
            "thumbnail_px",
            "sharp_px",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise RequestError(f"report option {name} is {getattr(self, name)}; expected 1 or more")
        for name in ("sample_per_label", "failures_per_reason", "thumbnail_seconds", "sharp_images"):
            if getattr(self, name) < 0:
                raise RequestError(f"report option {name} is {getattr(self, name)}; expected 0 or more")

    def picture_px(self, images: int) -> int:
        """The longest side of a picture on a page that shows so many.

        >>> ReportOptions().picture_px(36), ReportOptions().picture_px(1000)
        (320, 160)
        """
        return max(self.thumbnail_px, self.sharp_px if images <= self.sharp_images else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """What to report on.

    run: the mapping that `run.json` holds; unknown keys are ignored, missing ones are left out of the page.
    sets: prompt sets to show, as `<set>@<hash8>`; None: the newest folder of every set in `labels/`.
    parts: names of the live parts; None: whatever the folders hold (right once a run has ended).
    source: the store with `embeddings/` and `failures/`, where labels were written to another one.
    """

    run: Mapping[str, Any]
    sets: Sequence[str] | None = None
    parts: Sequence[str] | None = None
    source: Store | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What `embeddings/` knows of one image."""

    width: int
    height: int
    format: str
    bytes: int
    caption: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureExample:
    """One row of `failures/`."""

    image_id: str
    uri: str
    stage: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """All failures of one reason: their exact number and a seeded sample."""

    reason: str
    count: int
    examples: tuple[FailureExample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What `duplicates.parquet` says: how many ids come more than once, and how many rows have them."""

    ids: int
    rows: int


@dataclass(slots=True, kw_only=True)
class Images:
    """What one pass over `embeddings/` finds."""

    rows: int = 0
    bytes: int = 0
    captions: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    facts: dict[tuple[str, str], ImageFacts] = field(default_factory=dict)  # by image id and uri
    sample: tuple[tuple[str, str], ...] = ()  # image id and uri, drawn at random


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One entry of a row's `top_k`."""

    label: str
    score: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One image on a sheet, with what the model says of it."""

    image_id: str
    uri: str
    drawn: Literal["unsure", "sample"]
    score: float  # of the sheet's label in a multi-label set, else the row's
    calibrated: float | None
    cosine: float
    margin: float
    entropy: float
    top_k: tuple[Guess, ...]
    labels: tuple[str, ...]  # multi-label sets only
    decision: str
    decision_reason: str


@dataclass(slots=True, kw_only=True)
class LabelCount:
    """How often a label was given, and the sum of its scores."""

    images: int = 0
    score_sum: float = 0.0


@dataclass(slots=True, kw_only=True)
class SetStats:
    """The exact counts of one prompt set. The label None stands for rows without any (abstained)."""

    tag: str
    rows: int = 0
    multi: bool = False
    calibrated: int = 0  # rows with a calibrated score
    labels: dict[str | None, LabelCount] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    decisions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    scores: Histogram = field(default_factory=Histogram)
    margins: Histogram = field(default_factory=Histogram)
    entropies: Histogram = field(default_factory=Histogram)
    calibration: CalibrationView | None = None
    refinement: RefinementView | None = None

    def frequent(self) -> list[tuple[str, LabelCount]]:
        """Labels and counts, most frequent first; without `__none__` and without the rows that have none."""
        named = [
            (label, count) for label, count in self.labels.items() if label is not None and label != NONE
        ]
        return sorted(named, key=lambda entry: (-entry[1].images, entry[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The tiles of one label: `unsure` of them are its least sure, the rest was drawn at random."""

    label: str | None
    images: int
    score_mean: float
    tiles: tuple[Tile, ...]
    unsure: int
