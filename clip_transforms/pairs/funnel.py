"""The funnel of a filter run: how many pairs each step dropped, recounted from what is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from clip_transforms.pairs.steps import KEPT_FOLDER, PAIRS_FOLDER
from clip_transforms.storage import Store

_PART = re.compile(r"(?:pairs|kept)/part-(?P<selection>[0-9a-f]{8})-\d+-\d+\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What pairs/ and kept/ hold."""

    selections: tuple[str, ...]  # names of the selections that parts are of: one, once a job has ended
    pairs: int
    kept: int
    dropped: Mapping[str, int]  # by reason, in the order of the steps, most first
    kept_rows: int  # in kept/

    def to_plain(self) -> dict[str, Any]:
        """For run.json."""
        return {"selections": list(self.selections), "pairs": self.pairs, "kept": self.kept} | {
            "dropped": dict(self.dropped),
            "kept_rows": self.kept_rows,
        }


def read_funnel(store: Store) -> Funnel:
    """Recount a run's funnel from the rows of pairs/ and kept/."""
    selections: set[str] = set()
    dropped: Counter[str] = Counter()
    pairs = kept = kept_rows = 0
    for name, selection in selected_parts(store):
        selections.add(selection)
        with store.open(name) as handle:
            file = pq.ParquetFile(handle)
            if name.startswith(f"{KEPT_FOLDER}/"):
                kept_rows += file.metadata.num_rows
                continue
            for batch in file.iter_batches(columns=["kept", "drop_reason"]):
                pairs += batch.num_rows
                kept += pc.sum(batch.column("kept")).as_py() or 0
                reasons = batch.column("drop_reason").cast(pa.string()).drop_null()
                dropped.update(
                    {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist()}
                )
    ordered = dict(sorted(dropped.items(), key=lambda entry: (step_of(entry[0]), -entry[1], entry[0])))
    return Funnel(
        selections=tuple(sorted(selections)), pairs=pairs, kept=kept, dropped=ordered, kept_rows=kept_rows
    )


def step_of(reason: str) -> int:
    """The place of the step that drops for this reason: captions, rules, duplicates, the cut.

    >>> [step_of(reason) for reason in (NO_CAPTION, "language", "duplicate_near", BELOW_CUT)]
    [0, 1, 3, 5]
    """
    steps = {NO_CAPTION: 0, DUPLICATE_EXACT: 2, DUPLICATE_NEAR: 3, DUPLICATE_SEMANTIC: 4, BELOW_CUT: 5}
    return steps.get(reason, 1)


def selected_parts(store: Store) -> list[tuple[str, str]]:
    """The parts of pairs/ and kept/, each with the name of the selection that wrote it."""
    found = []
    for folder in (PAIRS_FOLDER, KEPT_FOLDER):
        for entry in store.list(folder):
            match = _PART.fullmatch(entry.name)
            if match:
                found.append((entry.name, match["selection"]))
    return sorted(found)


def funnel_problems(summary: Mapping[str, Any]) -> list[str]:
    """Why the funnel of a run does not add up; empty where it does, or where the run is no filter run.

    >>> good = {"selections": ["ab"], "done": "ab", "inputs": 5, "failed": 1, "kept": 3, "kept_rows": 3}
    >>> good |= {"pairs": 4, "dropped": {"below_cut": 1}}
    >>> funnel_problems({"filter": good})
    []
    >>> funnel_problems({"filter": {**good, "kept": 2}})
    ['2 pairs are kept, 1 dropped and 1 failed, of 5 inputs']
    """
    funnel = summary.get("filter")
    if not funnel:
        return []
    if funnel["done"] is None or any(name != funnel["done"] for name in funnel["selections"]):
        return ["the selection is not finished: run `beamclip filter` again with --resume"]
    if funnel["pairs"] != funnel["inputs"] - funnel["failed"]:
        told = f"{funnel['pairs']} of {funnel['inputs'] - funnel['failed']} embedded images are in {PAIRS_FOLDER}/"
        return [f"{told}: run `beamclip filter` again with --resume"]
    dropped = sum(funnel["dropped"].values())
    if funnel["kept"] + dropped + funnel["failed"] != funnel["inputs"]:
        told = f"{funnel['kept']} pairs are kept, {dropped} dropped and {funnel['failed']} failed"
        return [f"{told}, of {funnel['inputs']} inputs"]
    if funnel["kept"] != funnel["kept_rows"]:
        return [f"{funnel['kept']} pairs are kept, {funnel['kept_rows']} rows are in {KEPT_FOLDER}/"]
    if funnel.get("unread"):
        told = f"{funnel['unread']} kept images could not be read again, or are others by now"
        return [f"{told}: they are in no shard of webdataset/"]
    return []
