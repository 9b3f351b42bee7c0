"""The Beam wiring of a run: plan files to unit descriptors to reports; the thinking is in plain functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from clip_transforms.accounting import finish_run
from clip_transforms.config import RunConfig, UnitReport
from clip_transforms.elements import WorkUnit
from clip_transforms.plan import iter_units, read_extensions
from clip_transforms.retries import REPEATS
from clip_transforms.transforms.metrics import count, count_costs
from clip_transforms.units import PendingUnit, Worker, enough_in_flight, worker_for


@dataclass(eq=False)
class RunUnits(beam.PTransform[Any, Any]):
    """Every unit of a planned run, embedded and labelled; emits its UnitReports, then the run's totals.

    Input: the pipeline's root. Output: PCollection[dict], one element: the content of `run.json`.
    hints: Beam's resource hints of the steps that encode, such as {"accelerator": ..., "min_ram": "16GB"};
    runners that know none ignore them. A hint that Beam does not know is a ValueError here, on the launcher.
    last: False where steps follow, of which one writes `run.json`.
    """

    config: RunConfig
    extensions: tuple[str, ...]
    hints: Mapping[str, str] = field(default_factory=dict)
    last: bool = True

    def __post_init__(self) -> None:
        """Beam's own attributes."""
        super().__init__()

    def expand(self, root: Any) -> Any:
        """Wire plan -> units -> reports -> totals."""
        units = (
            root
            | "Extensions" >> beam.Create(list(self.extensions), reshuffle=False)
            | "PlanFiles" >> beam.FlatMap(plan_files, self.config)
            | "ShufflePlanFiles" >> beam.Reshuffle()
            | "ReadUnits" >> beam.FlatMap(units_of, self.config)
            | "ShuffleUnits" >> beam.Reshuffle()
        )
        label_sets = (
            root
            | "LabelSets" >> beam.Create(list(self.config.label_sets), reshuffle=False)
            | "ShuffleLabelSets" >> beam.Reshuffle()
        )
        encode = EmbedAndLabel(config=self.config).with_resource_hints(**self.hints)
        return (
            (units, label_sets)
            | "EmbedAndLabel" >> encode
            | "Count" >> beam.CombineGlobally(CountReports())
            | "FinishRun"
            >> beam.Map(
                lambda counted, config, last: finish_run(config, counted, last=last), self.config, self.last
            )
        )


@dataclass(eq=False)
class EmbedAndLabel(beam.PTransform[Any, Any]):
    """All that needs the encoder, and with it the accelerator: the texts of the label sets, then the units.

    Input: (PCollection[WorkUnit], PCollection[str] of label-set tags). Output: PCollection[UnitReport].
    """

    config: RunConfig

    def __post_init__(self) -> None:
        """Beam's own attributes."""
        super().__init__()

    def expand(self, inputs: Any) -> Any:
        """No unit starts before every text feature is in `text/`."""
        units, label_sets = inputs
        ready = label_sets | "EncodeTexts" >> beam.Map(encode_label_set, self.config)
        return units | "Units" >> beam.ParDo(_RunUnits(self.config), beam.pvalue.AsList(ready))


def plan_files(extension: str, config: RunConfig) -> Iterator[tuple[str, str]]:
    """(extension, plan file) pairs of one extension."""
    for found in read_extensions(config.embeddings_store()):
        if found.name == extension:
            yield from ((extension, file) for file in found.files)


def units_of(plan_file: tuple[str, str], config: RunConfig) -> Iterator[WorkUnit]:
    """The unit descriptors of one plan file, with how often each must have been redone."""
    store = config.embeddings_store()
    extensions = {extension.name: extension for extension in read_extensions(store)}
    redo = {unit: times for extension in extensions.values() for unit, times in extension.redo.items()}
    for unit in iter_units(store, extensions[plan_file[0]], plan_file[1]):
        yield replace(unit, redo=redo.get(unit.name, 0))


def encode_label_set(tag: str, config: RunConfig) -> str:
    """Make sure that the text features of one label set are in `text/`; returns its tag."""
    worker_for(config).text_features(tag)
    return tag


class _RunUnits(beam.DoFn):
    """Submits units to the process-wide engine, keeps enough in flight, and waits for all at the bundle's end."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._worker: Worker | None = None
        self._pending: list[PendingUnit] = []

    def setup(self) -> None:
        self._worker = worker_for(self._config)

    def start_bundle(self) -> None:
        self._pending = []

    def process(self, unit: WorkUnit, ready: list[str]) -> Iterable[UnitReport]:  # noqa: ARG002
        assert self._worker is not None
        self._pending.append(self._worker.start(unit))
        while enough_in_flight([pending.unit.rows for pending in self._pending]):
            yield from self._finish_first()

    def finish_bundle(self) -> Iterable[WindowedValue]:
        while self._pending:
            for report in self._finish_first():
                yield WindowedValue(report, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _finish_first(self) -> Iterator[UnitReport]:
        assert self._worker is not None
        for report in self._worker.finish(self._pending.pop(0)):
            report = replace(report, retries=REPEATS.take())
            _count(report)
            yield report


def _count(report: UnitReport) -> None:
    """Beam's counters and distributions of one report."""
    count({"retries": report.retries})
    if report.done_before:
        count({"units_done_before": 1})
        return
    counted = ("embedded", "labelled", "scored", "failed")
    count({name: getattr(report, name) for name in counted})
    count({f"failed_{name}": number for name, number in report.failed_by.items()})
    if report.stats is not None:
        count_costs(report.stats)


class CountReports(beam.CombineFn):
    """Adds up unit reports: counts only, so an accumulator stays small."""

    def create_accumulator(self) -> dict[str, float]:
        return {}

    def add_input(self, total: dict[str, float], report: UnitReport) -> dict[str, float]:
        for name, number in report.counts().items():
            total[name] = total.get(name, 0) + number
        return total

    def merge_accumulators(self, totals: Iterable[dict[str, float]]) -> dict[str, float]:
        merged: dict[str, float] = {}
        for total in totals:
            for name, number in total.items():
                merged[name] = merged.get(name, 0) + number
        return merged

    def extract_output(self, total: dict[str, float]) -> dict[str, float]:
        return total
