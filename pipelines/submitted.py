"""Jobs that outlive their launcher: what it leaves behind, and who does the rest of its work once they have ended."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from clip_transforms.lease import Lease, LeaseRecord, read_lease
from clip_transforms.storage import Store
from pipelines.launch import Exit
from pipelines.runner_jobs import console_url, flex_job_id, job_state
from pipelines.runners import Launch

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What a launcher knows of the end of its job besides run.json."""

    run_id: str
    command: str
    max_failure_rate: float
    label_sets: tuple[str, ...]
    allow_private_urls: bool = False


def keep_closing(store: Store, closing: Closing) -> None:
    """Write down what the end of a job needs, before the job that may outlive its launcher starts."""
    record = {"run_id": closing.run_id, "submitted": asdict(closing)}
    store.write(_record_name(closing.run_id), json.dumps(record, indent=1, sort_keys=True).encode())


def kept_closing(store: Store, run_id: str) -> Closing:
    """What `keep_closing` wrote. Raises FileNotFoundError where nothing was."""
    kept = json.loads(store.read(_record_name(run_id)))["submitted"]
    return Closing(**{**kept, "label_sets": tuple(kept["label_sets"])})


def leave(store: Store, job: str, launch: Launch, *, quiet: bool) -> int:
    """Say which job was submitted and how to ask for it; the exit code.

    A Flex Template's launcher must end with 0: the service takes anything else for a launch that failed.
    """
    if not quiet:
        print(f"submitted  {job}")
        if console_url(job):
            print(f"console    {console_url(job)}")
        print(f"next       beamclip status {shlex.quote(store.root)}")
        sys.stdout.flush()
    return Exit.DONE if flex_job_id(launch.options) else Exit.SUBMITTED


def held_by_job(store: Store) -> LeaseRecord | None:
    """The lease that a submitted job holds; None where no job does."""
    held = read_lease(store)
    return held if held is not None and held.runner_job is not None else None


def last_step_done(store: Store, run_id: str) -> dict[str, Any] | None:
    """The content of run.json where the job of this run id wrote it; that is the last thing a job does."""
    try:
        summary: dict[str, Any] = json.loads(store.read("run.json"))
    except (FileNotFoundError, ValueError):
        return None
    return summary if summary.get("run_id") == run_id else None


def take_lease(store: Store, *, run_id: str, take_over: bool) -> Lease:
    """The output's lease; HeldError where a launcher, or a job that has not ended, holds it."""
    return Lease.acquire(store, run_id=run_id, take_over=take_over, job_ended=_asks_runner(store))


def _asks_runner(store: Store) -> Callable[[str], bool | None]:
    def ended(job: str) -> bool | None:
        held = held_by_job(store)
        if held is not None and held.runner_job == job and last_step_done(store, held.run_id) is not None:
            return True
        state = job_state(job)
        if state.ended is None:
            _logger.warning("the runner cannot say whether the job %s has ended: %s", job, state.reason)
        return state.ended

    return ended


def _record_name(run_id: str) -> str:
    return f"runs/{run_id}.json"
