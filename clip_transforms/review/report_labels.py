"""One prompt set of a run, read from its labels in two bounded passes: exact counts, then the tiles.

The first pass counts labels, decisions and histograms. The second keeps, for the labels that get a sheet,
the rows that the model is least sure of and a seeded sample of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.elements import RequestError
from clip_transforms.review.report_data import Float64, Lowest, iter_batches, part_names, sample_keys
from clip_transforms.review.report_values import Guess, LabelCount, ReportOptions, SetStats, Sheet, Tile

if TYPE_CHECKING:
    from clip_transforms.storage import Store

Int64 = npt.NDArray[np.int64]
_SCORES = ("label", "score", "calibrated", "margin", "entropy", "top_k", "labels")
_DECISIONS = ("decision", "decision_reason")
_COUNTED = (*_SCORES, *_DECISIONS, "path")
_SHOWN = ("image_id", "uri", *_SCORES, *_DECISIONS, "cosine")
_UNIT = re.compile(r"/part-[0-9a-f]{8}-(\d{4,}-\d{6,})-(labels-)?")


def label_sets(
    store: Store, *, asked: Sequence[str] | None, parts: Sequence[str] | None
) -> dict[str, list[str]]:
    """The names of the parts of each prompt set to show, by its tag `<set>@<hash8>`.

    asked: the tags; None: of every set the folder that was written last. Raises RequestError for a tag that
    the run has no rows of.
    """
    if parts is None:
        tags = list(store.folders("labels"))
    else:
        tags = sorted({name.split("/")[1] for name in parts if name.startswith("labels/")})
    found = {tag: part_names(store, f"labels/{tag}", parts) for tag in tags}
    found = {tag: names for tag, names in found.items() if names}
    if asked is not None:
        for tag in asked:
            if tag not in found:
                known = ", ".join(found) or "none"
                raise RequestError(f"{store.root} has no labels of the prompt set {tag!r}; it has {known}")
        return {tag: found[tag] for tag in asked}
    newest: dict[str, str] = {}
    for tag in sorted(found, key=lambda tag: (_written(store, found[tag]) if len(found) > 1 else "", tag)):
        newest[tag.split("@", 1)[0]] = tag
    return {tag: found[tag] for _, tag in sorted(newest.items())}


def _written(store: Store, names: Sequence[str]) -> str:
    """When the first row of a set was made, as a text that sorts.

    Units that are added, retried or redone later are labelled with every set at once, in the order of tags: which
    set is the newest is seen in what was labelled by a task of its own, of the run's first units.
    """
    for batch in iter_batches(store, sorted(names, key=_age), ("created_at",)):
        if batch.num_rows:
            return str(batch["created_at"][0].as_py().isoformat(timespec="microseconds"))
    return ""


def _age(name: str) -> tuple[bool, str, str]:
    """Sorts parts of a set: those of retries and redone units last, the others by extension and unit.

    The hex digits that begin a unit's name are drawn anew for each extension of the plan: they tell nothing.

    >>> sorted(["l/part-0a1b2c3d-0001-000000-labels-x", "l/part-ff1b2c3d-0000-000000-labels-x"], key=_age)[0]
    'l/part-ff1b2c3d-0000-000000-labels-x'
    """
    found = _UNIT.search(name)
    return (True, "", name) if found is None else (found[2] is None, found[1], name)


def count_labels(store: Store, *, tag: str, names: Sequence[str]) -> SetStats:
    """The first pass over a set's parts."""
    stats = SetStats(tag=tag)
    for batch in iter_batches(store, names, _COUNTED):
        stats.rows += batch.num_rows
        stats.multi = stats.multi or batch["labels"].null_count < batch.num_rows
        _count_pairs(stats, batch)
        calibrated = batch["calibrated"] if "calibrated" in batch.schema.names else pa.nulls(0)
        stats.calibrated += len(calibrated) - calibrated.null_count
        confidence = pc.coalesce(calibrated, batch["score"]) if len(calibrated) else batch["score"]
        stats.scores.add(_floats(confidence))
        stats.margins.add(_floats(batch["margin"]))
        stats.entropies.add(_floats(batch["entropy"]))
        for column, counter in (("decision", stats.decisions), ("decision_reason", stats.reasons)):
            for entry in pc.value_counts(batch[column].cast(pa.string())).to_pylist():
                counter[entry["values"]] += entry["counts"]
    return stats


def read_sheets(
    store: Store,
    stats: SetStats,
    *,
    names: Sequence[str],
    labels: Sequence[str | None],
    options: ReportOptions,
) -> list[Sheet]:
    """The second pass: a sheet for each of `labels`, in their order.

    Least sure first is: the lowest margin; in a multi-label set the lowest score of the label (the nearest to
    its threshold); for rows without a label the highest score (the nearest to getting one).
    """
    unsure: list[Lowest[Any]] = [Lowest(options.tiles_per_label) for _ in labels]
    drawn: list[Lowest[Any]] = [
        Lowest(options.tiles_per_label + options.sample_per_label if options.sample_per_label else 0)
        for _ in labels
    ]
    place = {label: number for number, label in enumerate(labels)}
    for batch in iter_batches(store, names, _SHOWN):
        rows, values = _pairs(batch, multi=stats.multi)
        sheets = _places(values, place)
        ids = batch["image_id"].to_pylist()
        scores = _pair_scores(batch, rows, values, multi=stats.multi)
        keys = scores.copy() if stats.multi else _floats(batch["margin"])[rows]
        if None in place:
            without = sheets == place[None]
            keys[without] = -scores[without]
        _offer(unsure, batch, ids, rows, sheets, keys, scores, "unsure")
        if options.sample_per_label:
            random = sample_keys(ids, seed=options.seed)[rows]
            _offer(drawn, batch, ids, rows, sheets, random, scores, "sample")
    return [
        _sheet(label, stats, unsure[number].values(), drawn[number].values(), options)
        for number, label in enumerate(labels)
    ]


