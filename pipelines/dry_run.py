"""`--dry-run`: what a job would do, printed; nothing is written, not even a probe."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clip_transforms.elements import UnitKind
from clip_transforms.encoders import describe
from clip_transforms.plan import unit_rows_at
from clip_transforms.sources import PlanItem
from pipelines import preflight
from pipelines.filter_views import own_views, select_config
from pipelines.job import Job
from pipelines.launch import Exit
from pipelines.planning import blank_config, scanned
from pipelines.runners import Launch

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_TRY = 16  # images that the estimate is made from


@dataclass(slots=True)
class Size:
    """How large a job is, as far as its listing tells."""

    units: int = 0
    images: int = 0
    bytes: int = 0
    shards: int = 0  # tars, whose images are not known before reading


def dry_run(job: Job, launch: Launch, *, command: str) -> int:
    """Print units, images, bytes and an estimate of time; with a remote runner its steps and options too."""
    print(f"beamclip {command}, dry run: nothing is written")
    _print_request(job)
    if job.unreachable:
        print(f"skipped: listing the input and trying an image, because {job.unreachable}")
    else:
        _print_size(job, launch)
    if not job.is_local:
        _print_graph(job, launch)
    return Exit.DONE


def _print_request(job: Job) -> None:
    info = describe(job.spec)
    print(f"output    {job.store.root}")
    print(f"inputs    {' '.join(job.identity.input)}")
    print(
        f"encoder   {info.name}, {info.dim} dimensions, {info.preprocess.width} x {info.preprocess.height} pixels"
    )
    for label_set in job.label_sets:
        prompts = label_set.prompt_set
        print(f"prompts   {label_set.tag}, {len(prompts.classes)} classes")
    if job.selection is not None:
        print(f"keeps     {job.selection.told()}")


def _print_size(job: Job, launch: Launch) -> None:
    head, items = preflight.first_items(scanned(job))
    size = measure(items, unit_size=job.identity.unit_size)
    images = (
        f"{size.images:,} images"
        if not size.shards
        else f"{size.images:,} images and {size.shards:,} tar shards"
    )
    print(f"units     {size.units:,}")
    print(f"input     {images}, {_megabytes(size.bytes)}")
    encoder = preflight.launchers_encoder(job.spec, job.engine, workers_here=launch.workers_here)
    started = time.perf_counter()
    tried = preflight.try_images(head, encoder, sources=job.sources, engine=job.engine, want=_TRY)
    if not tried.embedded:
        print("estimate  none: no image of the first inputs could be decoded")
        return
    rate = tried.embedded / max(1e-9, time.perf_counter() - started)
    if size.shards:
        print(
            f"estimate  {rate:.1f} images/s on this machine, one after the other; the shards' images are not counted"
        )
        return
    print(
        f"estimate  {_duration(size.images / rate)} on this machine at {rate:.1f} images/s "
        f"(from {tried.embedded} images, one after the other: an upper bound)"
    )


def measure(items: Iterable[PlanItem], *, unit_size: int | None) -> Size:
    """Count what the planner would plan, by the planner's own rule.

    >>> images = [PlanItem(kind=UnitKind.REFS, uri=str(n), size=10) for n in range(130)]
    >>> measure(images, unit_size=None)
    Size(units=3, images=130, bytes=1300, shards=0)
    """
    size = Size()
    open_refs = 0
    for item in items:
        size.bytes += item.size or 0
        if item.rows is None:
            size.shards += 1
        else:
            size.images += item.rows
        alone = item.kind is not UnitKind.REFS
        if open_refs and (alone or open_refs >= unit_rows_at(size.units, unit_size=unit_size)):
            size.units, open_refs = size.units + 1, 0
        if alone:
            size.units += 1
        else:
            open_refs += 1
    size.units += 1 if open_refs else 0
    return size


def _print_graph(job: Job, launch: Launch) -> None:
    print("options")
    for name, value in sorted(launch.options.get_all_options(drop_default=True).items()):
        print(f"  {name} = {value}")
    image = container_image(launch.options)
    if image:
        print(f"image     {image}")
    print("steps")
    for step in _steps(job, launch):
        print(f"  {step}")
    print(f"waits     {'yes' if launch.wait else 'no: submits, prints the job, exits 4'}")


def container_image(options: PipelineOptions) -> str | None:
    """The image that workers are started from, where the options name one."""
    from apache_beam.options.pipeline_options import PortableOptions, WorkerOptions

    named = options.view_as(WorkerOptions).sdk_container_image
    portable = options.view_as(PortableOptions)
    if not named and portable.environment_type == "DOCKER":
        named = portable.environment_config or portable.lookup_environment_option("docker_container_image")
    return str(named) if named else None


def _steps(job: Job, launch: Launch) -> Iterator[str]:
    """The labels of the graph's composite and its parts, with their resource hints, from the graph itself."""
    import apache_beam as beam

    from pipelines.running import build

    pipeline = beam.Pipeline(runner="FnApiRunner")
    config = blank_config(job)
    select = None
    if job.selection is not None:
        select = select_config(
            job,
            encoder_name=config.encoder_name,
            fingerprint="",
            embeddings=job.store.root,
            views=own_views(job),
        )
    build(pipeline, config, extensions=("0000",), launch=launch, select=select)
    hints = ", ".join(f"{name}={value}" for name, value in launch.hints.items())
    seen: list[str] = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node: Any) -> None:
            self.visit_transform(node)

        def visit_transform(self, node: Any) -> None:
            if node.full_label.count("/") == 1:
                seen.append(f"{node.full_label}{f'  ({hints})' if node.resource_hints else ''}")

    pipeline.visit(Visitor())
    yield from seen


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(42), _duration(3700), _duration(200_000)
    ('42 s', '1 h 1 min', '2 d 7 h')
    """
    seconds = int(seconds)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
