"""Beam's counters and distributions of the public transforms, named as those of a run are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apache_beam.metrics import Metrics

from clip_transforms.elements import Failure
from clip_transforms.engine import EngineStats, Spread

NAMESPACE = "beamclip"


def count(numbers: Mapping[str, int]) -> None:
    """Add to counters; to be called from the thread that runs the DoFn."""
    for name, number in numbers.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def count_failures(failures: Iterable[Failure]) -> None:
    """`failed`, and `failed_<stage>_<reason>` for each."""
    for failure in failures:
        count({"failed": 1, f"failed_{failure.stage.value}_{failure.reason.value}": 1})


def count_costs(stats: EngineStats) -> None:
    """The distributions `bytes`, `fetch_ms`, `decode_ms` and `encode_ms` of embedded images."""
    for name in ("bytes", "fetch_ms", "decode_ms", "encode_ms"):
        _count_spread(name, getattr(stats, name))


def _count_spread(name: str, spread: Spread) -> None:
    """A distribution that has the spread's count, least, greatest and (to a millisecond a row) sum."""
    distribution = Metrics.distribution(NAMESPACE, name)
    ends = [spread.min, spread.max][: spread.count]
    inner = spread.count - len(ends)
    mean = (spread.sum - sum(ends)) / inner if inner else 0.0
    for value in (*ends, *(mean for _ in range(inner))):
        distribution.update(round(value))
