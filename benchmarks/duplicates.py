"""Time and memory of the search for ids that come twice: `python -m benchmarks.duplicates [ROWS]`."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from clip_transforms.duplicates import find_duplicates
from clip_transforms.sink import Part, PartWriter
from clip_transforms.storage import Store

_SCHEMA = pa.schema([pa.field("image_id", pa.string()), pa.field("uri", pa.string())])
_STEP = 1 << 16


def main(argv: list[str] | None = None) -> int:
    """Write ROWS ids (default 1,000,000) in four ways, search each, print a table."""
    rows = (
        int((sys.argv[1:] if argv is None else argv)[0])
        if (sys.argv[1:] if argv is None else argv)
        else 10**6
    )
    print(f"{'input':<34}{'ids twice':>10}{'seconds':>9}{'MiB more':>10}{'bytes a row':>13}")
    for label, distinct in (
        ("no id twice", rows),
        ("one id in a thousand twice", rows - rows // 1000),
        ("every id twice", rows // 2),
        ("one id for all", 1),
    ):
        measure(label, rows=rows, distinct=distinct)
    return 0


def measure(label: str, *, rows: int, distinct: int) -> None:
    """Search in a process of its own, so that its peak memory is its own too."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        parts = write_ids(store, rows=rows, distinct=distinct)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            before, began = _resident(), time.perf_counter()
            found = find_duplicates(store, parts)
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(writer, f"{found} {seconds} {peak - before}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        found, seconds, more = os.read(reader, 1000).decode().split()
        os.close(reader)
        os.close(writer)
        size = float(more)
        print(f"{label:<34}{int(found):>10,}{float(seconds):>9.2f}{size / 2**20:>10.1f}{size / rows:>13.1f}")


def write_ids(store: Store, *, rows: int, distinct: int) -> tuple[Part, ...]:
    """Parts of `rows` rows with ids from 0 to `distinct`, as 32 hex digits, and a uri each."""
    writer = PartWriter(store, folder="embeddings", schema=_SCHEMA, stem="part-benchmark")
    for start in range(0, rows, _STEP):
        numbers = np.arange(start, min(start + _STEP, rows))
        ids = [f"{int(number) % distinct * 0x9E3779B97F4A7C15 % 2**128:032x}" for number in numbers]
        uris = [f"gs://bucket/photos/{number:012d}.jpg" for number in numbers]
        writer.write(pa.table({"image_id": ids, "uri": uris}, schema=_SCHEMA))
    return writer.close()


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    raise SystemExit(main())
