"""Time and memory of report.html over many label rows; prints a table.

    python -m benchmarks.report --rows 100000 1000000 --labels 1000

Each size is a run folder of generated rows (8 parts, several row groups each) read in a process of its own;
"grown" is that process's peak memory above what it had once everything was imported. Thumbnails are left
out: they depend on the store, and their number is bounded.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.review.report import render_report
from clip_transforms.review.report_values import ReportInputs
from clip_transforms.storage import Store
from schemas.embeddings import embeddings_schema
from schemas.labels import LABELS, TOP_K

_PARTS = 8
_TOP = 5
_MADE = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--multi", action="store_true", help="a multi-label set")
    parser.add_argument("--read", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.read:
        print(*measure(Path(args.read)))
        return 0
    print(f"{'rows':>10} {'labels':>7} {'Parquet MB':>11} {'seconds':>8} {'grown MB':>9} {'page MB':>8}")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            size = make_run(Path(folder), rows=rows, labels=args.labels, multi=args.multi)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.report", "--read", folder], capture_output=True, text=True
            )
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
            seconds, grown, page = map(float, done.stdout.split())
        print(
            f"{rows:>10,} {args.labels:>7,} {size / 1e6:>11.0f} {seconds:>8.1f} {grown / 1e6:>9.0f} {page / 1e6:>8.2f}"
        )
    return 0


def measure(folder: Path) -> tuple[float, float, int]:
    """Seconds, bytes of peak memory above the start, bytes of the page."""
    before = peak()
    start = time.perf_counter()
    page = render_report(Store(str(folder)), data=ReportInputs(run={"output": "benchmark"}))
    seconds = time.perf_counter() - start
    return seconds, peak() - before, len(page)


def peak() -> int:
    """Peak resident bytes of this process. Linux's ru_maxrss will not do: a child begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def make_run(folder: Path, *, rows: int, labels: int, multi: bool) -> int:
    """A run of generated rows; returns the bytes of its Parquet."""
    rng = np.random.default_rng(0)
    names = pa.array([f"label-{number:05d}" for number in range(labels)])
    size = 0
    for part in range(_PARTS):
        count = rows // _PARTS
        ids = [f"{part:08x}{number:024x}" for number in range(count)]
        for kind, table in (
            ("labels/set@00000000", _labels(rng, ids, names, multi=multi)),
            ("embeddings", _embeddings(rng, ids)),
        ):
            path = folder / kind / f"part-{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, compression="zstd", row_group_size=65_536)
            size += path.stat().st_size
    return size


def _labels(rng: np.random.Generator, ids: list[str], names: pa.Array, *, multi: bool) -> pa.Table:
    count = len(ids)
    top = np.minimum(rng.zipf(1.3, (count, _TOP)) - 1, len(names) - 1)
    scores = -np.sort(-rng.dirichlet(np.ones(_TOP), count).astype(np.float32), axis=1)
    flat = pa.StructArray.from_arrays(
        [names.take(pa.array(top.reshape(-1))), pa.array(scores.reshape(-1)), pa.array(scores.reshape(-1))],
        fields=list(TOP_K.value_type),
    )
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * _TOP)
    best = pa.DictionaryArray.from_arrays(
        pa.array(top[:, 0].astype(np.int32), mask=scores[:, 0] < 0.3), names
    )
    given = pa.ListArray.from_arrays(
        pa.array(np.arange(count + 1, dtype=np.int32) * 2), names.take(pa.array(top[:, :2].reshape(-1)))
    )
    columns = {
        "image_id": pa.array(ids),
        "uri": pa.array([f"gs://bucket/photos/2026/{key}.jpg" for key in ids]),
        "label": pa.nulls(count, LABELS.field("label").type) if multi else best,
        "score": pa.array(scores[:, 0]),
        "calibrated": pa.nulls(count, pa.float32()),
        "cosine": pa.array(scores[:, 0]),
        "margin": pa.array(scores[:, 0] - scores[:, 1]),
        "entropy": pa.array(rng.random(count, np.float32)),
        "top_k": pa.ListArray.from_arrays(offsets, flat, type=TOP_K),
        "labels": given if multi else pa.nulls(count, LABELS.field("labels").type),
        "path": pa.nulls(count, LABELS.field("path").type),
        "created_at": pa.repeat(pa.scalar(_MADE, LABELS.field("created_at").type), count),
    }
    return _filled(columns, LABELS, count)


def _embeddings(rng: np.random.Generator, ids: list[str]) -> pa.Table:
    count = len(ids)
    schema = embeddings_schema(64)
    vectors = pa.array(rng.normal(size=count * 64).astype(np.float32))
    columns = {
        "image_id": pa.array(ids),
        "uri": pa.array([f"gs://bucket/photos/2026/{key}.jpg" for key in ids]),
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, type=schema.field("embedding").type),
        "width": pa.array(rng.integers(100, 4000, count), pa.int32()),
        "height": pa.array(rng.integers(100, 4000, count), pa.int32()),
        "bytes": pa.array(rng.integers(1000, 900_000, count), pa.int64()),
        "caption": pa.array([f"a photo of the thing number {number}" for number in range(count)]),
        "created_at": pa.repeat(pa.scalar(_MADE, schema.field("created_at").type), count),
    }
    return _filled(columns, schema, count)


def _filled(columns: dict[str, pa.Array], schema: pa.Schema, count: int) -> pa.Table:
    """Columns that do not matter here are one word, or null."""
    arrays = []
    for field in schema:
        found = columns.get(field.name)
        if found is None:
            found = pa.nulls(count, pa.string()) if field.nullable else pa.repeat(pa.scalar("review"), count)
            found = (
                found.cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(field.type) else found
            )
        arrays.append(found.cast(field.type) if found.type != field.type else found)
    return pa.Table.from_arrays(arrays, schema=schema)


if __name__ == "__main__":
    sys.exit(main())
