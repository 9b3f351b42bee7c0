"""Our lists of kept uids against those of DataComp's own baseline: `python -m benchmarks.datacomp CHECKOUT`.

CHECKOUT is a checkout of https://github.com/mlfoundations/datacomp; its `clip_score` baseline is run as it is
(modules that it imports for other baselines are left empty), on scores of seven kinds. Needs pandas and tqdm.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_transforms.pairs.cut import keep_above, top_fraction
from clip_transforms.pairs.uids import uid_array, uid_bytes

_KEY = "clip_l14_similarity_score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Rows, the cut, and the type of the scores."""

    rows: int
    fraction: float | None = None
    threshold: float | None = None
    bits: int = 32


CASES = (
    Case(rows=1000, fraction=0.3),
    Case(rows=100_000, fraction=0.3),
    Case(rows=100_000, fraction=0.29, bits=64),
    Case(rows=50_000, threshold=0.28),
    Case(rows=50_000, threshold=0.22, bits=64),
    Case(rows=5000, fraction=0.001),
    Case(rows=1_000_000, fraction=0.3),
)


def main(argv: list[str] | None = None) -> int:
    """Print a line for each case; 1 if a list differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datacomp", description=__doc__)
    parser.add_argument("checkout", help="folder of a checkout of mlfoundations/datacomp")
    baseline = load_baseline(parser.parse_args(argv).checkout)
    print(f"{'rows':>10}  {'cut':<16}{'scores':<9}{'uids kept':>10}  bytes")
    differ = 0
    for number, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as folder:
            same, kept = compare(baseline, case, Path(folder), np.random.default_rng(number))
        cut = f"best {case.fraction:g}" if case.fraction else f"from {case.threshold:g}"
        print(
            f"{case.rows:>10,}  {cut:<16}float{case.bits:<4}{kept:>10,}  {'equal' if same else 'DIFFERENT'}"
        )
        differ += not same
    return int(differ > 0)


def load_baseline(checkout: str) -> Any:
    """DataComp's `baselines.apply_filter`."""
    sys.path.insert(0, checkout)
    for name in ("fasttext", "gcld3", "nltk", "nltk.corpus"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["fasttext"].FastText = ModuleType("FastText")  # type: ignore[attr-defined]
    sys.modules["nltk.corpus"].wordnet = None  # type: ignore[attr-defined]
    return importlib.import_module("baselines.apply_filter")


def compare(baseline: Any, case: Case, folder: Path, rng: np.random.Generator) -> tuple[bool, int]:
    """Whether both lists are the same bytes, and the number of uids."""
    chunks, uids = [], []
    for part in range(5):
        scores = rng.normal(0.22, 0.06, case.rows // 5).astype(f"f{case.bits // 8}")
        scores[::7] = scores[::7].round(2)  # ties
        chunks.append(scores)
        some = [rng.bytes(16).hex() for _ in scores]
        table = pa.table({"uid": some, "text": ["a text"] * len(some), _KEY: scores})
        pq.write_table(table, folder / f"{part}.parquet")
        uids += some
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        theirs = baseline.load_uids_with_clip_score(str(folder), "l14", case.threshold, case.fraction, 2)
    theirs.sort()  # as its `apply_filter` does, and saves
    file = io.BytesIO()
    np.save(file, theirs)
    if case.fraction is None:
        threshold = float(case.threshold or 0)
    else:
        threshold = top_fraction(lambda: chunks, case.fraction, bits=case.bits).threshold
    kept = np.flatnonzero(keep_above(np.concatenate(chunks), threshold))
    return uid_bytes(uid_array(uids[row] for row in kept)) == file.getvalue(), len(theirs)


if __name__ == "__main__":
    raise SystemExit(main())
