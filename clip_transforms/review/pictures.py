"""Which picture a review is of. An object may be replaced, and `--on-changed redo` then reads it again: the image keeps
its id, and an answer that was given to the earlier picture says nothing of the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.commits import COMMITS, EMBEDDINGS, iter_commits
from clip_transforms.labelled import embeddings_store
from clip_transforms.live import live_commits, live_parts
from clip_transforms.review.report_data import iter_batches
from clip_transforms.storage import Store

_Picture = tuple[str, str]  # (image_id, uri)
_REDO = "redo-"


def of_present_pictures(store: Store, reviews: pa.Table) -> pa.Table:
    """Those of these rows of REVIEWS that are not of an earlier picture.

    Of a review without a sha256 nobody knows, so it stays. Memory: of units that were read again, what is asked for.
    """
    known = pc.is_valid(reviews["sha256"])
    ids = reviews.filter(known)["image_id"].unique().to_pylist()
    redone = _redone_units(embeddings_store(store)) if ids else frozenset()
    if not redone:
        return reviews
    present = _present(embeddings_store(store), redone, ids)
    columns = [reviews[name].to_pylist() for name in ("image_id", "uri", "sha256")]
    holds = [
        sha256 is None or sha256 in present.get((image_id, uri), (sha256,))
        for image_id, uri, sha256 in zip(*columns, strict=True)
    ]
    return reviews.filter(pa.array(np.array(holds, np.bool_)))


def picture_hashes(store: Store, pictures: Collection[_Picture]) -> dict[_Picture, str]:
    """The sha256 of the bytes of these images as the run has them. One pass over three columns of the embeddings."""
    if not pictures:
        return {}
    source = embeddings_store(store)
    names = [part.name for part in live_parts(source).get(EMBEDDINGS, ())]
    wanted = set(pictures)
    found = _rows(source, names, [image_id for image_id, _ in pictures])
    return {picture: sha256 for picture, sha256 in found if picture in wanted and sha256 is not None}


def were_redone(source: Store) -> bool:
    """Whether any unit of a run was read again."""
    return any(task.startswith(_REDO) for task in source.folders(COMMITS))


def _redone_units(source: Store) -> frozenset[str]:
    """The units that were read again, because an input had changed or a shard had been cut short."""
    tasks = [task for task in source.folders(COMMITS) if task.startswith(_REDO)]
    return frozenset(commit.unit for task in tasks for commit in iter_commits(source, task))


def _present(source: Store, units: Collection[str], ids: Sequence[str]) -> dict[_Picture, set[str | None]]:
    """The sha256 of the rows of these images in some units; an id and a uri may come twice."""
    names = [
        part.name
        for live in live_commits(source)
        if live.commit.unit in units
        for part in live.parts.get(EMBEDDINGS, ())
    ]
    found: dict[_Picture, set[str | None]] = {}
    for picture, sha256 in _rows(source, sorted(names), ids):
        found.setdefault(picture, set()).add(sha256)
    return found


def _rows(source: Store, names: Sequence[str], ids: Iterable[str]) -> Iterator[tuple[_Picture, str | None]]:
    wanted = pa.array(sorted(set(ids)), pa.string())
    for batch in iter_batches(source, names, ("image_id", "uri", "sha256")):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=wanted)).to_pylist():
            yield (row["image_id"], row["uri"]), row["sha256"]
