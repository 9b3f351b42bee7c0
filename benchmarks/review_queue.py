"""Time and memory of choosing a review queue: `python -m benchmarks.review_queue [ROWS] [DIM]`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured import Prepared, measured
from clip_transforms.labelled import LabelledRun
from clip_transforms.review.queue import Queue, QueueOptions, build_queue
from clip_transforms.storage import Store
from tests.review_kit import random_run

_UNIT = 1 << 16


def main(argv: Sequence[str] | None = None) -> int:
    """Write a run of ROWS images (default 1,000,000) with vectors of DIM (default 512); choose queues from it."""
    args = list(sys.argv[1:] if argv is None else argv)
    rows, dim = int(args[0]) if args else 10**6, int(args[1]) if args[1:] else 512
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        tag = random_run(store, rows, unit=_UNIT, dim=dim).tag
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet")) / 2**20
        print(f"{rows:,} images, {size:,.0f} MiB of Parquet")
        print(f"{'queue':<34}{'chosen':>9}{'seconds':>9}{'CPU s':>8}{'MiB more':>10}")
        for limit, audit in ((2000, 500), (500, 500), (20_000, 2000), (100_000, 5000)):
            _measure(store, tag, QueueOptions(limit=limit, audit=audit))
    return 0


def _measure(store: Store, tag: str, options: QueueOptions) -> None:
    began = time.perf_counter()
    chosen, cpu, peak = measured(
        lambda: Prepared(work=lambda: build_queue(LabelledRun(store, tag), options), numbers=_numbers)
    )
    seconds = time.perf_counter() - began
    label = f"--limit {options.limit} --audit {options.audit}"
    print(f"{label:<34}{chosen:>9,.0f}{seconds:>9.1f}{cpu:>8.1f}{peak / 2**20:>10.0f}", flush=True)


def _numbers(queue: Queue) -> tuple[float, ...]:
    return (float(queue.rows.num_rows),)


if __name__ == "__main__":
    raise SystemExit(main())
