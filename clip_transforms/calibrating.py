"""From the audit of a label set to its calibration: a temperature, and the cuts from which on labels are accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip_transforms.auto_accept import Bool, Choice, choose, choose_per_class
from clip_transforms.calibration import Calibration
from clip_transforms.claims import Refusal, check_uniform, quartiles, refuse_empty, refuse_failed
from clip_transforms.evaluation.judges import TextModel
from clip_transforms.found_rows import FoundRows, find_rows
from clip_transforms.labelled import LabelledRun
from clip_transforms.live import live_parts
from clip_transforms.probabilities import Float32
from clip_transforms.probe import Probe, read_probe
from clip_transforms.prompts.types import PromptSet
from clip_transforms.review.agreement import agrees
from clip_transforms.review.audit import AuditSlots, Unreviewed, audit_slots
from clip_transforms.review.report_data import iter_batches, part_names
from clip_transforms.temperature import LEAST_ROWS, Answers, Fit, Fitted, answers_of, fit_temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is asked. accept: whether cuts are wanted, or the temperature alone."""

    target: float = 0.95
    confidence: float = 0.95
    per_class: bool = False
    accept: bool = True
    unreviewed: Unreviewed = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """All rows of the set: how many there are, have a label, and are accepted; the last two by label too."""

    rows: int
    labelled: Mapping[str, int]
    accepted: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What was found. choice: None where the temperature alone was asked for."""

    calibration: Calibration
    fitted: Fitted | None
    choice: Choice | None
    audit: AuditSlots
    found: int  # images of the audit that the run still has
    accounts: Accounts | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Audited:
    """The rows of an audit beside what they show, in the order of their ids."""

    slots: AuditSlots
    rows: FoundRows
    truths: tuple[tuple[str, ...] | None, ...]


def calibrate_set(run: LabelledRun, model: TextModel, claim: Claim) -> Calibrated:
    """Calibrate the set whose rows `run` has, on all audits of sets of its name.

    Raises Refusal, a ContractError, where the audit does not carry the claim. Writes nothing.
    """
    prompts = run.label_set.prompt_set
    probe = read_probe(run.store, run.tag) if run.label_set.probe else None
    audited = _audited(run, probe, claim)
    choice = _choice(audited, prompts, claim) if claim.accept else None
    fitted = _temperature(run, audited, model, probe, needed=choice is None)
    names = (*prompts.classes, *prompts.groups)
    accept = choice.accept(names) if choice else {}
    accounts = _accounts(run, accept, audited.rows.score, learnt=_learnt(probe)) if choice else None
    used = None if fitted is None or fitted.at_limit else fitted
    figures = _figures(claim, audited, choice, used, accounts)
    temperature = used.temperature if used else 1.0
    return Calibrated(
        calibration=Calibration(base=run.tag, temperature=temperature, accept=accept, figures=figures),
        fitted=fitted,
        choice=choice,
        audit=audited.slots,
        found=len(audited.rows.ids),
        accounts=accounts,
    )


def _audited(run: LabelledRun, probe: Probe | None, claim: Claim) -> _Audited:
    slots = audit_slots(
        run.store,
        run.label_set.prompt_set.name,
        images=run.images,
        unreviewed=claim.unreviewed,
        trained_on=_learnt(probe),
    )
    if not slots.slots:
        raise refuse_empty(run, slots)
    rows = find_rows(run, {slot.image_id: slot.uri for slot in slots.slots})
    labels = {slot.image_id: slot.labels for slot in slots.slots}
    return _Audited(slots=slots, rows=rows, truths=tuple(labels[image_id] for image_id in rows.ids))


def _learnt(probe: Probe | None) -> frozenset[str]:
    """The images that a set's probe was trained on."""
    return frozenset(probe.figures.get("trained_on", ())) if probe else frozenset()


def _choice(audited: _Audited, prompts: PromptSet, claim: Claim) -> Choice:
    names = (*prompts.classes, *prompts.groups)
    place = {name: number for number, name in enumerate(names)}
    label = np.array([-1 if name is None else place[name] for name in audited.rows.label], np.int32)
    right = _right(audited, prompts)
    has = label >= 0
    score, right, label = audited.rows.score[has], right[has], label[has]
    promise = {"target": claim.target, "delta": round(1 - claim.confidence, 12)}
    if claim.per_class:
        choice = choose_per_class(score, right, label, names, **promise)
    else:
        choice = choose(score, right, **promise)
    if not any(walk.chosen for walk in choice.walks.values()):
        raise refuse_failed(choice, audited.slots, audited=len(has), **promise)
    return choice


def _right(audited: _Audited, prompts: PromptSet) -> Bool:
    """Whether each row's label is right; not where the truth is not known."""
    paths = prompts.paths()
    return np.array(
        [
            label is not None and truth is not None and agrees([label], truth, paths=paths, task=prompts.task)
            for label, truth in zip(audited.rows.label, audited.truths, strict=True)
        ],
        np.bool_,
    )


