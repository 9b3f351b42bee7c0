"""The work of `beamclip evaluate`: the request checked, images embedded, stored embeddings scored, pages written."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clip_transforms.accounting import summarise, versions
from clip_transforms.elements import ContractError, RequestError
from clip_transforms.encoders import Encoder
from clip_transforms.evaluation.judges import Subject, TextModel
from clip_transforms.evaluation.page import render_page
from clip_transforms.evaluation.plots import alone, few_shot_svg, reliability_svg
from clip_transforms.evaluation.run import SetEvaluation, evaluate_stored
from clip_transforms.evaluation.stored import StoredEmbeddings
from clip_transforms.evaluation.text import notes, to_json, verdicts
from clip_transforms.evaluation.truth import TruthSource
from clip_transforms.labelsets import LabelSet
from clip_transforms.storage import Store
from clip_transforms.text_features import (
    TextFeatures,
    dump_text_features,
    load_text_features,
    text_features,
    text_fingerprint,
)
from pipelines import preflight
from pipelines.evaluation_request import OURS, Request, check_first_truths, read_request
from pipelines.from_run import check_from_run
from pipelines.full_run import embed_and_label
from pipelines.job import check_request, engine_options
from pipelines.launch import Exit, beam_options
from pipelines.planning import make_config

FOLDER = "evaluation"
_WITH_STORED = ("device", "threads", "storage_option", "quiet", "verbose")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What was found: the figures of each set, the content of evaluation.json, and where the report is."""

    sets: tuple[SetEvaluation, ...]
    content: Mapping[str, Any]
    report: str


def evaluate(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    rest: Sequence[str],
    unchecked: Sequence[str],
    *,
    show: Callable[[Evaluated], None],
) -> int:
    """Run the command; returns the exit code. show: is given the result."""
    request = read_request(args)
    if hasattr(args, "from_run"):
        return _from_run(parser, args, rest, unchecked, request, show)
    shared = argparse.Namespace(**{key: value for key, value in vars(args).items() if key not in OURS})
    if hasattr(args, "json"):
        shared.quiet = True  # stdout is for the JSON alone
    job = check_request(argparse.Namespace(**vars(shared)), labels=False)
    if job.is_new:
        check_first_truths(job, request)
    problem: ContractError | None = None
    try:
        code = embed_and_label(parser, shared, rest, unchecked, command="evaluate")
    except ContractError as error:
        code, problem = Exit.CONTRACT, error
    if hasattr(args, "dry_run"):
        _tell_plan(request)
        return code
    if problem is None and code != Exit.DONE:
        return code
    try:
        _evaluate(_stored_args(args, args.output), job.store, request, show, embedded_by=shared)
    except RequestError as error:
        if problem is None:
            raise
        _say(f"not evaluated: {error}")
    if problem is not None:
        raise problem
    return Exit.DONE


def _from_run(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    rest: Sequence[str],
    unchecked: Sequence[str],
    request: Request,
    show: Callable[[Evaluated], None],
) -> int:
    if rest:
        beam_options(parser, None, rest, [])  # says what is misspelled
    if rest or unchecked:
        raise RequestError(f"{(*rest, *unchecked)[0]} does not go with --from-run: no runner is started")
    strange = sorted(set(vars(args)) - OURS - {*_WITH_STORED, "output", "dry_run", *_ENCODER})
    if strange:
        flag = "--" + strange[0].replace("_", "-")
        raise RequestError(
            f"{flag} does not go with --from-run: no image is read, the run has its own options"
        )
    stored = _stored_args(args, args.from_run)
    output = Store(getattr(args, "output", args.from_run), request.storage_options)
    if hasattr(args, "dry_run"):
        check_from_run(stored)
        print(f"would evaluate {args.from_run} into {output.join(FOLDER)}")
        _tell_plan(request)
        return Exit.DONE
    output.probe()
    _evaluate(stored, output, request, show)
    return Exit.DONE


_ENCODER = ("encoder", "weights", "model_config")


def _stored_args(args: argparse.Namespace, run: str) -> argparse.Namespace:
    """The request to label the stored embeddings of a run: what evaluating it has in common with that."""
    names = (*_WITH_STORED, "prompts", *(_ENCODER if hasattr(args, "from_run") else ()))
    kept = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return argparse.Namespace(from_run=run, **kept)


