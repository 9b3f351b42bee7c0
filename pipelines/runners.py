"""What a request asks of Beam's runners, checked before anything starts; and where its workers and its job live."""

from __future__ import annotations

import argparse
import copy
import difflib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_transforms.elements import RequestError
from pipelines.runner_jobs import flex_job_id

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

#: Runners of this process; Beam's own DirectRunner is among them, since it tries to download a binary first.
LOCAL_RUNNERS = (None, "DirectRunner", "SwitchingDirectRunner", "FnApiRunner", "BundleBasedDirectRunner")
_KNOWN = (*LOCAL_RUNNERS[1:], "DataflowRunner", "FlinkRunner", "PortableRunner", "PrismRunner", "SparkRunner")
_LOST_ROWS = {"DaskRunner": "it loses rows of bundles that a worker tries again"}
_PRISM = "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.74.0"
_HINTS = ("accelerator", "min_ram")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a job is started: Beam's options, the resource hints of its steps that encode, whether it is waited for."""

    options: PipelineOptions
    hints: Mapping[str, str] = field(default_factory=dict)
    wait: bool = True

    @property
    def workers_here(self) -> bool:
        """Whether the workers are threads of this process."""
        return workers_here(self.options)


def canonical(runner: str | None) -> str | None:
    """A runner's name as its class has it, for Beam takes any case and leaves `Runner` out.

    >>> canonical("dataflow"), canonical("apache_beam.runners.dask.dask_runner.DaskRunner"), canonical(None)
    ('DataflowRunner', 'DaskRunner', None)
    """
    if runner is None:
        return None
    short = runner.rsplit(".", 1)[-1].lower()
    names = {name.lower(): name for name in (*_KNOWN, *_LOST_ROWS) if name}
    return names.get(short) or names.get(f"{short}runner") or runner


def check_runner(runner: str | None) -> None:
    """Refuse a runner that is known to lose rows. Raises RequestError."""
    name = canonical(runner)
    if name in _LOST_ROWS:
        raise RequestError(
            f"--runner {runner}: refused, {_LOST_ROWS[name]}; use SparkRunner, FlinkRunner or DataflowRunner"
        )
    if name and "." not in name and not name.endswith("Runner"):
        near = difflib.get_close_matches(name, [known for known in _KNOWN if known], n=1, cutoff=0.4)
        hint = f", did you mean {near[0]}?" if near else ""
        raise RequestError(f"--runner {runner}: Beam has no such runner{hint}")


