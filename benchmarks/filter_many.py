"""The whole selection of `beamclip filter --from-run` over many stored pairs, in this process: time and peak memory.

    python -m benchmarks.filter_many [ROWS ...]

The stored run is synthetic (embeddings of 4 dimensions, random scores and hashes; of every hundred rows one is an
exact and one a near duplicate of another). Each size runs in a process of its own; what is planted must be found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from clip_transforms.commits import EMBEDDINGS, Commit, write_commit
from clip_transforms.pairs.scores import keep_pairs
from clip_transforms.plan import Extension, close_extension
from clip_transforms.sink import PartWriter, new_attempt, part_stem
from clip_transforms.storage import Store
from clip_transforms.views import PAIRS
from pipelines.options import Identity
from schemas.embeddings import embeddings_schema
from schemas.scores import SCORES

_UNIT = 65_536
_DIM = 4
_PLAN = "0123abcd"
_EVERY = 100  # one row in so many is an exact duplicate, one a near one


def write_run(folder: Path, rows: int, *, seed: int = 0) -> None:
    """A run of `beamclip filter` with this many rows, made without an image."""
    store = Store(str(folder))
    rng = np.random.default_rng(seed)
    units = -(-rows // _UNIT)
    extension = Extension(
        name="0000",
        plan_id=_PLAN,
        run_id="synthetic",
        files=(),
        units=units,
        rows=rows,
        total_bytes=0,
        inputs=("none",),
        config={
            "identity": asdict(Identity(encoder="fake")),
            "encoder_name": "fake",
            "fingerprint": "f" * 32,
        },
        created_at="2026-01-01T00:00:00+00:00",
    )
    keep_pairs(store)
    close_extension(store, extension)
    hashes, digests = planted(rows, rng)
    for number in range(units):
        part = slice(number * _UNIT, min(rows, (number + 1) * _UNIT))
        _write_unit(store, number, part, hashes[part], digests[part], rng)


def planted(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hashes with 32 bits set each, and digests; rows 1 and 2 of each hundred repeat row 0's, exactly and nearly."""
    bits = rng.permuted(np.tile(np.arange(64) < 32, (rows, 1)), axis=1)
    hashes = np.packbits(bits, axis=1)
    digests = rng.integers(0, 256, (rows, 32), dtype=np.uint8)
    first = np.arange(0, rows - 2, _EVERY)
    hashes[first + 1], digests[first + 1] = hashes[first], digests[first]
    near = hashes[first].copy()
    near[:, 0] ^= 0b0000_0011
    hashes[first + 2] = near
    return hashes, digests


def _write_unit(
    store: Store, number: int, part: slice, hashes: np.ndarray, digests: np.ndarray, rng: np.random.Generator
) -> None:
    unit, count = f"{_PLAN}-0000-{number:06d}", part.stop - part.start
    ids = [f"{place * 2654435761 % 2**128:032x}" for place in range(part.start, part.stop)]
    uris = [f"https://host/{place}.jpg" for place in range(part.start, part.stop)]
    now = pa.repeat(pa.scalar(0, pa.timestamp("us", tz="UTC")), count)
    words = {
        name: pa.repeat(name, count).dictionary_encode() for name in ("fingerprint", "encoder", "run_id")
    }
    vectors = np.zeros((count, _DIM), np.float32)
    vectors[:, 0] = 1
    schema = embeddings_schema(_DIM)
    columns = {
        "image_id": ids,
        "uri": uris,
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), type=schema.field("embedding").type
        ),
        "width": [512] * count,
        "height": [384] * count,
        "format": pa.repeat("JPEG", count).dictionary_encode(),
        "bytes": [40_000] * count,
        "sha256": [row.tobytes().hex() for row in digests],
        "phash": [row.tobytes().hex() for row in hashes],
        "caption": [f"a caption of picture {place}" for place in range(part.start, part.stop)],
        "extra": pa.nulls(count, pa.string()),
        **words,
        "created_at": now,
    }
    scores = {
        "image_id": ids,
        "uri": uris,
        "text_embedding": pa.array(list(vectors), SCORES.field("text_embedding").type),
        "similarity": rng.normal(0.25, 0.05, count).astype(np.float32),
        "text_truncated": np.zeros(count, bool),
        **words,
        "created_at": now,
    }
    made = _commit(store, unit, "embed", pa.table(columns, schema=schema), EMBEDDINGS, ())
    _commit(store, unit, PAIRS.task, pa.table(scores, schema=SCORES), PAIRS.folder, made)


def _commit(
    store: Store, unit: str, task: str, table: pa.Table, folder: str, sources: Sequence[str]
) -> tuple[str, ...]:
    attempt = new_attempt()
    stem = part_stem(unit, task=task, attempt=attempt)
    writer = PartWriter(store, folder=folder, schema=table.schema, stem=stem)
    writer.write(table)
    parts = writer.close()
    embedded = table.num_rows if folder == EMBEDDINGS else 0
    commit = Commit(
        task=task,
        unit=unit,
        attempt=attempt,
        run_id="synthetic",
        fingerprint="f" * 32,
        created_at="2026-01-01T00:00:00+00:00",
        parts={folder: parts},
        embedded=embedded,
        sources=tuple(sources),
    )
    write_commit(store, commit)
    return tuple(part.name for part in parts)


def measure(run: Path, output: Path) -> tuple[float, float, dict[str, int]]:
    """Seconds and MiB of a selection in a process of its own, and what it dropped and kept."""
    how = ["--keep-top", "0.3", "--dedup", "near", "--quiet"]
    start = "import sys; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "filter", "--from-run", str(run), "--output", str(output), *how]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the filter ended with {os.waitstatus_to_exitcode(status)}")
    funnel = json.loads((output / "run.json").read_text())["filter"]
    return time.perf_counter() - began, usage.ru_maxrss / 1024, {"kept": funnel["kept"], **funnel["dropped"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("rows", nargs="*", type=int, default=[100_000, 1_000_000])
    print(f"{'rows':>10}{'seconds':>10}{'peak MiB':>10}{'exact':>9}{'near':>9}{'of each':>9}{'kept':>10}")
    for rows in parser.parse_args(argv).rows:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            write_run(run, rows)
            seconds, memory, counts = measure(run, Path(folder) / "output")
        exact, near = counts.get("duplicate_exact", 0), counts.get("duplicate_near", 0)
        planted_of_each = len(range(0, rows - 2, _EVERY))
        print(
            f"{rows:>10,}{seconds:>10.1f}{memory:>10.0f}{exact:>9,}{near:>9,}{planted_of_each:>9,}{counts['kept']:>10,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
