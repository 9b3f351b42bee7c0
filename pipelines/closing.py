"""The end of a job: its graph with progress, then the record, the report, the closing table, the exit code."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from clip_transforms.accounting import check_contract
from clip_transforms.lease import Lease
from clip_transforms.live import count
from clip_transforms.plan import Extension
from clip_transforms.refining.count_flips import record_flips
from clip_transforms.refining.text import agreement_lines, flips_table
from clip_transforms.storage import Store
from clip_transforms.summary import Summary, print_summary, read_failure_examples, read_set_counts
from clip_transforms.units import worker_for
from pipelines.job import Job
from pipelines.launch import Exit
from pipelines.progress import Progress, Snapshot, Total
from pipelines.reporting import write_run_report
from pipelines.runners import Launch, outlives_launcher
from pipelines.submitted import Closing, keep_closing, leave

if TYPE_CHECKING:
    from clip_transforms.config import RunConfig
    from clip_transforms.pairs.config import SelectConfig

DEFAULT_FAILURE_RATE = 0.05


def run_and_close(
    job: Job,
    config: RunConfig | None,
    extensions: Sequence[Extension],
    launch: Launch,
    lease: Lease,
    *,
    command: str,
    select: SelectConfig | None = None,
) -> int:
    """Run the Beam graph to its end and close the run; or leave it to its runner. The exit code.

    config: None where no unit is to be worked on. select: what to choose among the pairs, after that.
    """
    from pipelines.running import execute

    # Images a second are those of the graph: not of the pre-flight, nor of the listing.
    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat()
    config = None if config is None else replace(config, started_at=started_at)
    select = None if select is None else replace(select, started_at=started_at)
    show = partial(_progress, job, config, extensions, launch)
    names = tuple(extension.name for extension in extensions)
    closing = Closing(
        run_id=job.run_id,
        command=command,
        max_failure_rate=failure_rate(job),
        label_sets=tuple(item.tag for item in job.label_sets),
        allow_private_urls=job.asked("allow_private_urls"),
    )
    if outlives_launcher(launch.options):
        keep_closing(job.store, closing)
    ran = execute(config, extensions=names, launch=launch, lease=lease, select=select, progress=show)
    quiet = job.asked("quiet")
    if isinstance(ran, str):
        return leave(job.store, ran, launch, quiet=quiet)
    lease.check()
    return close(job.store, ran, closing, quiet=quiet)


def close(store: Store, summary: Mapping[str, Any], closing: Closing, *, quiet: bool) -> int:
    """Record the job, write report.html, print the closing table; ContractError where it is not met."""
    record = {**summary, "command": closing.command, "max_failure_rate": closing.max_failure_rate}
    record["submitted"] = asdict(closing)  # should this end before its lease is given back
    store.write(f"runs/{closing.run_id}.json", json.dumps(record, indent=1, sort_keys=True).encode())
    flips = [record_flips(store, tag) for tag in closing.label_sets[:1] if closing.command == "refine"]
    report = write_run_report(store, summary, allow_private_urls=closing.allow_private_urls)
    if not quiet:
        for found in flips:
            print("", flips_table(found).plain(), *agreement_lines(found), "", sep="\n")
        print_summary(_table(store, summary, closing, report), file=sys.stdout)
    check_contract(summary, max_failure_rate=closing.max_failure_rate)
    return Exit.DONE


def _table(store: Store, summary: Mapping[str, Any], closing: Closing, report: str) -> Summary:
    """What the closing table says; the next command is the one that most people type."""
    other = summary.get("from_run")
    source = Store(str(other), store.storage_options) if other else store
    root = shlex.quote(store.root)
    following = f"beamclip label --from-run {root} --prompts ..."
    if summary["filter"]:
        chosen_from = shlex.quote(str(other or store.root))
        following = f"beamclip filter --from-run {chosen_from} --keep-top ... --output ..."
    if closing.command == "refine":
        following = f"beamclip calibrate {root} --set {closing.label_sets[0]}"
    elif closing.command == "calibrate":
        following = f"beamclip review final {root} --set {closing.label_sets[0]} --output ... --write ..."
    elif summary["failed"] and not other:
        following = (
            f"beamclip {'filter' if closing.command == 'filter' else 'label'} --output {root} --retry-failed"
        )
    return Summary(
        run=summary,
        sets=read_set_counts(store, sets=closing.label_sets) if closing.label_sets else (),
        failures=() if other else read_failure_examples(source),
        report=report,
        next_command=following if _has_next(summary, closing) else None,
    )


def _has_next(summary: Mapping[str, Any], closing: Closing) -> bool:
    if closing.command in ("refine", "calibrate"):
        return True
    return closing.command != "evaluate" and bool(not summary.get("from_run") or summary["filter"])


def failure_rate(job: Job) -> float:
    """The limit: what was asked, else 0.05; 1.0 for url lists and --format img2dataset: dead links are normal."""
    given = getattr(job.args, "max_failure_rate", None)
    if given is not None:
        return float(given)
    lists = job.identity.format in ("urls", "img2dataset") or all(
        url.lower().endswith(".txt") for url in job.identity.input
    )
    return 1.0 if lists else DEFAULT_FAILURE_RATE


def _progress(
    job: Job, config: RunConfig | None, extensions: Sequence[Extension], launch: Launch
) -> Progress | nullcontext[None]:
    """The bar of a job in this process; a remote runner shows its own."""
    if not launch.workers_here or config is None:
        return nullcontext()
    worker = worker_for(config)
    labels_only = config.embeddings_run is not None or hasattr(job.args, "from_run")
    before = None if labels_only else count(job.store)
    started = worker.engine().progress()

    def snapshot() -> Snapshot:
        if before is None:
            return Snapshot(done=worker.viewed)
        now = worker.engine().progress()
        return Snapshot(
            done=before.embedded + now.embedded - started.embedded,
            failed=(0 if job.asked("retry_failed") else before.failed) + now.failed - started.failed,
            bytes=now.bytes - started.bytes,
        )

    rows = [extension.rows for extension in extensions]
    images = None if None in rows else sum(row for row in rows if row is not None)
    if images is not None and before is None:
        images *= max(1, len(config.views()))
    total = Total(images=images, bytes=sum(extension.total_bytes for extension in extensions) or None)
    return Progress(snapshot, total=total, quiet=job.asked("quiet"))
