"""Which picture a review is of: an answer that was given to an earlier one says nothing of the present one.

An object may be replaced, and `--on-changed redo` then reads it again; the image keeps its id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.commits import COMMITS, EMBEDDINGS, iter_commits
from clip_transforms.labelled import embeddings_store
from clip_transforms.live import live_commits, live_parts
from clip_transforms.review.report_data import iter_batches
from clip_transforms.storage import Store

_REDO = "redo-"
_DUPLICATES = "duplicates.parquet"


def of_present_pictures(store: Store, reviews: pa.Table) -> pa.Table:
    """Those of these rows of REVIEWS that are not of an earlier picture.

    Of a review without a sha256 nobody knows, nor of an id that several inputs have which of them it is of: these stay.
    Reads the ids of units that were read again; memory: what is asked for.
    """
    ids = reviews.filter(pc.is_valid(reviews["sha256"]))["image_id"].unique().to_pylist()
    source = embeddings_store(store) if ids else store
    if not ids or not were_redone(source):
        return reviews
    present = _present(source, set(ids) - _repeated(source, ids))
    pairs = zip(reviews["image_id"].to_pylist(), reviews["sha256"].to_pylist(), strict=True)
    holds = [sha256 is None or present.get(image_id, sha256) == sha256 for image_id, sha256 in pairs]
    return reviews.filter(pa.array(np.array(holds, np.bool_)))


def picture_hashes(store: Store, uris: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of the bytes of these images as the run has them, by id. uris: which of those with one id is meant.

    One pass over three columns of the embeddings.
    """
    if not uris:
        return {}
    source = embeddings_store(store)
    names = [part.name for part in live_parts(source).get(EMBEDDINGS, ())]
    return {
        image_id: sha256
        for image_id, uri, sha256 in _rows(source, names, uris)
        if uri == uris[image_id] and sha256 is not None
    }


def were_redone(source: Store) -> bool:
    """Whether any unit of a run was read again: an input had changed, or a shard had been cut short."""
    return any(task.startswith(_REDO) for task in source.folders(COMMITS))


def _present(source: Store, ids: Collection[str]) -> dict[str, str | None]:
    """The sha256 of those of these images that are in units that were read again."""
    tasks = [task for task in source.folders(COMMITS) if task.startswith(_REDO)]
    units = {commit.unit for task in tasks for commit in iter_commits(source, task)}
    names = [
        part.name
        for live in live_commits(source)
        if live.commit.unit in units
        for part in live.parts.get(EMBEDDINGS, ())
    ]
    return {image_id: sha256 for image_id, _, sha256 in _rows(source, names, ids)}


def _repeated(source: Store, ids: Iterable[str]) -> set[str]:
    """Those of these ids that several inputs of the run have."""
    if not source.exists(_DUPLICATES):
        return set()
    wanted = pa.array(sorted(ids), pa.string())
    found: set[str] = set()
    for batch in iter_batches(source, [_DUPLICATES], ("image_id",)):
        found.update(batch.filter(pc.is_in(batch["image_id"], value_set=wanted))["image_id"].to_pylist())
    return found


def _rows(source: Store, names: Sequence[str], ids: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """(image id, uri, sha256) of the rows of these images in some parts."""
    wanted = pa.array(sorted(ids), pa.string())
    for batch in iter_batches(source, names, ("image_id", "uri", "sha256")):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=wanted)).to_pylist():
            yield row["image_id"], row["uri"], row["sha256"]
