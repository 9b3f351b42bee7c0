"""From what was read of a run to what the page shows: rows, sheets, checks, in words and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clip_transforms.prompts import PromptSet
from clip_transforms.prompts.rules import NONE
from clip_transforms.review.report_calibration import CalibrationView
from clip_transforms.review.report_format import base_name, number, word
from clip_transforms.review.report_histogram import Chart, chart
from clip_transforms.review.report_refinement import RefinementView
from clip_transforms.review.report_values import (
    Images,
    LabelCount,
    ReportOptions,
    SetStats,
    Sheet,
    Tile,
)
from clip_transforms.review.thumbnails import Thumbnail

_DECISIONS = {
    "auto_accept": "accepted automatically",
    "review": "for review",
    "abstain": "no label given",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One line of a set's list of labels. images counts the row's own and, for a group, all below it."""

    label: str
    note: str  # its display name, where that is no spelling of the id
    images: int
    own: int
    share: float  # of the images
    length: float  # 0..100, of its bar
    depth: int  # in a hierarchy
    anchor: str | None  # of its sheet
    special: bool  # "none of these", or no label


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """One tile: what was read, its picture, and the tile in words, for those who cannot see it."""

    index: int
    tile: Tile
    picture: Thumbnail | None
    guesses: tuple[tuple[str, float], ...]  # the sheet's label and the best other one, with scores
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetView:
    """One sheet of the page."""

    anchor: str
    label: str | None
    title: str
    above: tuple[str, ...]  # the groups that the label is in, from the root
    special: bool
    images: int
    share: float
    score_mean: float
    note: str  # which of the images the tiles show, and in which order
    drawn: str  # what comes after those; empty where nothing does
    tiles: tuple[TileView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetView:
    """All that the page shows of one prompt set."""

    anchor: str
    name: str
    hash8: str
    kind: str
    multi: bool
    rows: int
    calibrated: int
    given: int  # labels that at least one image has
    more: tuple[int, int]  # labels beyond the list, and the images that have them
    charts: tuple[Chart, ...]
    decisions: tuple[tuple[str, str, int, float], ...]  # key, words, images, percent
    reasons: tuple[tuple[str, int], ...]
    labels: tuple[LabelRow, ...]
    never: tuple[str, ...]
    sheets: tuple[SheetView, ...]
    calibration: CalibrationView | None
    refinement: RefinementView | None


def wanted_labels(stats: SetStats, *, sheets: int) -> list[str | None]:
    """The labels that get a sheet: the most frequent, then none-of-these and no-label where there are any."""
    special = [label for label in (NONE, None) if label in stats.labels]
    return [*(label for label, _ in stats.frequent()[:sheets]), *special]


def set_view(
    stats: SetStats,
    sheets: Sequence[Sheet],
    *,
    prompts: PromptSet | None,
    pictures: Mapping[str, Thumbnail],
    position: int,
    options: ReportOptions,
) -> SetView:
    """The view of one set. prompts: the set, where the run keeps it; position: its place on the page."""
    anchors = {sheet.label: f"set{position}-sheet{place}" for place, sheet in enumerate(sheets)}
    frequent = stats.frequent()
    beyond = frequent[options.max_bars :]
    given = {label for label, _ in frequent}
    name, _, hash8 = stats.tag.partition("@")
    return SetView(
        anchor=f"set{position}",
        name=name,
        hash8=hash8,
        kind=_kind(stats),
        multi=stats.multi,
        rows=stats.rows,
        calibrated=stats.calibrated,
        given=len(frequent),
        more=(len(beyond), sum(count.images for _, count in beyond)),
        charts=_charts(stats),
        decisions=tuple(
            (key, words, stats.decisions[key], 100 * stats.decisions[key] / max(1, stats.rows))
            for key, words in _DECISIONS.items()
            if stats.decisions[key]
        ),
        reasons=tuple(stats.reasons.most_common()),
        labels=_label_rows(stats, anchors, prompts=prompts, limit=options.max_bars),
        never=()
        if prompts is None
        else tuple(key for key in prompts.classes if key not in given and key != NONE),
        sheets=tuple(
            _sheet_view(stats, sheet, anchors[sheet.label], pictures=pictures, options=options)
            for sheet in sheets
        ),
        calibration=stats.calibration,
        refinement=stats.refinement,
    )


def sample_view(
    images: Images, pictures: Mapping[str, Thumbnail]
) -> tuple[tuple[str, str, Thumbnail | None], ...]:
    """The drawn images of a run without labels: image id, uri, picture."""
    return tuple((image_id, uri, pictures.get(uri)) for image_id, uri in images.sample)


def _kind(stats: SetStats) -> str:
    if stats.multi:
        return "several labels an image"
    return "one label an image, in a hierarchy" if stats.paths else "one label an image"


def _charts(stats: SetStats) -> tuple[Chart, ...]:
    score = "calibrated probability of the label" if stats.calibrated else "probability of the best class"
    margin = "distance to the nearest threshold" if stats.multi else "best class minus the second"
    return (
        chart(stats.scores, title="Confidence", note=score),
        chart(stats.margins, title="Margin", note=margin),
        chart(stats.entropies, title="Entropy", note="0: certain, 1: undecided"),
    )


def _label_rows(
    stats: SetStats, anchors: Mapping[str | None, str], *, prompts: PromptSet | None, limit: int
) -> tuple[LabelRow, ...]:
    named = {label.id: label.name for label in prompts.labels} if prompts else {}
    totals, order = _totals(stats, stats.frequent()[:limit])
    special = [
        (key, words) for key, words in ((NONE, "none of these"), (None, "no label")) if key in stats.labels
    ]
    largest = max([*totals.values(), *(stats.labels[key].images for key, _ in special), 1])

    def row(key: str | None, text: str, images: int, depth: int) -> LabelRow:
        plain = text.replace("-", " ").replace("_", " ").casefold()
        name = named.get(key or "", "")
        return LabelRow(
            label=text,
            note="" if name.casefold() in (plain, text.casefold()) else name,
            images=images,
            own=stats.labels.get(key, LabelCount()).images,
            share=images / max(1, stats.rows),
            length=round(100 * images / largest, 2),
            depth=min(depth, 5),
            anchor=anchors.get(key),
            special=key is None or key == NONE,
        )

    return (
        *(row(path[-1], path[-1], totals[path[-1]], len(path) - 1) for path in order),
        *(row(key, words, stats.labels[key].images, 0) for key, words in special),
    )


def _totals(
    stats: SetStats, counts: Sequence[tuple[str, LabelCount]]
) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Images of each label and all below it, and the paths in the order of a tree, the largest first."""
    totals: dict[str, int] = {}
    paths: set[tuple[str, ...]] = set()
    for label, count in counts:
        path = stats.paths.get(label, (label,))
        for depth, key in enumerate(path):
            totals[key] = totals.get(key, 0) + count.images
            paths.add(path[: depth + 1])
    return totals, sorted(paths, key=lambda path: [(-totals[key], key) for key in path])


def _sheet_view(
    stats: SetStats, sheet: Sheet, anchor: str, *, pictures: Mapping[str, Thumbnail], options: ReportOptions
) -> SheetView:
    titles = {NONE: "none of these", None: "no label"}
    first = "nearest to a label first" if sheet.label is None else "least sure first"
    whole = len(sheet.tiles) == sheet.images
    drawn = len(sheet.tiles) - sheet.unsure
    note = f"all of them, {first}" if whole and not drawn else f"{sheet.unsure} of {sheet.images:,}, {first}"
    return SheetView(
        anchor=anchor,
        label=sheet.label,
        title=titles.get(sheet.label) or str(sheet.label),
        above=stats.paths.get(sheet.label or "", ())[:-1],
        special=sheet.label in titles,
        images=sheet.images,
        share=sheet.images / max(1, stats.rows),
        score_mean=sheet.score_mean,
        note=note if sheet.images > 1 else "",
        drawn="the others"
        if drawn and whole
        else f"{drawn} at random (seed {options.seed})"
        if drawn
        else "",
        tiles=tuple(
            _tile_view(index, tile, sheet.label, pictures.get(tile.uri))
            for index, tile in enumerate(sheet.tiles)
        ),
    )


def _tile_view(index: int, tile: Tile, label: str | None, picture: Thumbnail | None) -> TileView:
    own = () if label is None else ((word(label), tile.score),)
    others = tuple((word(guess.label), guess.score) for guess in tile.top_k if guess.label != label)
    guesses = (*own, *others)[:2]
    spoken = ", ".join(f"{name} {number(score)}" for name, score in guesses)
    words = f"{base_name(tile.uri)}: {spoken}; margin {number(tile.margin)}"
    return TileView(index=index, tile=tile, picture=picture, guesses=guesses, words=words)
