"""The last step of a selection: what is stale goes, the lists of ids are written, the funnel is recounted."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from clip_transforms.accounting import job_facts, summarise
from clip_transforms.elements import ContractError, RequestError
from clip_transforms.pairs import indexes, layouts, shards
from clip_transforms.pairs.chunks import list_chunks
from clip_transforms.pairs.config import KeptSelection, SelectConfig, keep_selection
from clip_transforms.pairs.cut import Cut
from clip_transforms.pairs.funnel import selected_parts
from clip_transforms.pairs.steps import KEPT_FOLDER, PAIRS_FOLDER, Written
from clip_transforms.pairs.uids import uid_array, uid_bytes
from clip_transforms.storage import Store

UIDS = "uids.npy"
_LAYOUT = re.compile(
    r"webdataset/\d{6,}-\d{4,}\.tar|clip-retrieval/(img_emb|text_emb|metadata)/\1_\d{6,}\.(npy|parquet)"
    r"|clip-retrieval/(image|text)\.index"
)


def finish_selection(
    config: SelectConfig,
    written: Written,
    cut: Cut | None,
    facts: Mapping[str, int],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Delete parts of earlier selections, write what goes over all kept rows, then run.json; its content.

    before: what the job has told of its units; empty where it had none to work on. Runs on one worker, once all
    chunks are written; run again it writes the same. Raises ContractError where the folders do not hold what was
    counted.
    """
    store = config.store()
    mine = {*written.names, *_write_empty(config, written)}
    if "uids" in config.selection.outputs:
        _write_uids(store, mine)  # may fail, so before anything is deleted
    store.delete(name for name in _selected(store) if name not in mine)
    if "faiss" in config.selection.outputs:
        indexes.write_indexes(store, written.names)
    if "uids" not in config.selection.outputs:
        store.delete([UIDS])
    names = sorted({selection for _, selection in selected_parts(store)})
    threshold = cut.threshold if cut else config.selection.keep_above
    threshold = threshold if threshold is not None and math.isfinite(threshold) else None
    done = names[0] if names else ""
    keep_selection(store, KeptSelection(selection=config.selection, done=done, threshold=threshold))
    told = before or job_facts(run_id=config.run_id, started_at=config.started_at, counted={})
    summary: dict[str, Any] = {**told, **summarise(store)}
    funnel = summary["filter"]
    counted = {"kept": funnel["kept"], **funnel["dropped"]}
    if counted != {"kept": 0, **written.counts}:  # what is recounted against what was written
        raise ContractError(f"pairs/ holds {counted}, the job wrote {written.counts}")
    funnel |= {**facts, "unread": written.unread}
    store.write("run.json", json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False).encode())
    return summary


def _selected(store: Store) -> Iterator[str]:
    """All that selections have written, but for lists of ids."""
    yield from (name for name, _ in selected_parts(store))
    for folder in (layouts.FOLDER, shards.FOLDER):
        yield from (entry.name for entry in store.list(folder) if _LAYOUT.fullmatch(entry.name))


def _write_empty(config: SelectConfig, written: Written) -> Iterator[str]:
    """Parts without rows, where there is none with some: an empty choice is a data set, too."""
    for folder in (PAIRS_FOLDER, KEPT_FOLDER):
        if not any(name.startswith(f"{folder}/") for name in written.names):
            selection = next((chunk.selection for chunk in list_chunks(config)), config.selection.name([]))
            buffer = io.BytesIO()
            pq.write_table(config.schema().empty_table(), buffer, compression="zstd")
            name = f"{folder}/part-{selection}-000000-0.parquet"
            config.store().write(name, buffer.getvalue())
            yield name


def _write_uids(store: Store, mine: Collection[str]) -> None:
    try:
        store.write(UIDS, uid_bytes(uid_array(_kept_ids(store, mine))))
    except RequestError as error:  # known too late to be the request's
        raise ContractError(
            f"{UIDS} cannot be written: {error}; choose anew with `beamclip filter --from-run` without --write uids"
        ) from error


def _kept_ids(store: Store, mine: Collection[str]) -> Iterator[str]:
    for name in sorted(mine):
        if name.startswith(f"{KEPT_FOLDER}/"):
            with store.open(name) as handle:
                for batch in pq.ParquetFile(handle).iter_batches(columns=["image_id"]):
                    yield from batch.column(0).to_pylist()
