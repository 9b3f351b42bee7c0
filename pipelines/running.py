"""Runs the graph of a job and brings back the content of run.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from clip_transforms.config import RunConfig
from clip_transforms.elements import BeamclipError
from clip_transforms.transforms.run import RunUnits
from pipelines.launch import RunnerError, reraise

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


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
        reraise(error)
    if state not in (None, "DONE"):
        raise RunnerError(f"the runner ended the job as {state}")
    summary: dict[str, Any] = json.loads(config.store().read("run.json"))
    if summary.get("run_id") != config.run_id:
        raise RunnerError("the runner says that the job is done, but its last step did not write run.json")
    return summary
