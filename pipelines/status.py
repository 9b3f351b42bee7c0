"""`beamclip status`: a run's counts recomputed from its commits, what is left, what failed, what its job does.

Where a launcher left its job (exit code 4) and the job has ended, this does the rest of the launcher's work: the
record of the run, report.html, the closing table, the exit code, and the lease is given back.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_transforms.accounting import contract_problems, summarise
from clip_transforms.elements import RequestError
from clip_transforms.lease import LeaseRecord, launcher_gone
from clip_transforms.storage import Store
from pipelines.launch import Exit, RunnerError, configure_logging, guarded
from pipelines.run_plan import run_plan
from pipelines.runner_jobs import JobState, job_state
from pipelines.storage_options import storage_options
from pipelines.submitted import held_by_job, kept_closing, last_step_done, take_lease


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where the run is not complete, 4 while its job runs."""
    parser = argparse.ArgumentParser(
        prog="beamclip status", description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    parser.add_argument("--report", action="store_true", help="write report.html again")
    parser.add_argument(
        "--allow-private-urls", action="store_true", help="as the run was given it, for the report's pictures"
    )
    parser.add_argument(
        "--storage-option", action="append", default=[], metavar="K=V", help="of the file system"
    )
    args = parser.parse_args(argv)
    return guarded(lambda: status(args))


def status(args: argparse.Namespace) -> int:
    """Print the accounts of `args.run`, and close it where its job has ended and no launcher waits for it."""
    configure_logging(verbose=False)
    store = Store(args.run, storage_options(args.storage_option))
    if not run_plan(store):
        raise RequestError(f"{store.root} holds no run of beamclip (no plan/*/plan.json)")
    held = held_by_job(store)
    if held is None or held.runner_job is None:
        return _tell(store, args, None)
    left = launcher_gone(held, time.time())
    if left and last_step_done(store, held.run_id) is not None:
        return _close(store, held, as_json=args.json)
    state = job_state(held.runner_job)
    if left and state.ended and last_step_done(store, held.run_id) is not None:  # meanwhile
        return _close(store, held, as_json=args.json)
    return _tell(store, args, Asked(job=held.runner_job, run_id=held.run_id, state=state, left=left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job of a remote runner, and what that says of it. left: no launcher waits for it."""

    job: str
    run_id: str
    state: JobState
    left: bool


def _close(store: Store, held: LeaseRecord, *, as_json: bool) -> int:
    """What the launcher would have done: its job has ended, and left run.json."""
    from pipelines.closing import close

    with take_lease(store, run_id=held.run_id, take_over=False):
        summary = last_step_done(store, held.run_id)
        if summary is None:
            raise RunnerError(f"{store.root} was changed by another launcher meanwhile; ask again")
        closing = kept_closing(store, held.run_id)
        if as_json:
            problems = contract_problems(summary, max_failure_rate=closing.max_failure_rate)
            _print_json({**summary, "problems": problems, "job": {"name": held.runner_job, "state": "DONE"}})
        return close(store, summary, closing, quiet=as_json)


def _tell(store: Store, args: argparse.Namespace, asked: Asked | None) -> int:
    """The accounts as they stand; the exit code tells whether they are complete, or why not yet."""
    summary = summarise(store)
    problems = contract_problems(summary, max_failure_rate=allowed_failure_rate(store))
    if args.report:
        from pipelines.reporting import write_run_report

        write_run_report(store, summary, allow_private_urls=args.allow_private_urls)
    if args.json:
        job = {"name": asked.job, "state": asked.state.name} if asked else None
        _print_json({**summary, "problems": problems, "job": job})
    else:
        _print(summary, problems, asked)
    if asked and asked.left and asked.state.ended:
        raise RunnerError(
            f"the runner ended the job as {asked.state.name}, before its last step; what is committed stays. "
            f"Go on with: {_resume(store, asked, summary)}"
        )
    if asked and asked.state.ended is False:
        return Exit.SUBMITTED
    return Exit.CONTRACT if problems else Exit.DONE


def allowed_failure_rate(store: Store) -> float:
    """The failure rate that the run's last job was allowed; 1.0 where that is not known."""
    try:
        run_id = json.loads(store.read("run.json"))["run_id"]
        return float(json.loads(store.read(f"runs/{run_id}.json"))["max_failure_rate"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 1.0


def _resume(store: Store, asked: Asked, summary: Mapping[str, Any]) -> str:
    """The command that goes on with a run whose job was lost."""
    root, source = shlex.quote(store.root), summary["from_run"]
    try:
        closing = kept_closing(store, asked.run_id)
        command = closing.command
    except FileNotFoundError:  # somebody has deleted it
        command = "label"
    if command in ("calibrate", "refine"):
        named = shlex.quote(closing.label_sets[0].partition("@")[0])
        return f"beamclip {command} {root} --set {named}{' ...' if command == 'calibrate' else ''}"
    return (
        f"beamclip {command}{f' --from-run {shlex.quote(source)}' if source else ''} --output {root} --resume"
    )


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))


def _print(summary: Mapping[str, Any], problems: Sequence[str], asked: Asked | None) -> None:
    units = summary["units"]
    print(f"run       {summary['output']}")
    print(f"encoder   {summary['encoder']}, fingerprint {summary['fingerprint']}")
    print(f"units     {units['committed']} of {units['planned']} committed")
    print(f"images    {summary['inputs']} = {summary['embedded']} embedded + {summary['failed']} failed")
    for reason, count in summary["failures_by_reason"].items():
        print(f"          {count} {reason}")
    for tag, rows in summary["labels"].items():
        print(f"labels    {tag}: {rows} rows")
    if summary["scored"] is not None:
        print(f"scored    {summary['scored']} image-text pairs")
    funnel = summary["filter"]
    if funnel and funnel["done"] is not None:
        dropped = "".join(f" + {count} {reason}" for reason, count in funnel["dropped"].items())
        print(f"pairs     {funnel['inputs']} = {funnel['kept']} kept{dropped} + {funnel['failed']} failed")
    for problem in problems:
        print(f"not done  {problem}")
    if asked:
        why = f": {asked.state.reason}" if asked.state.reason else ""
        print(f"job       {asked.job}")
        print(f"state     {asked.state.name}{why}")


if __name__ == "__main__":
    sys.exit(main())
