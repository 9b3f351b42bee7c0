"""Scored rows as the Arrow rows of `labels/`, built column by column without a Python value a row."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_transforms.elements import ContractError
from clip_transforms.probabilities import Float32
from clip_transforms.score_rules import DECISIONS, REASONS
from clip_transforms.scoring import Scored
from schemas.labels import LABELS


def labels_table(
    scored: Scored,
    *,
    image_id: pa.Array | pa.ChunkedArray | Sequence[str],
    uri: pa.Array | pa.ChunkedArray | Sequence[str],
    prompt_set: str,
    fingerprint: str,
    encoder: str,
    run_id: str,
    created_at: datetime.datetime,
) -> pa.Table:
    """Rows of LABELS for scored rows and the images they are of.

    prompt_set is the tag `<set>@<hash8>`; created_at is aware of its time zone. Raises
    ContractError when the numbers of rows differ.
    """
    count = len(scored.score)
    ids, uris = _strings(image_id), _strings(uri)
    if len(ids) != count or len(uris) != count:
        raise ContractError(f"{count} scored rows, {len(ids)} image ids and {len(uris)} uris")
    columns = {
        "image_id": ids,
        "uri": uris,
        "label": _words(scored.label, scored.rules.names),
        "score": pa.array(scored.score),
        "calibrated": _calibrated(scored.calibrated),
        "cosine": pa.array(scored.cosine),
        "margin": pa.array(scored.margin),
        "entropy": pa.array(scored.entropy),
        "top_k": _top_k(scored),
        "labels": _labels(scored),
        "path": _paths(scored),
        "decision": _words(scored.decision, DECISIONS),
        "decision_reason": _words(scored.reason, REASONS),
        "prompt_set": _same(prompt_set, count),
        "fingerprint": _same(fingerprint, count),
        "encoder": _same(encoder, count),
        "run_id": _same(run_id, count),
        "created_at": pa.repeat(pa.scalar(created_at, LABELS.field("created_at").type), count),
    }
    return pa.Table.from_arrays([columns[name] for name in LABELS.names], schema=LABELS)


def _strings(values: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.string()) if isinstance(values, pa.Array) else pa.array(values, pa.string())


def _words(places: npt.NDArray[np.int32] | npt.NDArray[np.int8], words: Sequence[str]) -> pa.Array:
    """A dictionary column; a place below 0 is null."""
    indices = pa.array(places.astype(np.int32), mask=places < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(words, pa.string()))


def _same(value: str, count: int) -> pa.Array:
    return _words(np.zeros(count, np.int32), [value])


def _calibrated(values: Float32) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _top_k(scored: Scored) -> pa.Array:
    rows, size = scored.top_index.shape
    kind = LABELS.field("top_k").type
    names = pa.array(scored.rules.names, pa.string())
    values = pa.StructArray.from_arrays(
        [
            names.take(pa.array(scored.top_index.reshape(-1))),
            pa.array(scored.top_score.reshape(-1)),
            pa.array(scored.top_cosine.reshape(-1)),
        ],
        fields=list(kind.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * size), values, type=kind)


def _labels(scored: Scored) -> pa.Array:
    kind = LABELS.field("labels").type
    if scored.rules.task == "single":
        return pa.nulls(len(scored.label), kind)
    offsets = np.concatenate([[0], np.cumsum(scored.hit_counts)]).astype(np.int32)
    names = pa.array(scored.rules.names, pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(scored.hits)), type=kind)


def _paths(scored: Scored) -> pa.Array:
    kind = LABELS.field("path").type
    if scored.rules.paths is None:
        return pa.nulls(len(scored.label), kind)
    return pa.array(scored.rules.paths, kind).take(pa.array(scored.label, mask=scored.label < 0))
