"""The same input on four runners, and what 20,000 images cost on Spark: peak memory, and what Spark shuffles.

    python -m benchmarks.spark                 # needs Java 17 and Maven; Prism where its binary is
    python -m benchmarks.spark --images 2000

Memory is each process's own peak (VmHWM). Shuffled bytes are Spark's own metrics, from its event log.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.memory import make_folder
from tests.helpers import write_images
from tests.runners_kit import prism_binary
from tests.runs import all_rows, summary
from tests.spark_events import Spent, logs, spent
from tests.spark_kit import Cluster, counting, finish, loads_of, local_options, running_cluster, started

PICTURES = 200
_POLL_S = 0.2
Rows = Mapping[str, list[dict[str, object]]]


def compare(work: Path, cluster: Cluster) -> None:
    """Print the table of runners; the first is what the others are held against."""
    folder = work / "pictures"
    write_images(folder, PICTURES, size=(160, 120))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    runners: dict[str, list[str]] = {"FnApiRunner": []}
    try:
        runners["Prism"] = ["--runner", "PrismRunner", "--prism_location", prism_binary()]
    except pytest.skip.Exception as missing:
        print(f"without Prism: {missing}")
    runners["Spark local[2]"] = local_options(work / "events")
    runners["Spark cluster"] = cluster.options()
    print(f"{PICTURES + 2} inputs, beamclip-tiny, 2 prompt sets, units of 8")
    print(
        f"{'runner':<16}{'rows':>6}{'embedding':>11}{'labels':>8}{'failures':>10}{'loads':>7}{'run.json':>11}{'s':>5}"
    )
    expected: Rows = {}
    for name, options in runners.items():
        run, loads = work / name.replace(" ", "-"), work / f"{name}.loads"
        asked = ["label", "--input", folder, "--output", run, "--prompts", "samples", "everyday", "--quiet"]
        began = time.monotonic()
        with started(*asked, "--unit-size", 8, "--threads", 1, *options, **counting(loads)) as process:
            code, _, err = finish(process)
        if code:
            raise SystemExit(f"{name}: exit code {code}: {err}")
        seconds = time.monotonic() - began
        found = all_rows(run)
        expected = expected or found
        counted = loads_of(cluster.loads if options == cluster.options() else loads)
        _print_runner(name, found, expected, counted, summary(run), seconds)


def _print_runner(
    name: str, found: Rows, expected: Rows, loads: list[int], told: Mapping[str, object], seconds: float
) -> None:
    vectors = [np.array([row["embedding"] for row in rows["embeddings"]]) for rows in (found, expected)]
    ids = [[row["image_id"] for row in rows["embeddings"]] for rows in (found, expected)]
    apart = float(np.abs(vectors[0] - vectors[1]).max()) if ids[0] == ids[1] else float("inf")
    labels = all(
        [(row["image_id"], row["label"]) for row in found[folder]]
        == [(row["image_id"], row["label"]) for row in rows]
        for folder, rows in expected.items()
        if folder.startswith("labels/")
    )
    failures = found["failures"] == expected["failures"]
    reconciled = told["inputs"] == len(found["embeddings"]) + len(found["failures"]) == PICTURES + 2
    words = (
        "equal" if labels else "DIFFER",
        "equal" if failures else "DIFFER",
        "reconciled" if reconciled else "NO",
    )
    processes = "+".join(map(str, loads))  # a number a process
    print(
        f"{name:<16}{sum(map(len, found.values())):>6}{apart:>11.1e}{words[0]:>8}{words[1]:>10}{processes:>7}"
        f"{words[2]:>11}{seconds:>5.0f}",
        flush=True,
    )


class Peaks:
    """The largest peak of each kind of process, in bytes."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def look(self, kind: str, *processes: psutil.Process) -> None:
        """Note their peaks so far; of one that has ended, what was seen before stays."""
        for process in processes:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = next(
                    (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0"
                )
                self.bytes[kind] = max(self.bytes.get(kind, 0), int(peak) * 1024)


def measure(name: str, work: Path, options: list[str], events: Path, cluster: Cluster | None) -> None:
    """Label all of `work/in` and print peaks and shuffle. cluster: None where Spark is the launcher's own."""
    asked = [
        "label",
        "--input",
        work / "in",
        "--output",
        work / name,
        "--prompts",
        "everyday",
        "--encoder",
        "fake",
    ]
    peaks = Peaks()
    with started(*asked, "--quiet", *options) as process:
        launcher = psutil.Process(process.pid)
        while process.poll() is None:
            if cluster is None:
                peaks.look("launcher and its worker threads", launcher)
                peaks.look("driver and executor JVM", *_children(launcher, "java"))
            else:
                peaks.look("launcher", launcher)
                peaks.look("driver JVM", psutil.Process(cluster.job_server.pid))
                peaks.look("executor JVM", *cluster.executors())
                peaks.look("Python worker", *cluster.python_workers())
            time.sleep(_POLL_S)
        code, _, err = finish(process)
    if code:
        raise SystemExit(f"{name}: exit code {code}: {err}")
    _print_cost(name, peaks, summary(work / name), spent(logs(events)[-1]), work / "in")


def _print_cost(name: str, peaks: Peaks, told: Mapping[str, Any], found: Spent, folder: Path) -> None:
    units, rate = told["units"]["planned"], told["images_per_second"]
    print(f"\n{name}: {told['inputs']:,} images in {units} units, {rate:.0f} images/s")
    for kind, size in peaks.bytes.items():
        print(f"  peak memory, {kind:<33}{size / 2**20:>8.0f} MiB")
    sizes = {
        "image files": sum(path.stat().st_size for path in folder.iterdir()),
        f"shuffled, {found.shuffle_records} records": found.shuffle_bytes,
        f"sent to the driver, metrics of {found.tasks} tasks": found.result_bytes,
    }
    for what, size in sizes.items():
        print(f"  {what:<46}{size:>12,} bytes", flush=True)


def _children(process: psutil.Process, name: str) -> list[psutil.Process]:
    try:
        return [child for child in process.children(recursive=True) if child.name() == name]
    except psutil.Error:
        return []


def main(argv: list[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="of the memory tables")
    count = parser.parse_args(argv).images
    work = Path(tempfile.mkdtemp(prefix="beamclip-spark-"))
    try:
        make_folder(work / "in", count)
        with running_cluster(work) as cluster:
            compare(work, cluster)
            measure("Spark cluster", work, cluster.options(), cluster.events, cluster)
        measure("Spark local[2]", work, local_options(work / "local"), work / "local", None)
    except pytest.skip.Exception as missing:
        raise SystemExit(str(missing)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
