"""What a finished data set says of itself: the facts of `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_transforms.calibration import read_calibration
from clip_transforms.evaluation.metrics import wilson
from clip_transforms.labelled import LabelledRun
from clip_transforms.probe import read_probe
from clip_transforms.prompts import PromptSet
from clip_transforms.review.deciding import DECIDERS, UNDECIDED, Audited, Decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written beside the facts. copied: images; None where none were to be."""

    files: tuple[str, ...]
    folders: Mapping[str, str]  # by label
    copied: int | None
    not_copied: int


def facts(
    run: LabelledRun,
    counts: Decided,
    written: Written,
    *,
    reviewed: int,
    earlier: int,
    audit_drawn: int,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of dataset.json. reviewed: images with reviews, found or not. earlier: images whose reviews are
    of an earlier picture. more: shown as it is.
    """
    prompts = run.label_set.prompt_set
    return {
        "name": prompts.name,
        "prompt_set": run.tag,
        "prompt_set_hash": prompts.hash,
        "task": prompts.task,
        "run": run.store.root,
        **more,
        "images": counts.images,
        "decided": counts.images - counts.by[UNDECIDED],
        "decided_by": {name: counts.by[name] for name in DECIDERS if counts.by[name]},
        "labels": _labels(prompts, counts, written.folders),
        "images_without_labels": counts.no_labels if prompts.task == "multi" else None,
        "reviews": {
            "images": reviewed,
            "not_in_run": reviewed - len(counts.reviewed),
            "of_earlier_pictures": earlier,
            "outvoted": counts.majorities,
            "undecided_conflicts": counts.undecided_conflicts,
            "labels_not_in_set": dict(counts.outside),
        },
        "conflicts": _conflicts(counts),
        "audit": {
            "drawn": audit_drawn,
            "learnt_by_the_probe": counts.audit.learnt,
            "all": _agreement(counts.audit),
            "auto_accepted": _agreement(counts.audit_accepted),
        },
        "files": list(written.files),
        "images_copied": written.copied,
        "images_not_copied": written.not_copied,
    }


def _labels(prompts: PromptSet, counts: Decided, folders: Mapping[str, str]) -> dict[str, Any]:
    """Of each label of the set, and of each that was given, what it is and how many images have it."""
    by_id = {label.id: label for label in prompts.labels}
    return {
        key: {
            "name": by_id[key].name if key in by_id else key,
            "description": by_id[key].description if key in by_id else None,
            "images": sum(counts.labels.get(key, {}).values()),
            "decided_by": dict(counts.labels.get(key, {})),
            "folder": folders.get(key),
        }
        for key in sorted({*prompts.classes, *prompts.groups, *counts.labels})
    }


def _conflicts(counts: Decided) -> list[dict[str, Any]]:
    return [
        {
            "image_id": verdict.image_id,
            "uri": verdict.uri,
            "answers": {name: list(labels) for name, labels in verdict.answers},
        }
        for verdict in counts.conflicts
    ]


def images_since(content: Mapping[str, Any]) -> int:
    """How many images the run has more than when it was calibrated: nothing is promised of them."""
    calibration = content["calibration"]
    then = calibration["figures"].get("rows") if calibration and calibration["accept"] else None
    return max(0, content["images"] - then) if then else 0


def as_json(content: Mapping[str, Any]) -> bytes:
    """What dataset.json holds."""
    return json.dumps(content, indent=1, ensure_ascii=False, default=str).encode("utf-8", "replace")


def _agreement(found: Audited) -> dict[str, Any]:
    wrong = found.images - found.agreed
    return {
        "images": found.images,
        "agreed": found.agreed,
        "agreement": found.agreed / found.images if found.images else None,
        "error": wrong / found.images if found.images else None,
        "error_wilson_95": wilson(wrong, found.images),
    }


def refinements(run: LabelledRun) -> dict[str, Any]:
    """The calibration and the probe that the labels were made with; RequestError where one is not there any more."""
    calibration = read_calibration(run.store, run.tag) if run.label_set.calibration else None
    probe = read_probe(run.store, run.tag) if run.label_set.probe else None
    return {
        "calibration": None
        if calibration is None
        else {
            "hash": calibration.hash,
            "base": calibration.base,
            "temperature": calibration.temperature,
            "accept": dict(calibration.accept),
            "figures": dict(calibration.figures),
        },
        "probe": None
        if probe is None
        else {
            "hash": probe.hash,
            "base": probe.base,
            "classes": len(probe.classes),
            "blend": probe.blend,
            "trained_on": len(probe.figures.get("trained_on", ())),
            "figures": {key: value for key, value in probe.figures.items() if key != "trained_on"},
        },
    }
