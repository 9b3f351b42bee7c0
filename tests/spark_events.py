"""What Spark itself says of its jobs: tasks, shuffle and memory, read from its event logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One application, its stages added up.

    tasks: that ended well. failed: that did not. widest: the tasks of the stage that has most.
    """

    tasks: int
    failed: int
    widest: int
    shuffle_records: int
    shuffle_bytes: int  # written to the shuffle
    result_bytes: int  # sent to the driver, Spark's own metrics included
    jars: tuple[str, ...]  # that the executors were sent
    heap_bytes: int  # the highest that a task's executor used; 0 where Spark did not tell


def spent(log: Path) -> Spent:
    """The sums of one event log."""
    tasks = failed = records = written = results = heap = 0
    width: dict[int, int] = {}
    jars: tuple[str, ...] = ()
    for event in _events(log):
        kind = event["Event"]
        if kind == "SparkListenerStageCompleted":
            info = event["Stage Info"]
            width[info["Stage ID"]] = info["Number of Tasks"]
        elif kind == "SparkListenerEnvironmentUpdate":
            given = dict(event["Spark Properties"]).get("spark.jars", "")
            jars = tuple(path.rsplit("/", 1)[-1] for path in given.split(",") if path)
        elif kind == "SparkListenerTaskEnd":
            heap = max(heap, int((event.get("Task Executor Metrics") or {}).get("JVMHeapMemory", 0)))
            if event["Task End Reason"]["Reason"] != "Success":
                failed += 1
                continue
            metrics = event["Task Metrics"]
            tasks += 1
            results += metrics["Result Size"]
            records += metrics["Shuffle Write Metrics"]["Shuffle Records Written"]
            written += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
    return Spent(
        tasks=tasks,
        failed=failed,
        widest=max(width.values(), default=0),
        shuffle_records=records,
        shuffle_bytes=written,
        result_bytes=results,
        jars=jars,
        heap_bytes=heap,
    )


def logs(events: Path) -> list[Path]:
    """The event logs of all applications, the newest last."""
    return sorted(
        (path for path in events.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime_ns
    )


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