def _evaluate(
    args: argparse.Namespace,
    output: Store,
    request: Request,
    show: Callable[[Evaluated], None],
    *,
    embedded_by: argparse.Namespace | None = None,
) -> None:
    """Score the stored embeddings of a complete run and write what was found.

    embedded_by: the options of the job that has just embedded them in this process: its encoder is at hand.
    """
    job, run = check_from_run(args)
    if embedded_by is not None:
        engine = engine_options(embedded_by, job.identity, request.storage_options)
        job = replace(job, args=embedded_by, engine=engine)
    encoder = preflight.load_encoder(job.spec, job.engine, local=embedded_by is not None and job.is_local)
    config = make_config(job, encoder)  # checks that the encoder is the run's
    source = TruthSource(name=request.labels_from, caption_column=job.identity.caption_column)
    stored = StoredEmbeddings(run, source)
    into_run = output.root == run.root
    found = evaluate_stored(
        stored,
        [_subject(run, label_set, encoder, request, keep=into_run) for label_set in job.label_sets],
        TextModel(family=config.family, logit_scale=config.logit_scale, logit_bias=config.logit_bias),
        request.options,
        report=(lambda _: None) if job.asked("quiet") else _say,
    )
    content = _content(found, run, encoder, request, fingerprint=config.fingerprint)
    _write(output, found, content, images=stored.rows)
    show(Evaluated(sets=found, content=content, report=output.join(FOLDER, "evaluation.html")))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _subject(run: Store, label_set: LabelSet, encoder: Encoder, request: Request, *, keep: bool) -> Subject:
    return Subject(
        tag=label_set.tag,
        prompts=label_set.prompt_set,
        features=_features(run, label_set, encoder, keep=keep),
        rivals=tuple(
            (rival, text_features(rival.prompts, encoder))
            for rival in request.rivals_of(label_set.prompt_set)
        ),
    )


def _features(run: Store, label_set: LabelSet, encoder: Encoder, *, keep: bool) -> TextFeatures:
    """The set's text features: those in the run's `text/`, else encoded, and kept there where that is allowed.

    They are what labelling the run with this set would use.
    """
    name = f"text/{label_set.tag}.arrow"
    if run.exists(name):
        fingerprint = text_fingerprint(label_set.prompt_set, encoder)
        return load_text_features(run.read(name), fingerprint=fingerprint)
    made = text_features(label_set.prompt_set, encoder)
    if keep:
        run.create(name, dump_text_features(made))
    return made


def _content(
    found: Sequence[SetEvaluation], run: Store, encoder: Encoder, request: Request, *, fingerprint: str
) -> dict[str, Any]:
    summary = summarise(run)
    return {
        "run": run.root,
        "encoder": encoder.name,
        "weights_id": encoder.weights_id,
        "fingerprint": fingerprint,
        "labels_from": request.labels_from,
        "embedded": summary["embedded"],
        "failed": summary["failed"],
        "failures_by_reason": summary["failures_by_reason"],
        "options": to_json(request.options),
        "versions": versions(),
        "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "sets": {one.tag: {**to_json(one), "notes": notes(one), "verdicts": verdicts(one)} for one in found},
    }


def _write(output: Store, found: Sequence[SetEvaluation], content: Mapping[str, Any], *, images: int) -> None:
    """All files, the JSON last; those of an earlier evaluation are replaced."""
    before = {entry.name for entry in output.list(FOLDER)}
    facts = {
        name: content[name] for name in ("encoder", "weights_id", "fingerprint", "labels_from", "created_at")
    }
    files = {"evaluation.html": render_page(found, run=content["run"], facts=facts, images=images)}
    for one in found:
        name = one.tag.rpartition("@")[0]
        measured = one.single or one.multi
        if measured is not None:
            files[f"reliability-{name}.svg"] = alone(reliability_svg(measured.reliability.bins())).encode()
        if one.few_shot is not None:
            files[f"few-shot-{name}.svg"] = alone(few_shot_svg(one.few_shot, title=name)).encode()
    files["evaluation.json"] = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode()
    for name, data in files.items():
        output.write(f"{FOLDER}/{name}", data)
    ours = (f"{FOLDER}/reliability-", f"{FOLDER}/few-shot-")
    written = {f"{FOLDER}/{name}" for name in files}
    output.delete(sorted(name for name in before - written if name.startswith(ours)))


def _tell_plan(request: Request) -> None:
    for prompts in request.prompt_sets:
        print(f"evaluate  {prompts.name}, {len(prompts.classes)} classes, truth from {request.labels_from}")
        for rival in request.rivals_of(prompts):
            print(f"compare   {prompts.name} with {rival.title}")
    if request.options.shots is not None:
        print(f"few-shot  {' '.join(map(str, request.options.shots.shots))} images a class")
