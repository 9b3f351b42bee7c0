"""A filter job: from images or from stored embeddings to scores, and from scores to the pairs that are kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.live import count
from clip_transforms.pairs.config import SelectConfig, Selection, keep_selection, read_selection
from clip_transforms.pairs.scores import has_pairs
from clip_transforms.sources import parse_carry
from clip_transforms.sources.options import SourceOptions
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS
from pipelines import preflight
from pipelines.closing import run_and_close
from pipelines.filter_flags import SELECTION, selection_from
from pipelines.from_run import check_complete, check_encoder, check_source, plan_views, refuse_strange
from pipelines.job import Job, check_request, encoder_spec, engine_options, stored_identity
from pipelines.launch import beam_options, configure_logging
from pipelines.options import identity_from
from pipelines.planning import first_look, keep_views, make_config, write_plan
from pipelines.run_plan import run_plan
from pipelines.runners import launch_of
from pipelines.storage_options import storage_options
from pipelines.submitted import take_lease


def filter_input(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """`beamclip filter` with --input (or --resume); returns the exit code."""
    configure_logging(verbose=hasattr(args, "verbose"))
    selection_from(vars(args))  # before anything is read
    job = check_request(args, labels=False)
    going_on = bool(job.extensions) and not job.unreachable
    job = replace(job, selection=selection_from(vars(args), _stored(job.store) if going_on else None))
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options)
    if job.asked("dry_run"):
        from pipelines.dry_run import dry_run

        return dry_run(job, launch, command="filter")
    job.store.probe()
    encoder = preflight.load_encoder(job.spec, job.engine, local=launch.workers_here)
    config = make_config(job, encoder)
    items = first_look(job, encoder)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        extensions = write_plan(job, config, items, lease)
        select = _select_config(
            job,
            encoder_name=config.encoder_name,
            fingerprint=config.fingerprint,
            embeddings=job.store.root,
            scores=job.store.root,
            sources=job.sources,
        )
        return run_and_close(job, config, extensions, launch, lease, command="filter", select=select)


def filter_stored(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str], unchecked: Sequence[str]
) -> int:
    """`beamclip filter --from-run`; returns the exit code. The encoder is loaded only where scores are missing."""
    configure_logging(verbose=hasattr(args, "verbose"))
    job, source = _check_stored(args)
    assert job.selection is not None
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options)
    own = has_pairs(job.store) and not job.asked("overwrite")
    scored = source if has_pairs(source) and not (own and job.store.root != source.root) else None
    if job.asked("dry_run"):
        print(f"would choose among the pairs of {source.root} into {job.store.root}")
        print(
            "scores    are there"
            if scored
            else "scores    would be made: captions are encoded, no image is read"
        )
        return 0
    job.store.probe()
    plan = job.extensions[0].config
    names = {"encoder_name": str(plan["encoder_name"]), "fingerprint": str(plan["fingerprint"])}
    config = None
    if scored is None:
        encoder = preflight.load_encoder(job.spec, job.engine, local=launch.workers_here)
        config = make_config(job, encoder)
        if job.store.root != source.root:
            config = replace(config, embeddings_run=source.root)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        if job.store.root != source.root:
            plan_views(job, source, **names)
        if config is None:
            keep_selection(job.store, job.selection)
        else:
            keep_views(job)
        select = _select_config(
            job,
            **names,
            embeddings=source.root,
            scores=(scored or job.store).root,
            sources=SourceOptions(carry=parse_carry(job.identity.carry)),
        )
        return run_and_close(job, config, job.extensions, launch, lease, command="filter", select=select)


def _check_stored(args: argparse.Namespace) -> tuple[Job, Store]:
    """The job and the run that it chooses from; raises RequestError."""
    refuse_strange(args, also=SELECTION)
    selection_from(vars(args))
    options = storage_options(getattr(args, "storage_option", []))
    source = Store(args.from_run, options)
    extensions = check_source(source)
    check_complete(source)
    identity = identity_from({}, stored_identity(extensions))
    check_encoder(args, identity)
    store = Store(getattr(args, "output", args.from_run), options)
    if has_pairs(source):
        counts = count(source)
        if counts.scored != counts.embedded:
            raise RequestError(
                f"--from-run {source.root} has scores of {counts.scored} of {counts.embedded} images: first run "
                f"`beamclip filter --output {source.root} --resume`"
            )
    job = Job(
        args=args,
        store=store,
        identity=identity,
        sources=SourceOptions(storage_options=options),
        engine=engine_options(args, identity, options),
        spec=encoder_spec(args, identity, options),
        extensions=tuple(extensions),
        label_sets=(),
        selection=_selection_of(args, store, into_run=store.root == source.root),
    )
    return job, source


def _selection_of(args: argparse.Namespace, store: Store, *, into_run: bool) -> Selection:
    given = vars(args)
    if not into_run and run_plan(store):
        if not (hasattr(args, "resume") or hasattr(args, "overwrite")):
            raise RequestError(
                f"{store.root} holds a run already: --resume goes on with it, --overwrite deletes it first; "
                "or give another --output"
            )
        if hasattr(args, "resume"):
            return selection_from(given, _stored(store))
    if into_run and hasattr(args, "overwrite"):
        raise RequestError("--overwrite would delete the run that is chosen from: leave it out")
    resumed = into_run and hasattr(args, "resume")
    return selection_from(given, _stored(store) if resumed else None)


def _stored(store: Store) -> Selection | None:
    kept = read_selection(store)
    return None if kept is None else kept[0]


def _select_config(
    job: Job,
    *,
    encoder_name: str,
    fingerprint: str,
    embeddings: str,
    scores: str,
    sources: Any,
) -> SelectConfig:
    assert job.selection is not None
    return SelectConfig(
        output=job.store.root,
        embeddings_run=embeddings,
        views=((PAIRS, scores),),
        selection=job.selection,
        encoder_name=encoder_name,
        fingerprint=fingerprint,
        run_id=job.run_id,
        started_at=job.started_at,
        carry=sources.carry_types(),
        storage_options=job.store.storage_options,
    )
