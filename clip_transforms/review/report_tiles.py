"""What the scripts of a report know: each tile, and of each prompt set its labels and the order of review."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clip_transforms.prompts import PromptSet
from clip_transforms.prompts.rules import NONE
from clip_transforms.review import report_format
from clip_transforms.review.report_pairs import Pairs
from clip_transforms.review.report_values import Images, SetStats, Tile
from clip_transforms.review.report_view import SetView, SheetView, TileView, sample_view
from clip_transforms.review.thumbnails import Thumbnail


def tile_data(
    views: Sequence[SetView], images: Images, pairs: Pairs | None, pictures: Mapping[str, Thumbnail]
) -> dict[str, dict[str, Any]]:
    """Each tile of the page by its name (`<sheet>-<place>`); the pictures stay in the page."""
    data = {
        _name(sheet, view): {
            **_image_data(images, view.tile.image_id, view.tile.uri),
            **_scores(view.tile),
            "shown": _shown(one, sheet, view.tile),
        }
        for one in views
        for sheet in one.sheets
        for view in sheet.tiles
    }
    for side in ("above", "below") if pairs else ():
        for place, pair in enumerate(getattr(pairs, side)):
            entry = _image_data(images, pair.image_id, pair.uri)
            data[f"pairs-{side}-{place}"] = {**entry, "caption": pair.caption}
    for place, (image_id, uri, _) in enumerate(sample_view(images, pictures)):
        data[f"sample-{place}"] = _image_data(images, image_id, uri)
    return data


def review_data(
    run: str, sets: Iterable[tuple[SetView, SetStats, PromptSet | None]]
) -> dict[str, str | list[dict[str, Any]]]:
    """What a reviewer of the page works with.

    run: the url of the run; answers that a browser keeps are found again by it and the set's tag (not by the
    run's id: that is a new one with every job that writes into the folder). Of each set: `order`, a tile of
    each of its images, the lowest margin first; `labels`, `[id, name, parent, is a group, synonyms]` each, in
    the order of the prompt set, or sorted where the run does not keep the set: then only those that some row has.
    """
    return {
        "run": run,
        "sets": [
            {
                "tag": stats.tag,
                "anchor": view.anchor,
                "multi": stats.multi,
                "labels": _kept_labels(prompts) if prompts else _seen_labels(view, stats),
                "order": _order(view),
            }
            for view, stats, prompts in sets
        ],
    }


def _name(sheet: SheetView, view: TileView) -> str:
    return f"{sheet.anchor}-{view.index}"


def _shown(one: SetView, sheet: SheetView, tile: Tile) -> list[str]:
    """The labels that the row has: what a reviewer is shown, and agrees with or not."""
    if one.multi:
        return list(tile.labels)
    return [] if sheet.label is None else [sheet.label]


def _order(view: SetView) -> list[str]:
    """An image that is on several sheets comes once."""
    first: dict[tuple[str, str], tuple[float, str, str]] = {}
    for sheet in view.sheets:
        for tile in sheet.tiles:
            margin, key = tile.tile.margin, (tile.tile.image_id, tile.tile.uri)
            rank = math.inf if math.isnan(margin) else margin
            first.setdefault(key, (rank, tile.tile.image_id, _name(sheet, tile)))
    return [name for _, _, name in sorted(first.values())]


def _kept_labels(prompts: PromptSet) -> list[list[Any]]:
    return [
        [label.id, label.name, label.parent, int(label.group), *label.synonyms] for label in prompts.labels
    ]


def _seen(view: SetView, stats: SetStats) -> set[str]:
    guessed = {guess.label for sheet in view.sheets for tile in sheet.tiles for guess in tile.tile.top_k}
    return guessed | {label for label in stats.labels if label is not None}


def _seen_labels(view: SetView, stats: SetStats) -> list[list[Any]]:
    parents = {child: parent for path in stats.paths.values() for parent, child in itertools.pairwise(path)}
    groups = {group for path in stats.paths.values() for group in path[:-1]}
    found = (_seen(view, stats) | groups) - {NONE}
    return [[label, label, parents.get(label), int(label in groups)] for label in sorted(found)]


def _image_data(images: Images, image_id: str, uri: str) -> dict[str, Any]:
    facts = images.facts.get((image_id, uri))
    shape = (
        None
        if facts is None
        else f"{facts.width} × {facts.height} {facts.format}, {report_format.size(facts.bytes)}"
    )
    return {
        "id": image_id,
        "uri": uri,
        "link": report_format.link(uri),
        "image": shape,
        "caption": facts.caption if facts else None,
        "sha256": facts.sha256 if facts else None,
    }


def _scores(tile: Tile) -> dict[str, Any]:
    number = report_format.number
    return {
        "top": [[guess.label, number(guess.score), number(guess.cosine)] for guess in tile.top_k],
        "calibrated": None if tile.calibrated is None else number(tile.calibrated),
        "margin": number(tile.margin),
        "entropy": number(tile.entropy),
        "decision": tile.decision,
        "reason": report_format.DECISION_REASONS.get(tile.decision_reason, tile.decision_reason),
    }
