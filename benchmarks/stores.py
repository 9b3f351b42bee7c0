"""A whole job on each object-store server with 5 % of its requests failing: what was lost, and who asked again.

    python -m benchmarks.stores                 # 500 images, three seeds, on fake-gcs-server and moto
    python -m benchmarks.stores --images 100 --seeds 1

A proxy before the server fails every twentieth request at random (503, 429, a closed connection, a lost answer, an
answer cut in half, silence) and counts which of them come again. The job's own repeats are counted apart, layer by
layer (tests/retry_counts.py). Rows are compared with those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from clip_transforms.storage import Store
from tests.faulty_jobs import Told, faulty_job, fill
from tests.flaky_proxy import FlakyProxy, flaky_proxy
from tests.retry_counts import LAYERS
from tests.runs import all_rows, beamclip
from tests.servers import Server, gcs_server, s3_server
from tests.test_label_stores import downloaded, options_of

SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {"gcs": gcs_server, "s3": s3_server}
HEAD = ("store", "seed", "requests", "failed", "again", "left", *LAYERS, "sum", "s", "rows")


def job(server: Server, run: str) -> list[str]:
    """The command."""
    args = ["label", "--input", f"{server.url}/images/*.jpg", "--prompts", "everyday", "photo-kind"]
    return [*args, "--encoder", "fake", "--unit-size", "16", "--quiet", "--output", run, *options_of(server)]


def rows(server: Server, run: str) -> dict[str, list[dict[str, object]]]:
    """All rows of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return all_rows(downloaded(Store(run, server.storage_options), Path(folder)))


def measure(name: str, proxy: FlakyProxy, images: int, seeds: int) -> list[tuple[str, Told]]:
    """Print a line a seed; what was told, with the store's name."""
    calm = f"{proxy.behind.url}/calm"
    if beamclip(*job(proxy.behind, calm)):
        raise SystemExit("the undisturbed run failed")
    expected = rows(proxy.behind, calm)
    found = []
    for seed in range(1, seeds + 1):
        run = f"{proxy.behind.url}/run{seed}"
        started = time.perf_counter()
        told = faulty_job(proxy, job(proxy.server, run), seed=seed, quick=False, patience_s=5)
        seconds = time.perf_counter() - started
        same = told.code == 0 and rows(proxy.behind, run) == expected
        repeats = [told.counts.get(layer, 0) for layer in LAYERS]
        noted = json.loads(Store(run, proxy.behind.storage_options).read("run.json"))["retries"]
        cells = [name, seed, told.requests, told.failed, told.again, len(told.lost), *repeats, sum(repeats)]
        cells += [f"{seconds:.0f}", f"{images} equal" if same else "DIFFERENT"]
        print(" ".join(f"{cell!s:>8}" for cell in cells), f" run.json: {noted}", flush=True)
        found.append((name, told))
    return found


def main(argv: list[str] | None = None) -> None:
    """Print the table, and the faults that were made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    print(" ".join(f"{cell:>8}" for cell in HEAD))
    told: list[tuple[str, Told]] = []
    for name, start in SERVERS.items():
        with start() as server, flaky_proxy(server) as proxy:
            fill(server, args.images)
            told += measure(name, proxy, args.images, args.seeds)
    for name in SERVERS:
        kinds = sorted({kind for store, each in told if store == name for kind in each.by_fault})
        sums = {
            kind: sum(each.by_fault.get(kind, 0) for store, each in told if store == name) for kind in kinds
        }
        print(f"faults of {name}: " + ", ".join(f"{count} {kind}" for kind, count in sums.items()))


if __name__ == "__main__":
    main()
