"""A filter job: from images or from stored embeddings to scores, and from scores to the pairs that are kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from clip_transforms.elements import RequestError
from clip_transforms.labelsets import LabelSet, label_set_tags, read_label_set
from clip_transforms.pairs.config import Selection, read_selection
from clip_transforms.storage import Store
from clip_transforms.sweep import check_overwrite
from clip_transforms.views import PAIRS
from pipelines import preflight
from pipelines.closing import run_and_close
from pipelines.filter_flags import SELECTION, selection_from
from pipelines.filter_views import Located, locate_views, own_views, rule_label_sets, select_config
from pipelines.from_run import check_complete, check_encoder, check_source, plan_views, refuse_strange
from pipelines.job import (
    Job,
    check_request,
    encoder_spec,
    engine_options,
    source_options,
    stored_identity,
)
from pipelines.launch import beam_options, configure_logging
from pipelines.options import identity_from
from pipelines.planning import first_look, keep_views, make_config, write_plan
from pipelines.run_plan import run_plan
from pipelines.runners import launch_of
from pipelines.storage_options import storage_options
from pipelines.submitted import take_lease

#: Options of reading images again, for shards.
_READING = ("timeout", "per_host", "allow_private_urls", "max_failure_rate")


def filter_input(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """`beamclip filter` with --input (or --resume); returns the exit code."""
    configure_logging(verbose=hasattr(args, "verbose"))
    job = _check_input(args)
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options)
    if job.asked("dry_run"):
        from pipelines.dry_run import dry_run

        return dry_run(job, launch, command="filter")
    job.store.probe()
    encoder = preflight.launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
    config = make_config(job, encoder)
    items = first_look(job, encoder)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        extensions = write_plan(job, config, items, lease)
        select = select_config(
            job,
            encoder_name=config.encoder_name,
            fingerprint=config.fingerprint,
            embeddings=job.store.root,
            views=own_views(job),
        )
        return run_and_close(job, config, extensions, launch, lease, command="filter", select=select)


def filter_stored(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """`beamclip filter --from-run`; returns the exit code. The encoder is loaded only where views are missing."""
    configure_logging(verbose=hasattr(args, "verbose"))
    job, source, found = _check_stored(args)
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options)
    into_run = job.store.root == source.root
    if job.asked("dry_run"):
        missing = ", ".join(view.folder for view in found.missing)
        print(f"would choose among the pairs of {source.root} into {job.store.root}")
        print(f"keeps {job.selection.told() if job.selection else 'all'}")
        print(f"would first make {missing}: no image is read" if missing else "all that it takes is there")
        return 0
    fits = select_config(job, encoder_name="", fingerprint="", embeddings=source.root, views=())
    preflight.check_stored(source, fits.selection, job.rules, columns=fits.source_columns())
    job.store.probe()
    known = {name: str(job.extensions[0].config[name]) for name in ("encoder_name", "fingerprint")}
    config = None
    if found.missing:
        encoder = preflight.launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
        config = make_config(job, encoder)
        config = config if into_run else replace(config, embeddings_run=source.root)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        if not into_run:
            plan_views(job, source, **known)
        keep_views(job)
        select = select_config(job, **known, embeddings=source.root, views=found.views)
        return run_and_close(job, config, job.extensions, launch, lease, command="filter", select=select)


def _check_input(args: argparse.Namespace) -> Job:
    """A request with images; raises RequestError."""
    options = storage_options(getattr(args, "storage_option", []))
    fresh = not (hasattr(args, "resume") or hasattr(args, "retry_failed"))
    if fresh:  # before anything is read
        selection, rules = selection_from(vars(args), storage_options=options)
    job = check_request(args, labels=False)
    going_on = bool(job.extensions)
    kept = _label_sets(job.store) if going_on else []
    if not fresh:
        stored = _stored(job.store) if going_on else None
        recorded = [each.prompt_set for each in kept]
        selection, rules = selection_from(vars(args), stored, storage_options=options, recorded=recorded)
    sets = {each.tag: each for each in (*rule_label_sets(rules), *kept)}
    return replace(job, selection=selection, rules=rules, label_sets=tuple(sets.values()), pairs=True)


def _check_stored(args: argparse.Namespace) -> tuple[Job, Store, Located]:
    """The job, the run that it chooses from, and where its views are; raises RequestError."""
    refuse_strange(args, also=(*SELECTION, *_READING))
    options = storage_options(getattr(args, "storage_option", []))
    source = Store(args.from_run, options)
    extensions = check_source(source)
    check_complete(source)
    identity = identity_from({}, stored_identity(extensions))
    check_encoder(args, identity)
    store = Store(getattr(args, "output", args.from_run), options)
    stored = _stored_of(args, store, into_run=store.root == source.root)
    recorded = [each.prompt_set for run in (store, source) for each in _label_sets(run)] if stored else []
    selection, rules = selection_from(vars(args), stored, storage_options=options, recorded=recorded)
    found = locate_views(rules, store=store, source=source, fresh=hasattr(args, "overwrite"))
    job = Job(
        args=args,
        store=store,
        identity=identity,
        sources=source_options(identity, identity.input, options),
        engine=engine_options(args, identity, options),
        spec=encoder_spec(args, identity, options),
        extensions=tuple(extensions),
        label_sets=found.label_sets,
        pairs=PAIRS in found.missing,
        selection=selection,
        rules=rules,
    )
    return job, source, found


def _stored_of(args: argparse.Namespace, store: Store, *, into_run: bool) -> Selection | None:
    """The selection to go on with, if any; raises RequestError where the folder must not be used."""
    if into_run:
        if hasattr(args, "overwrite"):
            raise RequestError("--overwrite would delete the run that is chosen from: leave it out")
    elif hasattr(args, "overwrite"):
        check_overwrite(store, has_run=bool(run_plan(store)))
    elif run_plan(store) and not hasattr(args, "resume"):
        raise RequestError(
            f"{store.root} holds a run already: --resume goes on with it, --overwrite deletes it first; "
            "or give another --output"
        )
    return _stored(store) if hasattr(args, "resume") else None


def _label_sets(store: Store) -> list[LabelSet]:
    return [read_label_set(store, tag) for tag in label_set_tags(store)]


def _stored(store: Store) -> Selection | None:
    kept = read_selection(store)
    return None if kept is None else kept.selection
