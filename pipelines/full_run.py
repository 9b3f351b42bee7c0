"""A run from images to rows: pre-flight, lease, plan, graph, accounts, report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipelines import preflight
from pipelines.closing import run_and_close
from pipelines.job import check_request
from pipelines.launch import beam_options, configure_logging
from pipelines.planning import first_look, make_config, write_plan
from pipelines.runners import launch_of
from pipelines.submitted import take_lease


def embed_and_label(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    rest: Sequence[str],
    unchecked: Sequence[str],
    *,
    command: str,
) -> int:
    """`beamclip label` with --input (or --resume), and `beamclip embed`; returns the exit code."""
    configure_logging(verbose=hasattr(args, "verbose"))
    job = check_request(args, labels=command == "label")
    options = beam_options(parser, getattr(args, "runner", None), rest, unchecked)
    launch = launch_of(args, options, must_wait=command == "evaluate")
    if job.asked("dry_run"):
        from pipelines.dry_run import dry_run

        return dry_run(job, launch, command=command)
    job.store.probe()
    encoder = preflight.launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
    config = make_config(job, encoder)
    items = first_look(job, encoder)
    with take_lease(job.store, run_id=job.run_id, take_over=job.asked("take_over")) as lease:
        extensions = write_plan(job, config, items, lease)
        return run_and_close(job, config, extensions, launch, lease, command=command)
