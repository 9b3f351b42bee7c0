"""Final labels: of each image the reviewers' answer, else a label that is guaranteed, else none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.joined import list_blocks, read_embeddings, read_view
from clip_transforms.labelled import LabelledRun
from clip_transforms.probe import read_probe
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.review.agreement import agrees
from clip_transforms.review.reviews import Verdict, set_reviews
from clip_transforms.views import label_view
from schemas.final import FINAL

REVIEWER, PROBE, ACCEPTED, MODEL, UNDECIDED = "reviewer", "probe", "model_auto_accept", "model", "undecided"
#: All of decided_by, from the surest to the least.
DECIDERS = (REVIEWER, PROBE, ACCEPTED, MODEL, UNDECIDED)
_LABELS = ("label", "labels", "path", "score", "calibrated", "decision", "decision_reason")
_EXAMPLES = 100


@dataclass(slots=True)
class Audited:
    """The model's labels held against the reviewers' on audit images. learnt: left out, its probe knew them."""

    images: int = 0
    agreed: int = 0
    learnt: int = 0

    def count(self, agreed: bool) -> None:
        """One more image."""
        self.images += 1
        self.agreed += agreed


@dataclass(slots=True)
class Decided:
    """What was decided, counted as the rows go by."""

    images: int = 0
    by: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)  # by label, by decider
    no_labels: int = 0  # multi: decided images without any label
    conflicts: list[Verdict] = field(default_factory=list)  # undecided ones, the first 100 with answers
    undecided_conflicts: int = 0
    majorities: int = 0  # images on which most reviewers outvoted others
    outside: Counter[str] = field(default_factory=Counter)  # reviewed labels that the set does not have
    audit: Audited = field(default_factory=Audited)  # all audit images
    audit_accepted: Audited = field(default_factory=Audited)  # those of them that the model would accept
    reviewed: set[str] = field(default_factory=set)  # ids of images with reviews that have rows


class Decisions:
    """The rows of FINAL of one label set, unit by unit. After them, `counts` is whole.

    everything: the model's label is final where nobody and no guarantee decided (`model`). Memory: the reviews, the
    names of the parts, and the rows of one unit.
    """

    def __init__(self, run: LabelledRun, *, everything: bool) -> None:
        self.run = run
        self.prompts: PromptSet = run.label_set.prompt_set
        self.counts = Decided()
        self._everything = everything
        probe = read_probe(run.store, run.tag) if run.label_set.probe else None
        self._learnt: frozenset[str] = frozenset(probe.figures.get("trained_on", ()) if probe else ())
        self._accepted_by = PROBE if run.label_set.probe else ACCEPTED
        reviews = set_reviews(run.store, self.prompts.name)
        self.verdicts: Mapping[str, Verdict] = {verdict.image_id: verdict for verdict in reviews.verdicts()}
        self.earlier = reviews.earlier()  # images that changed after all of their reviews
        self._wanted = pa.array(list(self.verdicts), pa.string())
        self._known = {*self.prompts.classes, *self.prompts.groups, NONE}
        self._paths = self.prompts.paths()
        self._blocks = list_blocks(run.source, [(label_view(run.tag), run.store)])

    def unit_names(self) -> set[str]:
        """Of all units that have rows."""
        return {block.unit for block in self._blocks}

    def units(self) -> Iterator[tuple[str, pa.Table]]:
        """(unit, its rows): every image of the run once, `file` null."""
        blocks = self._blocks
        waiting: list[pa.Table] = []
        for place, block in enumerate(blocks):
            table = read_embeddings(self.run.source, block, ("sha256", "format"))
            found = read_view(self.run.store, block.views[0], _LABELS, beside=table)
            waiting.append(self._decide(table, found))
            if place + 1 == len(blocks) or blocks[place + 1].unit != block.unit:
                yield block.unit, pa.concat_tables(waiting)
                waiting = []

    def _decide(self, images: pa.Table, model: pa.Table) -> pa.Table:
        rows = self._by_model(images, model)
        hits = np.flatnonzero(pc.is_in(images["image_id"], value_set=self._wanted).to_numpy())
        if len(hits):
            accepted = pc.equal(model["decision"].cast(pa.string()), "auto_accept").to_pylist()
            entries = rows.take(pa.array(hits)).to_pylist()
            reviewed = [
                self._by_reviewers(row, accepted=accepted[at])
                for at, row in zip(hits.tolist(), entries, strict=True)
            ]
            order = np.arange(rows.num_rows)
            order[hits] = rows.num_rows + np.arange(len(hits))
            both = pa.concat_tables([_plain(rows), _plain(pa.Table.from_pylist(reviewed, schema=FINAL))])
            rows = both.take(pa.array(order)).cast(FINAL)
        self._count(rows)
        return rows

    def _by_model(self, images: pa.Table, model: pa.Table) -> pa.Table:
        """What would be final without reviewers."""
        multi = self.prompts.task == "multi"
        accepted = pc.equal(model["decision"].cast(pa.string()), "auto_accept")
        has = pc.is_valid(model["labels" if multi else "label"])
        rest = pc.if_else(has, MODEL, UNDECIDED) if self._everything else pa.scalar(UNDECIDED)
        by = pc.if_else(accepted, self._accepted_by, rest)
        final = pc.not_equal(by, UNDECIDED)
        count = images.num_rows
        columns = {
            "image_id": images["image_id"],
            "uri": images["uri"],
            "label": _where(final, model["label"]),
            "labels": _where(final, model["labels"]),
            "path": _where(final, model["path"]),
            "decided_by": by,
            "reason": model["decision_reason"],
            "reviewers": pa.nulls(count, FINAL.field("reviewers").type),
            "conflict": pa.repeat(False, count),
            "model_label": model["label"],
            "model_labels": model["labels"],
            "score": model["score"],
            "calibrated": model["calibrated"],
            "prompt_set": pa.repeat(self.run.tag, count),
            "format": images["format"],
            "sha256": images["sha256"],
            "file": pa.nulls(count, pa.string()),
        }
        return _plain(pa.table([columns[name] for name in FINAL.names], names=FINAL.names)).cast(FINAL)

    def _by_reviewers(self, row: dict[str, Any], *, accepted: bool) -> dict[str, Any]:
        """A row that has reviews."""
        verdict = self.verdicts[row["image_id"]]
        self.counts.reviewed.add(row["image_id"])
        row |= {"reviewers": [name for name, _ in verdict.answers], "conflict": verdict.conflict}
        row |= {"label": None, "labels": None, "path": None, "decided_by": UNDECIDED, "reason": "conflict"}
        if verdict.labels is None:
            self.counts.undecided_conflicts += 1
            if len(self.counts.conflicts) < _EXAMPLES:
                self.counts.conflicts.append(verdict)
            return row
        self.counts.majorities += verdict.conflict
        strange = [key for key in verdict.labels if key not in self._known]
        if strange:
            self.counts.outside.update(strange)
            return row | {"reason": "label_not_in_set"}
        if verdict.audit:
            self._audit(row, verdict.labels, accepted=accepted)
        if self.prompts.task == "multi":
            return row | {"labels": list(verdict.labels), "decided_by": REVIEWER, "reason": "reviewed"}
        label = verdict.labels[0]
        path = list(self._paths.get(label, (label,))) if self.prompts.groups else None
        return row | {"label": label, "path": path, "decided_by": REVIEWER, "reason": "reviewed"}

    def _audit(self, row: Mapping[str, Any], answer: Sequence[str], *, accepted: bool) -> None:
        if row["image_id"] in self._learnt:
            self.counts.audit.learnt += 1
            return
        multi = self.prompts.task == "multi"
        given = row["model_labels"] or () if multi else [row["model_label"]]
        agreed = agrees(given, answer, paths=self._paths, task=self.prompts.task)
        self.counts.audit.count(agreed)
        if accepted:
            self.counts.audit_accepted.count(agreed)

    def _count(self, rows: pa.Table) -> None:
        counts = self.counts
        counts.images += rows.num_rows
        by = rows["decided_by"].cast(pa.string())
        for entry in pc.value_counts(by).to_pylist():
            counts.by[entry["values"]] += entry["counts"]
        labels = rows["label"].cast(pa.string())
        if self.prompts.task == "multi":
            lists = rows["labels"]
            counts.no_labels += pc.sum(pc.equal(pc.list_value_length(lists), 0)).as_py() or 0
            labels, by = pc.list_flatten(lists), by.take(pc.list_parent_indices(lists))
        pairs = pa.table({"label": labels, "by": by}).group_by(["label", "by"]).aggregate([([], "count_all")])
        for pair in pairs.to_pylist():
            if pair["label"] is not None:
                counts.labels.setdefault(pair["label"], Counter())[pair["by"]] += pair["count_all"]


def _where(mask: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values, null where the mask is not true."""
    places = pa.array(np.arange(len(values)), mask=~mask.to_numpy().astype(bool))
    return values.take(places)


def _plain(table: pa.Table) -> pa.Table:
    """Words as texts: dictionaries of several tables differ."""
    fields = [
        pa.field(item.name, pa.string() if pa.types.is_dictionary(item.type) else item.type) for item in FINAL
    ]
    return table.cast(pa.schema(fields))
