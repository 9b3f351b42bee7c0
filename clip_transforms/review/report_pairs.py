"""What a report shows of a filter run: the funnel, the scores with the cut, and pairs on both sides of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_transforms.pairs.config import (
    BELOW_CUT,
    DUPLICATE_EXACT,
    DUPLICATE_NEAR,
    DUPLICATE_SEMANTIC,
    NO_CAPTION,
)
from clip_transforms.pairs.funnel import step_of
from clip_transforms.review.report_data import Lowest, iter_batches, part_names
from clip_transforms.review.report_histogram import Chart, Histogram, chart

if TYPE_CHECKING:
    from clip_transforms.storage import Store

_STEP = 0.05  # the ends of the score axis are multiples of it
_COLUMNS = ("image_id", "uri", "caption", "kept", "drop_reason", "duplicate_of")
_SCORE = "similarity_"
#: What a drop_reason that no rule has means.
WORDS = {
    NO_CAPTION: "no caption, or a blank one",
    DUPLICATE_EXACT: "the same bytes as a better pair's image",
    DUPLICATE_NEAR: "looks like a better pair's image",
    DUPLICATE_SEMANTIC: "an embedding near that of a better pair's image",
    BELOW_CUT: "under the cut",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One pair, to be shown."""

    image_id: str
    uri: str
    caption: str | None
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the funnel: what comes in, what a reason drops, what is left at the end."""

    name: str
    words: str
    count: int
    share: float  # of the inputs
    kind: str  # "", "bad" or "special"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """All that was read of pairs/."""

    steps: tuple[Step, ...]
    chart: Chart | None
    cut: float | None
    above: tuple[Pair, ...]  # kept, the lowest scores first
    below: tuple[Pair, ...]  # under the cut, the highest scores first
    kept: int
    rows: int

    def shown(self) -> list[Pair]:
        """The pairs with a tile."""
        return [*self.above, *self.below]


def read_pairs(store: Store, funnel: Mapping[str, Any] | None, *, tiles: int) -> Pairs | None:
    """Read pairs/ twice in bounded memory; None where the run is no filter run.

    funnel: `filter` of run.json. tiles: pairs shown on each side of the cut.
    """
    if not funnel:
        return None
    names = part_names(store, "pairs", None)
    low, high, column = _range(store, names)
    histogram = Histogram()
    above: Lowest[Pair] = Lowest(tiles)
    below: Lowest[Pair] = Lowest(tiles)
    cut = funnel.get("threshold")
    for batch in iter_batches(store, names, (*_COLUMNS, column)):
        scores = batch[column].to_numpy(zero_copy_only=False).astype(np.float64)
        histogram.add((scores - low) / (high - low))
        reasons = batch["drop_reason"].cast(pa.string())
        if cut is not None:
            _offer(above, batch, scores, batch["kept"].to_numpy(zero_copy_only=False))
            under = pc.fill_null(pc.equal(reasons, BELOW_CUT), False)
            _offer(below, batch, -scores, under.to_numpy(zero_copy_only=False))
    drawn = None
    if histogram.total:
        note = "cosine of image and caption, of all pairs with a caption"
        drawn = chart(histogram, title="Scores", note=note, low=low, high=high, mark=cut)
    return Pairs(
        steps=_steps(funnel),
        chart=drawn,
        cut=cut,
        above=tuple(above.values()),
        below=tuple(below.values()),
        kept=funnel["kept"],
        rows=funnel["pairs"],
    )


def _range(store: Store, names: Sequence[str]) -> tuple[float, float, str]:
    """The ends of the axis that holds all scores, and the name of their column."""
    low, high, column = np.inf, -np.inf, _SCORE
    for batch in iter_batches(store, names, (*_score_column(store, names),)):
        column = batch.schema.names[0]
        ends = pc.min_max(batch.column(0)).as_py()
        if ends["min"] is not None:
            low, high = min(low, ends["min"]), max(high, ends["max"])
    if low > high:
        return 0.0, 1.0, column
    first, last = np.floor(low / _STEP) * _STEP, np.ceil(high / _STEP) * _STEP
    return float(round(first, 2)), float(round(max(last, first + _STEP), 2)), column


def _score_column(store: Store, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    with store.open(names[0]) as handle:
        return [name for name in pq.ParquetFile(handle).schema_arrow.names if name.startswith(_SCORE)][:1]


def _offer(low: Lowest[Pair], batch: pa.RecordBatch, keys: Any, wanted: Any) -> None:
    """Offer the wanted rows of a batch, of which only those under the bound become Python values."""
    places = np.flatnonzero(wanted & (keys <= low.bound))
    for place in places[np.argsort(keys[places], kind="stable")].tolist():
        if keys[place] > low.bound:
            break
        row = batch.slice(place, 1).to_pylist()[0]
        pair = Pair(image_id=row["image_id"], uri=row["uri"], caption=row["caption"], score=_score_of(row))
        low.offer(float(keys[place]), row["image_id"], pair)


def _score_of(row: Mapping[str, Any]) -> float:
    """The score of a row of pairs/, whatever encoder named its column."""
    return float(next(value for name, value in row.items() if name.startswith(_SCORE)))


def _steps(funnel: Mapping[str, Any]) -> tuple[Step, ...]:
    inputs = max(1, funnel["inputs"])

    def step(name: str, words: str, count: int, kind: str) -> Step:
        return Step(name=name, words=words, count=count, share=count / inputs, kind=kind)

    found = [step("inputs", "all that was read", funnel["inputs"], "special")]
    if funnel["failed"]:
        found.append(step("failed", "could not be embedded", funnel["failed"], "bad"))
    for reason, count in sorted(funnel["dropped"].items(), key=lambda entry: step_of(entry[0])):
        found.append(step(reason, WORDS.get(reason, "dropped by a rule"), count, "bad"))
    return (*found, step("kept", "in kept/", funnel["kept"], ""))
