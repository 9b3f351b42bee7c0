"""An eager pipeline: a graph is built and run, and its elements and metrics come back as plain values."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

#: Runner and options by name; each works in this process, so that counters of the process can be read.
RUNNERS = {
    "one thread": ["--runner=FnApiRunner"],
    "three threads": [
        "--runner=FnApiRunner",
        "--direct_num_workers=3",
        "--direct_running_mode=multi_threading",
    ],
    "portable": ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
}

_tokens = itertools.count()
_collected: dict[str, list[Found]] = defaultdict(list)


@dataclass(frozen=True)
class Found:
    """One element and where it stands in event time."""

    value: Any
    timestamp: float
    windows: tuple[tuple[float, float], ...]


class _Collect(beam.DoFn):
    """Runs in this process, whatever the thread."""

    def __init__(self, token: str) -> None:
        self._token = token

    def process(
        self, element: Any, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[None]:
        ends = (float(window.start), float(window.end)) if hasattr(window, "start") else (0.0, 0.0)
        _collected[self._token].append(Found(element, float(timestamp), (ends,)))
        return iter(())


@dataclass(frozen=True)
class Ran:
    """What a run gave."""

    found: Mapping[str, list[Found]]
    counters: Mapping[str, int]
    distributions: Mapping[str, Any]

    def __getitem__(self, name: str) -> list[Any]:
        return [entry.value for entry in self.found[name]]


def run(build: Callable[[beam.Pipeline], Mapping[str, Any]], *, runner: str = "one thread") -> Ran:
    """Build a graph, run it, and bring back the named PCollections and beamclip's metrics."""
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNERS[runner]))
    tokens: dict[str, str] = {}
    for name, found in build(pipeline).items():
        tokens[name] = str(next(_tokens))
        _ = found | f"Collect {name}" >> beam.ParDo(_Collect(tokens[name]))
    result = pipeline.run()
    result.wait_until_finish()
    metrics = result.metrics().query(MetricsFilter().with_namespace("beamclip"))
    counters: Counter[str] = Counter()
    for entry in metrics["counters"]:  # each step has its own
        counters[entry.key.metric.name] += entry.committed
    return Ran(
        {name: _collected.pop(token, []) for name, token in tokens.items()},
        counters,
        {entry.key.metric.name: entry.committed for entry in metrics["distributions"]},
    )


def labels(pipeline: beam.Pipeline) -> list[str]:
    """The full labels of all steps."""
    names: list[str] = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: Any) -> None:
            names.append(node.full_label)

    pipeline.visit(Visitor())
    return names
