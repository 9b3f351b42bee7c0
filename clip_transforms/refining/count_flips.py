"""Counts which labels a new label set changed, over all rows of two sets of a run, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.joined import side_by_side
from clip_transforms.labelled import LabelledRun
from clip_transforms.probe import read_probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.refining.flips import KEPT, Agreement, Flip, Flips, flips_name
from clip_transforms.review.agreement import agrees, labels_of
from clip_transforms.review.reviews import Verdict
from clip_transforms.review.reviews import verdicts as read_verdicts
from clip_transforms.storage import Store
from clip_transforms.views import label_view


def record_flips(store: Store, tag: str) -> Flips:
    """Count what the labels of a refined set changed, and keep it in the run beside the probe."""
    found = read_probe(store, tag)
    flips = count_flips(
        store,
        found.figures["refined"],
        tag,
        verdicts=read_verdicts(store, tag.rpartition("@")[0]),
        trained_on=found.figures["trained_on"],
    )
    store.write(flips_name(tag), flips.to_json())
    return flips


def count_flips(
    store: Store, before: str, after: str, *, verdicts: Sequence[Verdict], trained_on: Collection[str]
) -> Flips:
    """Read the labels of two sets of a run side by side, one part at a time.

    verdicts: their answers are held against both. Memory: one part, a count for each kind of change (at most
    the square of the labels), the reviews. Raises ContractError where a set does not label every image.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter()
    run = LabelledRun(store, before)
    views = [(label_view(tag), store) for tag in (before, after)]
    agreement = _Agreements(verdicts, set(trained_on), run.label_set.prompt_set)
    multi = run.label_set.prompt_set.task == "multi"
    images = changed = 0
    for old, new in side_by_side(run.source, views, ("label", "labels")):
        changed += _count_multi(old, new, counts) if multi else _count_single(old, new, counts)
        images += old.num_rows
        agreement.add(old, new)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
    return Flips(
        before=before,
        after=after,
        images=images,
        changed=changed,
        flips=tuple(Flip(old=old, new=new, images=count) for (old, new), count in ranked[:KEPT]),
        others=sum(count for _, count in ranked[KEPT:]),
        reviewed=agreement.found(),
    )


def _count_single(old: pa.Table, new: pa.Table, counts: Counter[tuple[str | None, str | None]]) -> int:
    first, second = _codes(old["label"]), _codes(new["label"])
    width = len(second[0])
    pairs, numbers = np.unique(first[1] * width + second[1], return_counts=True)
    changed = 0
    for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True):
        names = first[0][pair // width], second[0][pair % width]
        if names[0] != names[1]:
            counts[names] += number
            changed += number
    return changed


def _codes(column: pa.ChunkedArray) -> tuple[list[str | None], Any]:
    """The distinct labels, None last, and the place of each row's."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    words: list[str | None] = [*encoded.dictionary.to_pylist(), None]
    codes = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    return words, codes.astype(np.int64)


def _count_multi(old: pa.Table, new: pa.Table, counts: Counter[tuple[str | None, str | None]]) -> int:
    first, second = _held(old), _held(new)
    changed = set()
    for row, label in first - second:
        counts[label, None] += 1
        changed.add(row)
    for row, label in second - first:
        counts[None, label] += 1
        changed.add(row)
    return len(changed)


def _held(table: pa.Table) -> set[tuple[int, str]]:
    """(row, label) of each label of each row."""
    lists = table["labels"].combine_chunks()
    rows = pc.list_parent_indices(lists).to_pylist()
    return set(zip(rows, pc.list_flatten(lists).cast(pa.string()).to_pylist(), strict=True))


class _Agreements:
    """Counts reviewed images by whether they have the answer before and after."""

    def __init__(self, verdicts: Sequence[Verdict], trained_on: set[str], prompts: PromptSet) -> None:
        self._answers = {one.image_id: one.labels for one in verdicts if one.labels is not None}
        self._wanted = pa.array(sorted(self._answers), pa.string())
        self._trained_on = trained_on
        self._task = prompts.task
        self._paths = prompts.paths()
        self._counts = {name: [0, 0, 0] for name in ("trained_on", "not_trained_on")}

    def add(self, old: pa.Table, new: pa.Table) -> None:
        """Rows of the two sets."""
        places = pc.indices_nonzero(pc.is_in(old["image_id"], self._wanted))
        for one, other in zip(old.take(places).to_pylist(), new.take(places).to_pylist(), strict=True):
            answer = self._answers[one["image_id"]]
            count = self._counts["trained_on" if one["image_id"] in self._trained_on else "not_trained_on"]
            count[0] += 1
            count[1] += self._agrees(one, answer)
            count[2] += self._agrees(other, answer)

    def found(self) -> dict[str, Agreement]:
        """The counts."""
        return {
            name: Agreement(images=images, before=before, after=after)
            for name, (images, before, after) in self._counts.items()
        }

    def _agrees(self, row: Mapping[str, Any], answer: tuple[str, ...]) -> bool:
        return agrees(labels_of(row, self._task), answer, paths=self._paths, task=self._task)