def _temperature(
    run: LabelledRun, audited: _Audited, model: TextModel, probe: Probe | None, *, needed: bool
) -> Fitted | None:
    """The temperature; None where too few rows can be used, Refusal where that is all that was asked for."""
    prompts = run.label_set.prompt_set
    truths, usable = _truth_matrix(audited, prompts)
    count = int(usable.sum())
    if count < LEAST_ROWS:
        if not needed:
            return None
        raise Refusal(
            f"a temperature needs {LEAST_ROWS} reviewed images of an audit, {run.tag} has {count}: "
            f"{LEAST_ROWS - count} are missing; nothing was relabelled"
        )
    rows = audited.rows.take(np.flatnonzero(usable))
    logits = model.logits(rows.embeddings, run.text_features(), prompts, probe=probe)
    single = prompts.task == "single"
    shared = single and (model.family == "softmax" or probe is not None)
    answers: Answers = answers_of(
        rows.ids, logits, truths[usable], shared=shared, best_only=single and not shared
    )
    fitted = fit_temperature(answers)
    if needed and fitted.at_limit:
        raise Refusal(
            f"no temperature fits the {count} reviewed images of an audit that {run.tag} has (the search ends at "
            f"{fitted.temperature:g}): missing are answers that are not the model's; nothing was relabelled"
        )
    return fitted


def _truth_matrix(audited: _Audited, prompts: PromptSet) -> tuple[Bool, Bool]:
    """Which classes the truth of each row allows, [N, C], and which rows have a truth that the set knows, [N]."""
    paths = prompts.paths()
    below = {
        name: [place for place, key in enumerate(prompts.classes) if name in paths[key]] for name in paths
    }
    found = np.zeros((len(audited.truths), len(prompts.classes)), bool)
    usable = np.zeros(len(audited.truths), bool)
    for row, truth in enumerate(audited.truths):
        if truth is None:
            continue
        for name in truth:
            found[row, below.get(name, [])] = True
        usable[row] = prompts.task == "multi" or (len(truth) == 1 and found[row].any())
    return found, usable


def _accounts(
    run: LabelledRun, accept: Mapping[str, float], audit: Float32, *, learnt: frozenset[str]
) -> Accounts:
    """Counted over all rows of the set, of which a few columns are read. audit: the scores [n] of its audit.

    learnt: images that the probe was trained on, which are not in the audit, and of which it is surer than of
    others. Raises Refusal where the scores cannot be a random sample's of the other rows.
    """
    parts = [part.name for found in live_parts(run.store).values() for part in found]
    names = part_names(run.store, f"labels/{run.tag}", parts)
    labels = pa.array(list(accept), pa.string())
    cuts = pa.array([*accept.values(), None], pa.float32())
    marks = np.array([value for _, value in quartiles(audit)], np.float32)
    counts = np.zeros((len(marks), 2), np.int64)
    rows = others = 0
    known = pa.array(sorted(learnt), pa.string())
    labelled: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for batch in iter_batches(run.store, names, ("label", "score", *(["image_id"] if learnt else ()))):
        rows += batch.num_rows
        score = batch["score"].to_numpy()
        if learnt:
            score = score[~pc.is_in(batch["image_id"], value_set=known).to_numpy(zero_copy_only=False)]
        others += len(score)
        counts += np.stack([(score > marks[:, None]).sum(1), (score >= marks[:, None]).sum(1)], axis=1)
        label = batch["label"].cast(pa.string())
        cut = cuts.take(pc.fill_null(pc.index_in(label, value_set=labels), len(labels)))
        passed = pc.fill_null(pc.greater_equal(batch["score"], cut), False)
        for counter, some in ((labelled, label), (accepted, label.filter(passed))):
            for entry in pc.value_counts(some).to_pylist():
                if entry["values"] is not None:
                    counter[entry["values"]] += entry["counts"]
    check_uniform(audit, counts.tolist(), rows=others)
    return Accounts(rows=rows, labelled=dict(labelled), accepted=dict(accepted))


def _figures(
    claim: Claim,
    audited: _Audited,
    choice: Choice | None,
    fitted: Fitted | None,
    accounts: Accounts | None,
) -> dict[str, Any]:
    """What the report and people read: plain values, the same for the same reviews."""
    slots = asdict(audited.slots)
    del slots["slots"]
    walks = []
    for label, walk in choice.walks.items() if choice else ():
        chosen = walk.points.index(walk.chosen) if walk.chosen else None
        points = [[p.cut, p.accepted, p.right, round(p.lower, 6)] for p in walk.points]
        walks.append({"label": label, "labelled": walk.labelled, "chosen": chosen, "points": points})
    return {
        "claim": asdict(claim),
        "audit": {**slots, "images": len(audited.rows.ids)},
        "delta": choice.delta if choice else None,
        "walks": walks,
        "short": dict(choice.short) if choice else {},
        "temperature": _plain_fit(fitted) if fitted else None,
        "rows": accounts.rows if accounts else None,
        "labelled": sum(accounts.labelled.values()) if accounts else None,
        "accepted": dict(accounts.accepted) if accounts else None,
    }


def _plain_fit(fitted: Fitted) -> dict[str, Any]:
    def plain(fit: Fit) -> dict[str, Any]:
        bins = [[one.images, one.confidence, one.accuracy] for one in fit.bins]
        return {"nll": round(fit.nll, 6), "error": round(fit.error, 6), "bins": bins}

    return {"images": fitted.rows, "before": plain(fitted.before), "after": plain(fitted.after)}
