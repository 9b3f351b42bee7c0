"""Runs the graph of a job and brings back the content of run.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from clip_transforms.attempts import often_begun
from clip_transforms.commits import read_commit
from clip_transforms.config import RunConfig
from clip_transforms.elements import BeamclipError
from clip_transforms.storage import Store
from clip_transforms.transforms.run import RunUnits
from pipelines.launch import RunnerError, reraise

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_SUSPECTS = 5  # units that an error names


def build(pipeline: beam.Pipeline, config: RunConfig, *, extensions: tuple[str, ...]) -> Any:
    """The graph of one job over a planned run; its output is the content of run.json."""
    return pipeline | RunUnits(config=config, extensions=extensions)


def execute(
    config: RunConfig,
    *,
    extensions: tuple[str, ...],
    options: PipelineOptions,
    progress: Callable[[], AbstractContextManager[object]],
) -> dict[str, Any]:
    """Run the job to its end; raises what a worker raised of beamclip's errors, else RunnerError."""
    pipeline = beam.Pipeline(options=options)
    build(pipeline, config, extensions=extensions)
    try:
        with progress():
            result = pipeline.run()
            state = result.wait_until_finish()
    except BeamclipError:
        raise
    except Exception as error:  # noqa: BLE001 - each runner wraps a worker's error in its own way
        try:
            reraise(error)
        except RunnerError as failed:
            raise RunnerError(f"{failed}{_suspects(config.store())}") from error
    if state not in (None, "DONE"):
        raise RunnerError(f"the runner ended the job as {state}{_suspects(config.store())}")
    summary: dict[str, Any] = json.loads(config.store().read("run.json"))
    if summary.get("run_id") != config.run_id:
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
