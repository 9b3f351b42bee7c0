"""The cut on a runner: each pass counts where the scores are stored, and only counts travel."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection

from clip_transforms.pairs.cut import NO_COUNTS, Counts, Cut, Scores, Search, count, found, narrow

Read = Callable[[Any], Iterable[Scores]]


@dataclass(eq=False, kw_only=True)
class FindCut(beam.PTransform[Any, Any]):
    """Elements that name stored scores -> one `Cut`, equal to `clip_transforms.pairs.cut.top_fraction`'s.

    read: an element -> its scores in chunks, float32 (NaN: no score); called twice for each element, on the
    workers. What is shuffled: for each element, and less where the runner combines before it shuffles, at
    most one pair (2 bytes and 8) for each different value of 16 bits of its scores.

    Raises:
        RequestError: `fraction` is not in (0, 1].
    """

    read: Read
    fraction: float
    bits: int = 32  # 64 for float64, read four times

    def __post_init__(self) -> None:
        """Check the fraction."""
        super().__init__()
        self.start = Search(fraction=self.fraction, bits=self.bits)

    def expand(self, stored: PCollection[Any]) -> PCollection[Cut]:
        """Add a step of counting and one of narrowing for each pass."""
        search = stored.pipeline | "Begin" >> beam.Create([self.start])
        for number in range(1, self.bits // 16 + 1):
            counts = (
                stored
                | f"Count{number}" >> beam.Map(count_stored, self.read, AsSingleton(search))
                | f"Add{number}" >> beam.CombineGlobally(AddCounts()).with_defaults()
            )
            search = counts | f"Narrow{number}" >> beam.Map(_narrow, AsSingleton(search))
        return search | "Cut" >> beam.Map(found)


class AddCounts(beam.CombineFn):
    """Adds `Counts`; an accumulator has at most 65,536 counters, and only those that are not zero."""

    def create_accumulator(self) -> Counts:
        """Nothing counted."""
        return NO_COUNTS

    def add_input(self, accumulator: Counts, element: Counts) -> Counts:
        """One more part."""
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Counts]) -> Counts:
        """Of several bundles."""
        return sum(accumulators, start=NO_COUNTS)

    def extract_output(self, accumulator: Counts) -> Counts:
        """The sum."""
        return accumulator


def count_stored(element: Any, read: Read, search: Search) -> Counts:
    """What a pass counts in the scores of one element; nothing is read once the threshold is known."""
    if search.done:
        return NO_COUNTS
    return sum((count(scores, search) for scores in read(element)), start=NO_COUNTS)


def _narrow(counts: Counts, search: Search) -> Search:
    return search if search.done else narrow(search, counts)
