"""Writes `report.html`: one page, complete in itself, of what a run did and what it is unsure of."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clip_transforms.labelsets import read_label_set
from clip_transforms.prompts import PromptSet
from clip_transforms.review import report_format
from clip_transforms.review.pages import shipped, template
from clip_transforms.review.report_calibration import calibration_view
from clip_transforms.review.report_checks import checks
from clip_transforms.review.report_data import part_names, read_duplicates, read_failures, read_images
from clip_transforms.review.report_labels import count_labels, label_sets, read_sheets
from clip_transforms.review.report_pairs import Pairs, read_pairs
from clip_transforms.review.report_refinement import refinement_view
from clip_transforms.review.report_tiles import review_data, tile_data
from clip_transforms.review.report_values import (
    Duplicates,
    FailureGroup,
    Images,
    ReportInputs,
    ReportOptions,
    SetStats,
    Sheet,
)
from clip_transforms.review.report_view import sample_view, set_view, wanted_labels
from clip_transforms.review.thumbnails import LoadImage, Thumbnails, make_thumbnails

if TYPE_CHECKING:
    from clip_transforms.storage import Store

REPORT = "report.html"
_SCRIPTS = ("report.js", "detail.js")
_REVIEW_SCRIPTS = ("answers.js", "sets.js", "marks.js", "picker.js", "review.js")
_SHOWN_OF_RUN = (
    "run_id",
    "inputs",
    "encoder",
    "fingerprint",
    "from_run",
    "started_at",
    "ended_at",
    "peak_memory_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """All that was read of a run."""

    sets: tuple[tuple[SetStats, list[Sheet], PromptSet | None], ...]
    images: Images
    failures: tuple[FailureGroup, ...]
    duplicates: Duplicates | None
    pairs: Pairs | None


def write_report(
    store: Store,
    *,
    data: ReportInputs,
    options: ReportOptions | None = None,
    load_image: LoadImage | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Write `report.html` into the run's folder, by one put; an older one is replaced.

    Reads the run's Parquet twice in bounded memory: counts and histograms are over all rows, the images shown
    are bounded by the options. load_image gives an image's encoded bytes by its uri (None: it cannot be had;
    the tile shows its name); without it no thumbnails are made. The page loads nothing from anywhere, and
    what came from outside (names, captions, labels, messages) is shown as text whatever it holds. Where the
    run has labels the page is a review sheet too: answers stay in the reader's browser until they are
    downloaded as a CSV.

    Raises RequestError for a prompt set that the run does not have; StoreError where the store fails.
    """
    store.write(REPORT, render_report(store, data=data, options=options, load_image=load_image, clock=clock))


def render_report(
    store: Store,
    *,
    data: ReportInputs,
    options: ReportOptions | None = None,
    load_image: LoadImage | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """The page that `write_report` writes, UTF-8."""
    options = options or ReportOptions()
    found = _read(store, data, options)
    shown = [pair.uri for pair in found.pairs.shown()] if found.pairs else []
    shown += [tile.uri for _, sheets, _ in found.sets for sheet in sheets for tile in sheet.tiles]
    shown += [uri for _, uri in found.images.sample]
    thumbnails = make_thumbnails(
        shown,
        load_image=load_image,
        px=options.picture_px(len(set(shown))),
        seconds=options.thumbnail_seconds,
        threads=options.threads,
        clock=clock,
    )
    return _render(store.root, data.run, found, thumbnails, options)


def _read(store: Store, data: ReportInputs, options: ReportOptions) -> _Found:
    source = data.source or store
    parts = data.parts if data.source is None else None
    folders = label_sets(store, asked=data.sets, parts=data.parts)
    per_set = max(1, min(options.max_labels, options.max_sheets // max(1, len(folders))))
    sets = []
    for tag, names in folders.items():
        stats = count_labels(store, tag=tag, names=names)
        stats.calibration = calibration_view(store, tag)
        stats.refinement = refinement_view(store, tag)
        labels = wanted_labels(stats, sheets=per_set)
        sheets = read_sheets(store, stats, names=names, labels=labels, options=options)
        sets.append((stats, sheets, _prompts(store, tag)))
    pairs = read_pairs(store, data.run.get("filter"), tiles=options.tiles_per_label)
    tiles = [tile for _, sheets, _ in sets for sheet in sheets for tile in sheet.tiles]
    return _Found(
        sets=tuple(sets),
        images=read_images(
            source,
            part_names(source, "embeddings", parts),
            wanted=[(tile.image_id, tile.uri) for tile in (*tiles, *(pairs.shown() if pairs else ()))],
            sample=0 if sets or pairs else 2 * (options.tiles_per_label + options.sample_per_label),
            seed=options.seed,
        ),
        failures=read_failures(
            source,
            part_names(source, "failures", parts),
            examples=options.failures_per_reason,
            seed=options.seed,
        ),
        duplicates=read_duplicates(source),
        pairs=pairs,
    )


def _prompts(store: Store, tag: str) -> PromptSet | None:
    """The prompt set itself, where the run keeps it: for display names and labels that were never given."""
    return read_label_set(store, tag).prompt_set if store.exists(f"text/{tag}.json") else None


def _render(
    output: str, run: Mapping[str, Any], found: _Found, thumbnails: Thumbnails, options: ReportOptions
) -> bytes:
    views = [
        set_view(
            stats, sheets, prompts=prompts, pictures=thumbnails.pictures, position=position, options=options
        )
        for position, (stats, sheets, prompts) in enumerate(found.sets)
    ]
    failed = sum(group.count for group in found.failures)
    accounts = checks(run, images=found.images, failed=failed, sets=[stats for stats, _, _ in found.sets])
    names = (*_SCRIPTS, *(_REVIEW_SCRIPTS if views else ()))
    scripts = [shipped(name) for name in names]
    styles = [shipped(name) for name in (("report.css", "review.css") if views else ("report.css",))]
    page = template("report.html.j2")
    html = page.render(
        output=run.get("output") or output,
        run={name: run.get(name) for name in _SHOWN_OF_RUN},
        rate=run.get("images_per_second"),
        took=report_format.duration(run.get("started_at"), run.get("ended_at")),
        sets=views,
        images=found.images,
        pairs=found.pairs,
        sample=sample_view(found.images, thumbnails.pictures),
        failures=found.failures,
        failed=failed,
        duplicates=found.duplicates,
        checks=accounts,
        sound=all(check.holds for check in accounts),
        thumbnails=thumbnails,
        options=options,
        config=report_format.flat(run.get("config") or {}),
        versions=report_format.flat(run.get("versions") or {}),
        stages=report_format.flat(run.get("images_per_second_of_stage") or {}),
        reasons=report_format.REASONS,
        decision_reasons=report_format.DECISION_REASONS,
        tiles=report_format.json_block(tile_data(views, found.images, found.pairs, thumbnails.pictures)),
        review_data=report_format.json_block(
            review_data(
                run.get("output") or output,
                [(view, stats, prompts) for view, (stats, _, prompts) in zip(views, found.sets, strict=True)],
            )
        ),
        styles=[Markup(text) for text in styles],
        scripts=[Markup(text) for text in scripts],
        style_hashes=" ".join(map(_csp_hash, styles)),
        script_hashes=" ".join(map(_csp_hash, scripts)),
    )
    return html.encode("utf-8", "xmlcharrefreplace")


def _csp_hash(text: str) -> str:
    """What lets a page run or apply exactly this text (Content Security Policy 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
