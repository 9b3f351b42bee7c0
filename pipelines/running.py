"""Runs the graph of a job and brings back the content of run.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from clip_transforms.config import RunConfig
from clip_transforms.elements import BeamclipError
from clip_transforms.pairs.config import SelectConfig
from clip_transforms.transforms.run import RunUnits
from clip_transforms.transforms.select import SelectPairs
from pipelines.launch import RunnerError, reraise

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def build(
    pipeline: beam.Pipeline,
    config: RunConfig | None,
    *,
    extensions: tuple[str, ...],
    select: SelectConfig | None = None,
) -> Any:
    """The graph of one job over a planned run; its output is the content of run.json.

    config: None where no unit is to be worked on. select: what to choose among the pairs, after that.
    """
    if config is None:
        done = pipeline | "NoUnits" >> beam.Create([None], reshuffle=False)
    else:
        done = pipeline | RunUnits(config=config, extensions=extensions)
    return done if select is None else done | SelectPairs(select)


def execute(
    config: RunConfig | None,
    *,
    extensions: tuple[str, ...],
    options: PipelineOptions,
    select: SelectConfig | None = None,
    progress: Callable[[], AbstractContextManager[object]],
) -> dict[str, Any]:
    """Run the job to its end; raises what a worker raised of beamclip's errors, else RunnerError."""
    pipeline = beam.Pipeline(options=options)
    build(pipeline, config, extensions=extensions, select=select)
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
    asked = select or config
    assert asked is not None
    summary: dict[str, Any] = json.loads(asked.store().read("run.json"))
    finished = select is None or (summary.get("filter") or {}).get("done") is not None
    if summary.get("run_id") != asked.run_id or not finished:
        raise RunnerError("the runner says that the job is done, but its last step did not write run.json")
    return summary