def _sheet(
    label: str | None, stats: SetStats, unsure: list[Tile], drawn: list[Tile], options: ReportOptions
) -> Sheet:
    count = stats.labels.get(label, LabelCount())
    seen = {(tile.image_id, tile.uri) for tile in unsure}
    others = [tile for tile in drawn if (tile.image_id, tile.uri) not in seen]
    return Sheet(
        label=label,
        images=count.images,
        score_mean=count.score_sum / max(1, count.images),
        tiles=(*unsure, *others[: options.sample_per_label]),
        unsure=len(unsure),
    )


def _count_pairs(stats: SetStats, batch: pa.RecordBatch) -> None:
    rows, values = _pairs(batch, multi=stats.multi)
    encoded = values.dictionary_encode()
    words: list[str | None] = [*encoded.dictionary.to_pylist(), None]
    codes = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    scores = np.nan_to_num(_pair_scores(batch, rows, values, multi=stats.multi))
    counts = np.bincount(codes, minlength=len(words))
    sums = np.bincount(codes, weights=scores, minlength=len(words))
    for word, count, total in zip(words, counts.tolist(), sums.tolist(), strict=True):
        if count:
            found = stats.labels.setdefault(word, LabelCount())
            found.images += count
            found.score_sum += total
    if not stats.multi and batch["path"].null_count < batch.num_rows:
        known = pc.is_in(values, value_set=pa.array(list(stats.paths), pa.string()))
        for row in batch.filter(pc.invert(known)).select(["label", "path"]).to_pylist():
            if row["label"] is not None and row["path"] and row["label"] not in stats.paths:
                stats.paths[row["label"]] = tuple(row["path"])


def _pairs(batch: pa.RecordBatch, *, multi: bool) -> tuple[Int64, pa.Array]:
    """Row numbers and labels, a pair for each label that a row has; a null label for a row without any."""
    if not multi:
        return np.arange(batch.num_rows), batch["label"].cast(pa.string())
    lists = batch["labels"]
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    empty = np.flatnonzero(pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False) == 0)
    values = pa.concat_arrays([pc.list_flatten(lists).cast(pa.string()), pa.nulls(len(empty), pa.string())])
    return np.concatenate([rows, empty]), values


def _pair_scores(batch: pa.RecordBatch, rows: Int64, values: pa.Array, *, multi: bool) -> Float64:
    """The score of each pair: the row's own; in a multi-label set that of the label in the row's top k.

    A label beyond the top k has the lowest score of the top k, an upper bound.
    """
    own = _floats(batch["score"])[rows]
    if not multi:
        return own
    entries = pc.list_flatten(batch["top_k"])
    parents = pc.list_parent_indices(batch["top_k"]).to_numpy(zero_copy_only=False).astype(np.int64)
    scores = _floats(entries.field("score"))
    lowest = np.full(batch.num_rows, np.inf)
    np.minimum.at(lowest, parents, scores)
    both = pa.concat_arrays([entries.field("label"), values]).dictionary_encode()
    codes = both.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    width = len(both.dictionary) + 1
    known, wanted = parents * width + codes[: len(parents)], rows * width + codes[len(parents) :]
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    found = np.where(known[order][at] == wanted, scores[order][at], np.minimum(lowest[rows], own))
    return np.where(codes[len(parents) :] < 0, own, found)


def _places(values: pa.Array, place: Mapping[str | None, int]) -> Int64:
    """The sheet of each pair, -1 for none."""
    encoded = values.dictionary_encode()
    table = np.array([*(place.get(word, -1) for word in encoded.dictionary.to_pylist()), place.get(None, -1)])
    codes = encoded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)
    found: Int64 = table[codes].astype(np.int64)
    return found


def _offer(
    sheets: Sequence[Lowest[Any]],
    batch: pa.RecordBatch,
    ids: Sequence[str],
    rows: Int64,
    places: Int64,
    keys: Float64,
    scores: Float64,
    drawn: Literal["unsure", "sample"],
) -> None:
    """Offer the pairs of one batch to their sheets; only those that stay become tiles."""
    bounds = np.array([*(sheet.bound for sheet in sheets), -np.inf])  # the last one: pairs without a sheet
    for pair in np.flatnonzero(keys <= bounds[places]).tolist():
        sheets[places[pair]].offer(float(keys[pair]), ids[rows[pair]], (int(rows[pair]), float(scores[pair])))
    for sheet in sheets:
        sheet.map(partial(_tile_of, batch, drawn))


def _tile_of(
    batch: pa.RecordBatch, drawn: Literal["unsure", "sample"], item: Tile | tuple[int, float]
) -> Tile:
    """A place in this batch becomes a tile; one of an earlier batch stays."""
    if isinstance(item, Tile):
        return item
    row = batch.slice(item[0], 1).to_pylist()[0]
    return Tile(
        image_id=row["image_id"],
        uri=row["uri"],
        drawn=drawn,
        score=item[1],
        calibrated=row.get("calibrated"),
        cosine=row["cosine"],
        margin=row["margin"],
        entropy=row["entropy"],
        top_k=tuple(Guess(**guess) for guess in row["top_k"]),
        labels=tuple(row["labels"] or ()),
        decision=row["decision"],
        decision_reason=row["decision_reason"],
    )


def _floats(values: pa.Array) -> Float64:
    found: Float64 = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return found
