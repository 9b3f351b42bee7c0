"""Runs the graph of a job and brings back the content of run.json, or the name of a job that is left to its runner."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import apache_beam as beam

from clip_transforms.attempts import often_begun
from clip_transforms.commits import read_commit
from clip_transforms.config import RunConfig
from clip_transforms.elements import BeamclipError
from clip_transforms.lease import Lease
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.storage import Store
from clip_transforms.transforms.run import RunUnits
from clip_transforms.transforms.select import SelectPairs
from pipelines.launch import RunnerError, reraise
from pipelines.runner_errors import quiet_worker_threads
from pipelines.runner_jobs import job_name, job_state
from pipelines.runners import Launch, outlives_launcher

_SUSPECTS = 5  # units that an error names


def build(
    pipeline: beam.Pipeline,
    config: RunConfig | None,
    *,
    extensions: tuple[str, ...],
    launch: Launch,
    select: SelectConfig | None = None,
) -> Any:
    """The graph of one job over a planned run; its output is the content of run.json.

    config: None where no unit is to be worked on. select: what to choose among the pairs, after that.
    """
    if config is None:
        done = pipeline | "NoUnits" >> beam.Create([{}], reshuffle=False)
    else:
        last = select is None
        done = pipeline | RunUnits(config=config, extensions=extensions, hints=launch.hints, last=last)
    return done if select is None else done | SelectPairs(select)


def execute(
    config: RunConfig | None,
    *,
    extensions: tuple[str, ...],
    launch: Launch,
    lease: Lease,
    select: SelectConfig | None = None,
    progress: Callable[[], AbstractContextManager[object]],
) -> dict[str, Any] | str:
    """Run the job to its end: the content of run.json; or the name of the job, where it is not waited for.

    The lease then is the job's. Raises what a worker raised of beamclip's errors, else RunnerError.
    """
    asked = select or config
    if asked is None:
        raise ValueError("there is nothing to run: neither units nor a selection")
    store = asked.store()
    pipeline = beam.Pipeline(options=launch.options)
    build(pipeline, config, extensions=extensions, launch=launch, select=select)
    if launch.workers_here:
        quiet_worker_threads()
    try:
        with progress():
            result = pipeline.run()
            job = job_name(result, launch.options) if outlives_launcher(launch.options) else None
            if not launch.wait:
                return _hand_over(lease, job)
            state = _wait(result, job, lease)
    except BeamclipError:
        raise
    except Exception as error:  # noqa: BLE001 - each runner wraps a worker's error in its own way
        try:
            reraise(error)
        except RunnerError as failed:
            raise RunnerError(f"{failed}{_suspects(store)}") from error
    if state not in (None, "DONE"):
        raise RunnerError(f"the runner ended the job as {state}{_suspects(store)}")
    summary: dict[str, Any] = json.loads(store.read("run.json"))
    if summary.get("run_id") != asked.run_id:
        raise RunnerError("the runner says that the job is done, but its last step did not write run.json")
    return summary


def _suspects(store: Store) -> str:
    """What to add to a runner's error: the units that were begun three times or more and never came to an end."""
    try:
        left = sorted(islice(_not_committed(store), _SUSPECTS))
    except BeamclipError:
        return ""  # the store may be what broke: the runner's own error says more
    if not left:
        return ""
    return (
        f"; begun three times or more, and not committed: {', '.join(left)}. Their images were decoded in a child "
        "process, so none of these killed a worker: see the workers' logs, then --resume"
    )


def _not_committed(store: Store) -> Iterator[str]:
    for task, unit in often_begun(store):
        if read_commit(store, task, unit) is None:
            yield unit


def _hand_over(lease: Lease, job: str | None) -> str:
    if job is None:
        raise RunnerError("the runner took the job and gave it no name to ask for; wait for it with --wait")
    try:
        lease.hand_over(job)
    except BeamclipError as error:
        raise RunnerError(
            f"the job {job} is submitted, but the lease could not be left to it: {error}"
        ) from error
    return job


def _wait(result: Any, job: str | None, lease: Lease) -> str | None:
    """The state in which the job ended. A launcher that can wait no longer leaves its lease to a job that goes on."""
    if job is None:
        return str(result.wait_until_finish() or "") or None
    try:
        lease.set_runner_job(job)
        return str(result.wait_until_finish() or "") or None
    except KeyboardInterrupt:
        lease.hand_over(job)
        sys.stderr.write(f"\nbeamclip: the job {job} goes on without its launcher")
        raise
    except Exception:
        if job_state(job).ended is False:  # only the waiting has failed, or noting the job
            lease.hand_over(job)
        raise
