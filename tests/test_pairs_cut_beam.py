"""The cut as a Beam step: equal to the sorted rule, whatever the runner and how scores lie in parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.pairs.cut import Cut, Search, count, keep_above
from clip_transforms.transforms.cut import AddCounts, FindCut
from tests.beam_kit import RUNNERS, run


def read(path: str) -> Iterator[Any]:
    scores = np.load(path)
    yield scores[:7]
    yield scores[7:]


def stored(folder: Path, *, dtype: str = "f4", parts: int = 9) -> tuple[list[str], Any]:
    rng = np.random.default_rng(3)
    scores = rng.normal(0.2, 0.06, 3000).astype(dtype)
    scores[rng.random(3000) < 0.1] = np.nan
    scores[100:200] = scores[300]
    paths = []
    for number, part in enumerate(np.array_split(scores, parts)):
        paths.append(str(folder / f"{number}.npy"))
        np.save(paths[-1], part)
    return paths, scores


def cut_of(paths: list[str], *, fraction: float, bits: int = 32, runner: str = "one thread") -> Cut:
    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        return {"cut": pipeline | beam.Create(paths) | FindCut(read=read, fraction=fraction, bits=bits)}

    (cut,) = run(build, runner=runner)["cut"]
    return cut


@pytest.mark.parametrize("runner", RUNNERS)
def test_equals_the_sorted_rule(tmp_path: Path, runner: str) -> None:
    paths, scores = stored(tmp_path)
    expected = -np.sort(-scores)[int(3000 * 0.3)]
    kept = int(keep_above(scores, expected).sum())
    cut = cut_of(paths, fraction=0.3, runner=runner)
    assert cut == Cut(threshold=float(expected), rows=3000, scored=int((scores == scores).sum()), kept=kept)


def test_of_float64_in_four_passes(tmp_path: Path) -> None:
    paths, scores = stored(tmp_path, dtype="f8", parts=3)
    assert cut_of(paths, fraction=0.5, bits=64).threshold == -np.sort(-scores)[1500]


@pytest.mark.parametrize("fraction", [1.0, 0.95])
def test_all_that_have_a_score(tmp_path: Path, fraction: float) -> None:
    paths, scores = stored(tmp_path)
    cut = cut_of(paths, fraction=fraction)
    assert (cut.threshold, cut.kept) == (-np.inf, int((scores == scores).sum()))


def test_no_scores_at_all() -> None:
    assert cut_of([], fraction=0.3) == Cut(threshold=-np.inf, rows=0, scored=0, kept=0)


def test_a_wrong_fraction_is_refused_on_the_launcher() -> None:
    with pytest.raises(RequestError, match="the fraction to keep is 30: expected more than 0"):
        FindCut(read=read, fraction=30)


def test_what_travels_is_small_and_adds_up() -> None:
    scores = np.random.default_rng(0).normal(0.25, 0.05, 65_536).astype(np.float32)
    search = Search(fraction=0.3)
    combine = AddCounts()
    halves = [
        combine.add_input(combine.create_accumulator(), count(part, search)) for part in np.split(scores, 2)
    ]
    merged = combine.extract_output(combine.merge_accumulators(halves))
    assert merged.rows.sum() == len(scores)
    assert merged.digits.nbytes + merged.rows.nbytes < scores.nbytes / 10
