"""`beamclip status`: a run's counts recomputed from its commits, what is left, and what failed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clip_transforms.elements import RequestError
from pipelines.launch import Exit, configure_logging, guarded
from pipelines.options import storage_options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 where the run is not complete."""
    parser = argparse.ArgumentParser(prog="beamclip status", description=__doc__, allow_abbrev=False)
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
    """Print the accounts of `args.run`."""
    from clip_transforms.accounting import contract_problems, summarise
    from clip_transforms.plan import read_extensions
    from clip_transforms.storage import Store

    configure_logging(verbose=False)
    store = Store(args.run, storage_options(args.storage_option))
    if not read_extensions(store):
        raise RequestError(f"{store.root} holds no run of beamclip (no plan/*/plan.json)")
    summary = summarise(store)
    problems = contract_problems(summary, max_failure_rate=1.0)
    if args.report:
        from pipelines.reporting import write_run_report

        write_run_report(store, summary, allow_private_urls=args.allow_private_urls)
    if args.json:
        print(json.dumps({**summary, "problems": problems}, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        _print(summary, problems)
    return Exit.CONTRACT if problems else Exit.DONE


def _print(summary: Mapping[str, Any], problems: Sequence[str]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