def check_options(options: PipelineOptions) -> None:
    """What a runner needs to be told, offline. Raises RequestError; fills in where Prism's binary is."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = canonical(options.view_as(StandardOptions).runner)
    check_runner(name)
    if name == "PrismRunner":
        _find_prism(options)
    if name == "DataflowRunner":
        _check_dataflow(options)
    if name not in LOCAL_RUNNERS:
        _ask_beam(options)


def launch_of(args: argparse.Namespace, options: PipelineOptions, *, must_wait: bool = False) -> Launch:
    """How the job of these arguments is started. Raises RequestError.

    must_wait: something is to be done after the job, by this process.
    """
    asked = getattr(args, "wait", None)
    if asked is False and must_wait:
        raise RequestError("--no-wait: this command works on with what the job wrote; leave it out")
    if asked is False and not outlives_launcher(options):
        raise RequestError(
            "--no-wait: this job would end with its launcher, where its workers or its job server are; it takes "
            "DataflowRunner, or a job server of its own (--job_endpoint HOST:PORT) with workers of its own "
            "(--environment_type DOCKER, PROCESS or EXTERNAL)"
        )
    if asked and flex_job_id(options):
        raise RequestError("--wait: a Flex Template's launcher must end before the service starts its job")
    hints = {name: str(getattr(args, name)) for name in _HINTS if hasattr(args, name)}
    _check_hints(hints, options)
    if hints and not _is_dataflow(options):
        # They would split the graph into two environments, and its workers with it, for nothing: Prism even takes
        # the metrics of one for those of the other, and falls.
        flags = " and ".join("--" + name.replace("_", "-") for name in hints)
        _logger.warning(
            "only Dataflow knows resource hints of single steps: %s left out for this runner", flags
        )
        hints = {}
    wait = must_wait or (not _is_dataflow(options) if asked is None else bool(asked))
    return Launch(options=options, hints=hints, wait=wait)


def workers_here(options: PipelineOptions) -> bool:
    """Whether the workers are threads of this process, which then need one encoder only."""
    from apache_beam.options.pipeline_options import (
        DebugOptions,
        DirectOptions,
        PortableOptions,
        StandardOptions,
    )

    name = canonical(options.view_as(StandardOptions).runner)
    if name in LOCAL_RUNNERS:
        return bool(options.view_as(DirectOptions).direct_running_mode != "multi_processing")
    if options.view_as(DebugOptions).lookup_experiment("use_loopback_process_worker", False):
        return False
    kind = options.view_as(PortableOptions).environment_type
    return (kind or ("LOOPBACK" if name == "PrismRunner" else "")) == "LOOPBACK"


def outlives_launcher(options: PipelineOptions) -> bool:
    """Whether the job goes on when this process ends: its job server and its workers are elsewhere."""
    from apache_beam.options.pipeline_options import PortableOptions

    if _is_dataflow(options):
        return True
    endpoint = options.view_as(PortableOptions).job_endpoint
    return endpoint not in (None, "", "embed") and not workers_here(options)


def _is_dataflow(options: PipelineOptions) -> bool:
    from apache_beam.options.pipeline_options import StandardOptions

    return canonical(options.view_as(StandardOptions).runner) == "DataflowRunner"


def _check_hints(hints: Mapping[str, str], options: PipelineOptions) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.transforms.resources import parse_resource_hints

    for name, value in hints.items():
        flag = "--" + name.replace("_", "-")
        try:
            parse_resource_hints({name: value})
        except ValueError as error:
            raise RequestError(
                f"{flag} {value}: {error} Expected for example --accelerator 'type:nvidia-tesla-t4;count:1;"
                "install-nvidia-driver' or --min-ram 16GB"
            ) from error
    services = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    if "accelerator" in hints and any(option.startswith("worker_accelerator") for option in services):
        raise RequestError(
            "--accelerator and --dataflow_service_options=worker_accelerator=... exclude each other: the first is "
            "for the steps that encode, the second for all workers"
        )


def _find_prism(options: PipelineOptions) -> None:
    """Set where Prism's binary is; without one Beam would download it."""
    from apache_beam.options.pipeline_options import PortableOptions

    if options.view_as(PortableOptions).job_endpoint:
        return
    prism: Any = options.view_as(_prism_options())
    if prism.prism_log_level == "info":  # Beam's default, which tells of every start and end
        prism.prism_log_level = "warn"
    if prism.prism_location:
        if "://" not in prism.prism_location and not Path(prism.prism_location).is_file():
            raise RequestError(f"--prism_location {prism.prism_location}: no such file ({_PRISM} builds it)")
        return
    gopath = Path(os.environ.get("GOPATH", "").split(os.pathsep)[0] or Path.home() / "go")
    found = shutil.which("prism") or shutil.which("prism", path=str(gopath / "bin"))
    if not found:
        raise RequestError(
            f"--runner PrismRunner: no program `prism` on the PATH or in {gopath / 'bin'}, and none is downloaded "
            f"unasked; `{_PRISM}` builds it, or give --prism_location FILE, or --job_endpoint of one that runs"
        )
    prism.prism_location = found


def _prism_options() -> type[PipelineOptions]:
    from apache_beam.options import pipeline_options

    kind: type[PipelineOptions] = pipeline_options.PrismRunnerOptions
    return kind


def _check_dataflow(options: PipelineOptions) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

    try:
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError as error:
        raise RequestError(
            "--runner DataflowRunner needs Beam's Google Cloud parts: pip install 'beamclip[dataflow]'"
        ) from error
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    for name, given in (("project", cloud.project), ("region", cloud.region)):
        if not given:
            raise RequestError(f"--{name} is missing: --runner DataflowRunner needs it")
    if not (cloud.temp_location or cloud.staging_location):
        raise RequestError(
            "--temp_location is missing: --runner DataflowRunner stages the job in a gs:// folder"
        )
    flex_job_id(options)  # refuses classic templates
    image = options.view_as(WorkerOptions).sdk_container_image
    if not (image or setup.setup_file or setup.extra_packages or setup.prebuild_sdk_container_engine):
        raise RequestError(
            "--runner DataflowRunner: its workers need this package: give --sdk_container_image (an image of the "
            "Dockerfile of this repository), or --setup_file ./setup.py, or --extra_package FILE.whl"
        )


def _ask_beam(options: PipelineOptions) -> None:
    """Beam's own validation, without its look at the buckets, which the start of the job repeats."""
    from apache_beam.options.pipeline_options import StandardOptions, TestOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    checked = copy.deepcopy(options)
    checked.view_as(TestOptions).dry_run = True
    name = options.view_as(StandardOptions).runner
    try:
        errors = PipelineOptionsValidator(checked, create_runner(name)).validate()
    except (ValueError, ImportError, AttributeError) as error:
        raise RequestError(f"--runner {name}: {error}") from error
    if errors:
        raise RequestError(f"--runner {name}: {'; '.join(errors)}")
