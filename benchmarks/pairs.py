"""What the cut and the search for duplicates find, and their time and memory: `python -m benchmarks.pairs`.

Prints the exact cut of stored scores, with DataComp's list of uids; near duplicates among many hashes; semantic
duplicates among many vectors; planted copies of generated pictures and of the shipped drawings, found by hash
at each distance, and the same found by embedding (`--no-encoder` leaves that out).
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measured import measured
from benchmarks.pairs_copies import planted_tables
from benchmarks.pairs_many import near_table, semantic_line
from clip_transforms.pairs.cut import keep_above, top_fraction
from clip_transforms.pairs.uids import uid_array, uid_bytes

_STEP = 1 << 16
_FRACTION = 0.3


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=10**6, help="rows of the large inputs (default 1,000,000)"
    )
    parser.add_argument("--pictures", type=int, default=300, help="generated pictures (default 300)")
    parser.add_argument("--no-encoder", action="store_true", help="leave out what needs an encoder")
    options = parser.parse_args(argv)
    cut_table(options.rows)
    near_table(options.rows)
    semantic_line(options.rows // 10)
    planted_tables(options.pictures, encoder=not options.no_encoder)
    return 0


def cut_table(rows: int) -> None:
    """The cut of stored scores against all scores sorted in memory, and the bytes of the uid lists of both."""
    print(f"The best {_FRACTION:g} of stored scores (Parquet, read twice), one core")
    print(
        f"{'rows':>12}{'kept':>12}{'seconds':>9}{'MiB more':>10}  as the sorted scores  uid bytes as DataComp's"
    )
    for count in (rows // 10, rows, rows * 10):
        with tempfile.TemporaryDirectory() as folder:
            paths = write_scores(Path(folder), count)
            threshold, kept, seconds, more = measured(lambda paths=paths: cut_of(paths))
            scores = np.concatenate(list(stored(paths)))
            expected = -np.sort(-scores)[int(count * _FRACTION)]  # DataComp's rule
            same = threshold == float(expected) and int(kept) == int((scores >= expected).sum())
            uids = "-" if count > rows else _word(same_uids(scores, threshold, expected))
            del scores
        print(f"{count:>12,}{int(kept):>12,}{seconds:>9.2f}{more / 2**20:>10.1f}  {_word(same):<20}  {uids}")
    print()


def write_scores(folder: Path, rows: int) -> list[str]:
    """Parts of up to 1,000,000 float32 scores, as CLIP's cosines are: a tenth of them with few digits, so tied."""
    paths = []
    for number, start in enumerate(range(0, rows, 10**6)):
        rng = np.random.default_rng(number)
        scores = rng.normal(0.22, 0.06, min(10**6, rows - start)).astype(np.float32)
        scores[::10] = scores[::10].round(2)
        paths.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.table({"similarity": scores}), paths[-1], row_group_size=_STEP)
    return paths


def stored(paths: list[str]) -> Iterator[Any]:
    """The scores in chunks."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_STEP):
                yield batch.column(0).to_numpy()


def cut_of(paths: list[str]) -> tuple[float, float]:
    """Threshold and rows kept."""
    cut = top_fraction(lambda: stored(paths), _FRACTION)
    return cut.threshold, cut.kept


def same_uids(scores: Any, threshold: float, expected: Any) -> bool:
    """Whether our list of the kept is, to the byte, the one that DataComp's own steps give."""
    rng = np.random.default_rng(11)
    uids = [data.hex() for data in map(rng.bytes, [16] * len(scores))]
    theirs = np.array(
        [(int(uids[row][:16], 16), int(uids[row][16:], 16)) for row in np.flatnonzero(scores >= expected)],
        np.dtype("u8,u8"),
    )
    theirs.sort()
    file = io.BytesIO()
    np.save(file, theirs)
    ours = uid_array(uids[row] for row in np.flatnonzero(keep_above(scores, threshold)))
    return uid_bytes(ours) == file.getvalue()


def _word(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


if __name__ == "__main__":
    raise SystemExit(main())
