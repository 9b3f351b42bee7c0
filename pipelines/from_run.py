"""`beamclip label --from-run`: label the stored embeddings of a run; no image is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from clip_transforms.accounting import contract_problems, summarise
from clip_transforms.elements import RequestError
from clip_transforms.encoders import resolve_name
from clip_transforms.labelsets import LabelSet, keep_label_set, label_set_tags, read_label_set
from clip_transforms.plan import Extension, close_extension, read_extensions
from clip_transforms.sources import SourceOptions
from clip_transforms.storage import Store
from clip_transforms.sweep import check_overwrite, overwrite
from pipelines.closing import run_and_close
from pipelines.job import Job, encoder_spec, engine_options, load_label_sets, stored_identity
from pipelines.launch import beam_options, configure_logging
from pipelines.options import IDENTITY_DEFAULTS, Identity, identity_from
from pipelines.planning import make_config
from pipelines.preflight import launchers_encoder
from pipelines.run_plan import run_plan
from pipelines.runners import launch_of
from pipelines.storage_options import storage_options
from pipelines.submitted import take_lease

#: Options that may stand beside --from-run, besides those of the machine and the store.
_ALLOWED = {
    "from_run",
    "output",
    "encoder",
    "weights",
    "model_config",
    "resume",
    "overwrite",
}
_MACHINE = {
    "batch_size",
    "device",
    "threads",
    "runner",
    "accelerator",
    "min_ram",
    "wait",
    "quiet",
    "verbose",
    "storage_option",
    "take_over",
    "dry_run",
}


def label_stored(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """Run `beamclip label --from-run`; returns the exit code."""
    configure_logging(verbose=hasattr(args, "verbose"))
    job, source = check_from_run(args)
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options)
    into_run = job.store.root == source.root
    if job.asked("dry_run"):
        print(
            f"would label {source.root} with {', '.join(item.tag for item in job.label_sets)} into {job.store.root}"
        )
        return 0
    job.store.probe()
    encoder = launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
    config = make_config(job, encoder)
    if not into_run:
        config = replace(config, embeddings_run=source.root)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        if not into_run:
            plan_views(job, source, encoder_name=config.encoder_name, fingerprint=config.fingerprint)
        for label_set in job.label_sets:
            keep_label_set(job.store, label_set)
        return run_and_close(job, config, job.extensions, launch, lease, command="label")


def check_from_run(args: argparse.Namespace) -> tuple[Job, Store]:
    """The job and the run whose embeddings it labels; raises RequestError."""
    refuse_strange(args, also=("prompts", "top_k"))
    options = storage_options(getattr(args, "storage_option", []))
    source = Store(args.from_run, options)
    extensions = check_source(source)
    check_complete(source)
    identity = identity_from({}, stored_identity(extensions))
    check_encoder(args, identity)
    store = Store(getattr(args, "output", args.from_run), options)
    return (
        Job(
            args=args,
            store=store,
            identity=identity,
            sources=no_sources(options),
            engine=engine_options(args, identity, options),
            spec=encoder_spec(args, identity, options),
            extensions=tuple(extensions),
            label_sets=_wanted_sets(args, store, into_run=store.root == source.root, options=options),
        ),
        source,
    )


def refuse_strange(args: argparse.Namespace, *, also: Sequence[str]) -> None:
    """Raise RequestError for options that make no sense beside --from-run. also: those of the command's own."""
    strange = sorted(set(vars(args)) - _ALLOWED - _MACHINE - set(also))
    if strange:
        flag = "--" + strange[0].replace("_", "-")
        raise RequestError(
            f"{flag} does not go with --from-run: no image is read, the run has its own options"
        )


def check_source(source: Store) -> list[Extension]:
    """The plan of a run with embeddings; RequestError where it is none."""
    extensions = run_plan(source)
    if not extensions:
        raise RequestError(f"--from-run {source.root}: there is no run with embeddings (no plan/*/plan.json)")
    other = extensions[0].config.get("from_run")
    if other:
        raise RequestError(
            f"--from-run {source.root}: there are no embeddings, for it is made from those of {other}; "
            f"give --from-run {other}"
        )
    return extensions


def no_sources(options: Mapping[str, object]) -> SourceOptions:
    """Those of a job that reads no input."""
    return SourceOptions(storage_options=options)


def _wanted_sets(
    args: argparse.Namespace, store: Store, *, into_run: bool, options: Mapping[str, object]
) -> tuple[LabelSet, ...]:
    given = load_label_sets(args, options)
    if into_run:
        if not given:
            raise RequestError(
                "--prompts is missing: which prompt sets are to be applied to the stored embeddings?"
            )
        return given
    there = run_plan(store)
    if hasattr(args, "overwrite"):
        check_overwrite(store, has_run=bool(there))
    if there and not (hasattr(args, "resume") or hasattr(args, "overwrite")):
        raise RequestError(
            f"{store.root} holds a run already: --resume goes on with it, --overwrite deletes it first; "
            "or give another --output"
        )
    if there and hasattr(args, "resume"):
        kept = tuple(read_label_set(store, tag) for tag in label_set_tags(store))
        return tuple({label_set.tag: label_set for label_set in (*kept, *given)}.values())
    if not given:
        raise RequestError(
            "--prompts is missing: which prompt sets are to be applied to the stored embeddings?"
        )
    return given


def check_complete(source: Store) -> None:
    """Raise RequestError where units of the run are not embedded yet."""
    summary = summarise(source)
    problems = [text for text in contract_problems(summary, max_failure_rate=1.0) if "not committed" in text]
    if problems:
        raise RequestError(
            f"--from-run {source.root} is not complete: {problems[0]}; first run "
            f"`beamclip label --output {source.root} --resume` (or embed, if it was made by embed)"
        )


def check_encoder(args: argparse.Namespace, identity: Identity) -> None:
    """Raise RequestError where another encoder than the run's is asked for."""
    for name in ("encoder", "weights", "model_config"):
        if not hasattr(args, name):
            continue
        given = resolve_name(args.encoder) if name == "encoder" else getattr(args, name)
        kept = getattr(identity, name)
        if given != kept:
            flag = "--" + name.replace("_", "-")
            raise RequestError(
                f"{flag} {given} does not agree with the run, which has {kept or IDENTITY_DEFAULTS.encoder}: "
                "texts must be encoded by what encoded the images; leave it out"
            )


def plan_views(job: Job, source: Store, *, encoder_name: str, fingerprint: str) -> None:
    """A plan that names the other run; units stay that run's."""
    there = read_extensions(job.store)
    if there and job.asked("overwrite"):
        overwrite(job.store)
        there = []
    if there:
        named = there[0].config.get("from_run")
        if named != source.root:
            raise RequestError(
                f"{job.store.root} is made from {named}, not {source.root}; give another --output"
            )
        return
    extension = Extension(
        name="0000",
        plan_id="",
        run_id=job.run_id,
        files=(),
        units=0,
        rows=0,
        total_bytes=0,
        inputs=(source.root,),
        config={"from_run": source.root, "encoder_name": encoder_name, "fingerprint": fingerprint},
        created_at=job.started_at,
    )
    close_extension(job.store, extension)
