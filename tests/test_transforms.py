"""The Beam graph of a run: its totals, its counters, and bundles of any shape."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from clip_transforms.config import UnitReport
from clip_transforms.engine import Spread
from clip_transforms.transforms.run import CountReports, RunUnits
from tests.runs import planned


def run(images: Path, output: Path, *more: object) -> beam.runners.runner.PipelineResult:
    config = planned(
        "--input", images, "--output", output, "--encoder", "fake", "--prompts", "everyday", *more
    )
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | RunUnits(config=config, extensions=("0000",))
    result = pipeline.run()
    result.wait_until_finish()
    return result


def counters(result: beam.runners.runner.PipelineResult) -> dict[str, int]:
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beamclip"))["counters"]
    return {counter.key.metric.name: counter.committed for counter in found}


def test_counters_tell_rows_by_stage_and_reason(images: Path, tmp_path: Path) -> None:
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_bytes(b"text")
    result = run(images, tmp_path / "run")
    told = counters(result)
    assert (told["embedded"], told["failed"], told["labelled"]) == (12, 2, 12)
    assert told["failed_fetch_empty"] == 1
    assert told["failed_decode_not_an_image"] == 1


def test_distributions_tell_bytes_and_times_of_every_image(images: Path, tmp_path: Path) -> None:
    result = run(images, tmp_path / "run")
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beamclip"))["distributions"]
    told = {entry.key.metric.name: entry.committed for entry in found}
    sizes = [path.stat().st_size for path in images.iterdir()]
    assert told["bytes"].count == 12
    assert (told["bytes"].min, told["bytes"].max) == (min(sizes), max(sizes))
    assert abs(told["bytes"].sum - sum(sizes)) <= 12  # a spread is handed on by its mean, rounded
    assert {told[name].count for name in ("fetch_ms", "decode_ms", "encode_ms")} == {12}


def test_steps_are_labelled(images: Path, tmp_path: Path) -> None:
    config = planned(
        "--input", images, "--output", tmp_path / "run", "--encoder", "fake", "--prompts", "everyday"
    )
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | RunUnits(config=config, extensions=("0000",))
    names: list[str] = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
            names.append(node.full_label)

    pipeline.visit(Visitor())
    ours = [name for name in names if name.startswith("RunUnits/EmbedAndLabel")]
    assert ours, names


def test_reports_add_up_in_any_grouping() -> None:
    reports = [UnitReport(unit=f"u{number}", task="embed", embedded=number, failed=1) for number in range(6)]
    adder = CountReports()
    whole = adder.create_accumulator()
    for report in reports:
        whole = adder.add_input(whole, report)
    parts = [adder.add_input(adder.create_accumulator(), report) for report in reports]
    assert adder.extract_output(adder.merge_accumulators(parts)) == adder.extract_output(whole)
    assert whole["embedded"] == 15 and whole["failed"] == 6 and whole["embed_units"] == 6


def test_a_spread_keeps_its_mean() -> None:
    assert Spread().plus(2).plus(4).mean == 3
