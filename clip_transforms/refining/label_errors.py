"""Reviews that may be mistaken, found by confident learning on out-of-fold probabilities; nothing is changed.

Only images that a probe is trained on are looked at, and the weaker the fit, the more right
answers it disputes. Those of the audit that are held out for `calibrate` are
not: whoever mends just the answers that the model disputes makes the model look better than it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.probabilities import Float64
from clip_transforms.probe import log_softmax
from clip_transforms.refining.reviewed import Bool, Reviewed
from schemas.label_errors import LABEL_ERRORS


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelError:
    """A review to look at again. score: the out-of-fold probability of what was given; in a multi-label set
    that of the least likely of its answers.
    """

    image_id: str
    uri: str
    given: tuple[str, ...]
    suggested: tuple[str, ...]
    score: float


def find_label_errors(reviewed: Reviewed, logits: Float64) -> list[LabelError]:
    """The likely mistakes among reviewed images [N], by their out-of-fold logits [N, C]; the likeliest first.

    Source: confident learning, arXiv 1911.00068, as cleanlab has it.
    """
    if not len(reviewed.ids):
        return []
    found = _multi(reviewed, logits) if reviewed.task == "multi" else _single(reviewed, logits)
    return sorted(found, key=lambda error: (error.score, error.image_id))


def label_errors_parquet(errors: Sequence[LabelError]) -> bytes:
    """The rows of LABEL_ERRORS as a Parquet file."""
    rows = [
        {
            "image_id": error.image_id,
            "uri": error.uri,
            "given": list(error.given),
            "suggested": list(error.suggested),
            "score": error.score,
        }
        for error in errors
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=LABEL_ERRORS), buffer, compression="zstd")
    return buffer.getvalue()


def _single(reviewed: Reviewed, logits: Float64) -> list[LabelError]:
    probabilities = np.exp(log_softmax(logits))
    given, best = reviewed.targets.argmax(axis=1), probabilities.argmax(axis=1)
    present, places = np.unique(given, return_inverse=True)
    if len(present) < 2:
        return []
    among = probabilities[:, present]
    doubted = _doubted(places, among / among.sum(axis=1, keepdims=True)) & (best != given)
    return [
        LabelError(
            image_id=reviewed.ids[row],
            uri=reviewed.uris[row],
            given=(reviewed.classes[given[row]],),
            suggested=(reviewed.classes[best[row]],),
            score=float(probabilities[row, given[row]]),
        )
        for row in np.flatnonzero(doubted).tolist()
    ]


def _multi(reviewed: Reviewed, logits: Float64) -> list[LabelError]:
    """Each label is a question of its own; an image with several doubtful answers is one row."""
    chances = np.exp(-np.logaddexp(0, -logits))
    doubted = np.zeros(chances.shape, bool)
    for place in range(chances.shape[1]):
        given = reviewed.targets[:, place]
        if given.any() and not given.all():
            both = np.stack([1 - chances[:, place], chances[:, place]], axis=1)
            doubted[:, place] = _doubted(given.astype(np.int64), both) & ((chances[:, place] > 0.5) != given)
    of_given = np.where(reviewed.targets, chances, 1 - chances)
    return [
        LabelError(
            image_id=reviewed.ids[row],
            uri=reviewed.uris[row],
            given=_names(reviewed, reviewed.targets[row]),
            suggested=_names(reviewed, reviewed.targets[row] ^ doubted[row]),
            score=float(of_given[row][doubted[row]].min()),
        )
        for row in np.flatnonzero(doubted.any(axis=1)).tolist()
    ]


def _doubted(given: np.ndarray, probabilities: Float64) -> Bool:
    from cleanlab.filter import find_label_issues

    found: Bool = find_label_issues(given, probabilities, filter_by="both", n_jobs=1)
    return found


def _names(reviewed: Reviewed, chosen: Bool) -> tuple[str, ...]:
    return tuple(name for name, is_there in zip(reviewed.classes, chosen.tolist(), strict=True) if is_there)
