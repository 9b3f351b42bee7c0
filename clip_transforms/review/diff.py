"""Two label sets of a run held against each other, row by row: what each old label became, and whether people agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.joined import side_by_side
from clip_transforms.labelled import LabelledRun
from clip_transforms.prompts import NONE
from clip_transforms.review.agreement import agrees, labels_of
from clip_transforms.taxonomy import LabelMap
from clip_transforms.views import label_view

_COLUMNS = ("label", "labels", "score")
_EXAMPLES = 3  # rows of a cell that are kept
_CELLS_WITH_EXAMPLES = 500
_DISAGREEMENTS = 1000  # reviewed rows that are kept

Words = tuple[str, ...]
#: (old label, new label); None: no label.
Cell = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a cell."""

    image_id: str
    uri: str
    old_score: float
    new_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A reviewed image of which the new model says something else than the carried answer."""

    image_id: str
    uri: str
    reviewed: Words  # carried over
    old: Words  # of the old model
    new: Words
    new_score: float


@dataclass(slots=True)
class Diff:
    """What was found.

    cells: rows (in a multi-label set: labels) by old and new label. as_mapped: rows that follow the map.
    """

    rows: int = 0
    as_mapped: int = 0
    cells: Counter[Cell] = field(default_factory=Counter)
    examples: dict[Cell, list[Example]] = field(default_factory=lambda: defaultdict(list))
    reviewed: int = 0  # rows with a carried answer
    old_agreed: int = 0  # of these, where the old model's label, carried over, is the answer
    new_agreed: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    shown: dict[str, Words] = field(default_factory=dict)  # the new model's labels of wanted images

    def moved(self, label_map: LabelMap) -> list[tuple[Cell, int]]:
        """The cells that the map does not say, most frequent first."""
        found = [(cell, count) for cell, count in self.cells.items() if not follows(label_map, *cell)]
        return sorted(found, key=lambda entry: (-entry[1], str(entry[0])))


def follows(label_map: LabelMap, old: str | None, new: str | None) -> bool:
    """Whether the map says that this old label is this new one; a removed label may be any."""
    if old == NONE:
        return new == NONE or new in label_map.added
    if old is None:
        return new is None or new in label_map.added
    targets = label_map.targets.get(old, ())
    return new in targets or not targets


def compare(
    run: LabelledRun,
    new_tag: str,
    label_map: LabelMap,
    *,
    answers: Mapping[str, Words],
    wanted: Iterable[str] = (),
) -> Diff:
    """Stream both views of the same embeddings side by side.

    run: with the old set. answers: by image id, what reviewers said, carried over. wanted: ids of images whose new
    labels are kept. Memory: one embedding part's rows, the cells, and what is asked for.
    """
    views = [(label_view(tag), run.store) for tag in (run.tag, new_tag)]
    asked = {*answers, *wanted}
    ids = pa.array(sorted(asked), pa.string())
    found = Diff()
    multi = label_map.old.task == "multi"
    paths = label_map.new.paths()
    for old, new in side_by_side(run.source, views, _COLUMNS):
        found.rows += old.num_rows
        if multi:
            _count_multi(found, old, new, label_map)
        else:
            _count_single(found, old, new, label_map)
        hits = np.flatnonzero(pc.is_in(old["image_id"], value_set=ids).to_numpy())
        for before, after in zip(_rows(old, hits), _rows(new, hits), strict=True):
            _review(found, before, after, answers.get(before["image_id"]), label_map, paths)
    return found


def _count_single(found: Diff, old: pa.Table, new: pa.Table, label_map: LabelMap) -> None:
    old_names = _names(label_map.old.classes, label_map.old.groups)
    new_names = _names(label_map.new.classes, label_map.new.groups)
    width = len(new_names) + 1
    codes = _codes(old, old_names) * width + _codes(new, new_names)
    order = np.argsort(codes, kind="stable")
    cells, first, counts = np.unique(codes[order], return_index=True, return_counts=True)
    for code, start, count in zip(cells.tolist(), first.tolist(), counts.tolist(), strict=True):
        row, column = divmod(code, width)
        cell = ([*old_names, None][row], [*new_names, None][column])
        found.cells[cell] += count
        if follows(label_map, *cell):
            found.as_mapped += count
        else:
            for place in order[start : start + min(count, _EXAMPLES)].tolist():
                _keep(found, cell, old, new, place)


def _count_multi(found: Diff, old: pa.Table, new: pa.Table, label_map: LabelMap) -> None:
    pairs = zip(old["labels"].to_pylist(), new["labels"].to_pylist(), strict=True)
    for place, (before, after) in enumerate(pairs):
        mapped = True
        for cell in row_cells(before or (), after or (), label_map):
            found.cells[cell] += 1
            if not follows(label_map, *cell):
                mapped = False
                _keep(found, cell, old, new, place)
        found.as_mapped += mapped


def row_cells(old: Sequence[str], new: Sequence[str], label_map: LabelMap) -> Iterator[Cell]:
    """The cells of one row of a multi-label set: labels that were carried over, lost (None) and gained."""
    left = set(new)
    for label in old:
        became = [target for target in label_map.targets.get(label, ()) if target in new]
        left.difference_update(became)
        yield from ((label, target) for target in became or (None,))
    yield from ((None, label) for label in sorted(left))


def _review(
    found: Diff,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    answer: Words | None,
    label_map: LabelMap,
    paths: Mapping[str, Words],
) -> None:
    task = label_map.new.task
    old, new = (tuple(sorted(labels_of(row, task))) for row in (before, after))
    found.shown[after["image_id"]] = new
    if answer is None:
        return
    found.reviewed += 1
    became = label_map.carried(old).labels if old or task == "multi" else None
    found.old_agreed += became is not None and agrees(became, answer, paths=paths, task=task)
    if agrees(new, answer, paths=paths, task=task):
        found.new_agreed += 1
    elif len(found.disagreements) < _DISAGREEMENTS:
        found.disagreements.append(
            Disagreement(
                image_id=after["image_id"],
                uri=after["uri"],
                reviewed=answer,
                old=old,
                new=new,
                new_score=after["score"],
            )
        )


def _names(classes: Sequence[str], groups: Sequence[str]) -> list[str]:
    return [*classes, *groups]


def _codes(rows: pa.Table, names: Sequence[str]) -> Any:
    """The places of the labels in names; of none the next one."""
    found = pc.index_in(rows["label"].cast(pa.string()), value_set=pa.array(names, pa.string()))
    return pc.fill_null(found, len(names)).to_numpy().astype(np.int64)


def _keep(found: Diff, cell: Cell, old: pa.Table, new: pa.Table, place: int) -> None:
    if cell not in found.examples and len(found.examples) >= _CELLS_WITH_EXAMPLES:
        return
    if len(found.examples[cell]) < _EXAMPLES:
        found.examples[cell].append(
            Example(
                image_id=new["image_id"][place].as_py(),
                uri=new["uri"][place].as_py(),
                old_score=old["score"][place].as_py(),
                new_score=new["score"][place].as_py(),
            )
        )


def _rows(table: pa.Table, places: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.take(pa.array(places)).to_pylist()
    return rows
