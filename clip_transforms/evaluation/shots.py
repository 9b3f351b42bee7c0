"""The few-shot comparison: which images train and which test, the probes' curve, and what zero-shot equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.metrics import Figure, Int64, Interval, share
from clip_transforms.evaluation.probe import Probe, fit_probe
from clip_transforms.evaluation.split import ShotOptions, Split, draw_shots
from clip_transforms.probabilities import Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotPoint:
    """One point of the curve. accuracies: one a draw; one in all where every class gives all its images, for
    then all draws are the same. short: classes with fewer images, which gave all.
    """

    shots: int
    accuracies: tuple[float, ...]
    mean: float
    interval: Interval | None  # 95 %, of the mean over draws (Student's t); None of a single draw
    short: tuple[str, ...]
    c: tuple[float, ...]  # the penalty's, one a draw
    unconverged: int  # draws


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """Probes against zero-shot on the same test images.

    zero_shot: choosing among the classes that the probes know; zero_shot_all: among all of the set.
    """

    train_images: int  # to draw from
    test_images: int
    classes: tuple[str, ...]
    left_out: tuple[str, ...]  # classes with too few different images to train and test on
    skipped: tuple[int, ...]  # shot counts that no class has
    zero_shot: Figure
    zero_shot_all: Figure
    points: tuple[ShotPoint, ...]
    equal_shots: float | None  # None: zero-shot is not equalled within the range
    sentence: str


def few_shot(
    split: Split,
    batches: Callable[[], Iterable[Float32]],
    rank: Callable[[Float32], tuple[Int64, Int64]],
    options: ShotOptions,
    *,
    names: Sequence[str],
    report: Callable[[str], None] = lambda _: None,
) -> FewShot:
    """Fit the probes and test them, and zero-shot, on the same images.

    batches: gives the embeddings [n, D] in the order of the split, anew at each call. rank: of embeddings,
    zero-shot's best class among the split's (its place in them) and among all of the set's. names: of the
    set's classes. report: is told of each shot count, which may take minutes.
    Raises RequestError where no class has enough images for any of the shot counts.
    Memory: the training images of all draws, and one batch.
    """
    longest = max(len(pool) for pool in split.pools)
    shots = [count for count in sorted(set(options.shots)) if count <= longest]
    skipped = tuple(count for count in sorted(set(options.shots)) if count > longest)
    if not shots:
        raise RequestError(
            f"--few-shot {' '.join(map(str, skipped))}: no class has so many images to train on; the most is "
            f"{longest}, of which a class keeps {1 - options.test_share:.0%} of its images. Ask for fewer"
        )
    draws = [draw_shots(split, options, draw=draw) for draw in range(options.draws)]
    vectors = _vectors({int(row) for drawn in draws for rows in drawn for row in rows}, batches())
    probes: dict[int, list[Probe]] = {}
    for count in shots:
        used = draws if any(len(pool) > count for pool in split.pools) else draws[:1]
        report(f"few-shot: {count} a class, {len(used)} draws")
        probes[count] = [_probe(drawn, count, vectors, seed=options.seed) for drawn in used]
    tested = _test(split, batches(), rank, probes)
    points = tuple(_point(count, probes[count], tested, split, names) for count in shots)
    zero_shot = share(tested.zero_shot, tested.images)
    equal, sentence = equal_shots([(one.shots, one.mean) for one in points], zero_shot.value or 0.0)
    return FewShot(
        train_images=sum(map(len, split.pools)),
        test_images=tested.images,
        classes=tuple(names[one] for one in split.classes.tolist()),
        left_out=tuple(names[one] for one in split.left_out.tolist()),
        skipped=skipped,
        zero_shot=zero_shot,
        zero_shot_all=share(tested.zero_shot_all, tested.images),
        points=points,
        equal_shots=equal,
        sentence=sentence,
    )


def equal_shots(curve: Sequence[tuple[int, float]], level: float) -> tuple[float | None, str]:
    """How many shots a level of accuracy equals, by the curve's first crossing, straight in log2 of the shots;
    and one sentence that says so, or that it does not within the range.

    >>> equal_shots([(1, 0.4), (4, 0.6)], 0.5)
    (2.0, 'Zero-shot (50.0%) equals about a 2-shot probe (1 shot: 40.0%, 4 shots: 60.0%).')
    >>> equal_shots([(1, 0.4), (4, 0.6)], 0.7)[1]
    'Zero-shot (70.0%) is above the 4-shot probe (60.0%), the most that was tried: no probe here equals it.'
    """
    told = f"Zero-shot ({level:.1%})"
    for (shots, reached), (more, later) in zip(curve, curve[1:] or curve, strict=False):
        if reached == level or (len(curve) > 1 and (reached - level) * (later - level) <= 0):
            way = 0.0 if reached == level else (level - reached) / (later - reached)
            found = 2 ** (math.log2(shots) + way * (math.log2(more) - math.log2(shots)))
            ends = f"{_counted(shots)}: {reached:.1%}, {_counted(more)}: {later:.1%}"
            if reached == level:
                ends = f"{_counted(shots)}: {reached:.1%}"
            return found, f"{told} equals about a {found:.2g}-shot probe ({ends})."
    if level < curve[0][1]:
        return (
            None,
            f"{told} is below the {curve[0][0]}-shot probe ({curve[0][1]:.1%}), the least that was tried.",
        )
    last, reached = curve[-1]
    most = f"the {last}-shot probe ({reached:.1%}), the most that was tried"
    return None, f"{told} is above {most}: no probe here equals it."


@dataclass(slots=True)
class _Tested:
    images: int = 0
    zero_shot: int = 0
    zero_shot_all: int = 0
    right: dict[tuple[int, int], int] = field(default_factory=dict)  # by shots and draw


def _test(
    split: Split,
    batches: Iterable[Float32],
    rank: Callable[[Float32], tuple[Int64, Int64]],
    probes: Mapping[int, Sequence[Probe]],
) -> _Tested:
    tested, start = _Tested(), 0
    for batch in batches:
        rows = slice(start, start + len(batch))
        start += len(batch)
        embeddings, truth = batch[split.test[rows]], split.place[rows][split.test[rows]]
        if not len(truth):
            continue
        best, best_of_all = rank(embeddings)
        tested.images += len(truth)
        tested.zero_shot += int((best == truth).sum())
        tested.zero_shot_all += int((best_of_all == split.classes[truth]).sum())
        for count, drawn in probes.items():
            for draw, probe in enumerate(drawn):
                right = int((probe.predict(embeddings) == truth).sum())
                tested.right[count, draw] = tested.right.get((count, draw), 0) + right
    return tested


def _vectors(wanted: set[int], batches: Iterable[Float32]) -> dict[int, Float32]:
    found: dict[int, Float32] = {}
    start = 0
    for batch in batches:
        for row in range(start, start + len(batch)):
            if row in wanted:
                found[row] = batch[row - start].copy()
        start += len(batch)
    return found


def _probe(drawn: Sequence[Int64], count: int, vectors: Mapping[int, Float32], *, seed: int) -> Probe:
    rows = [(place, int(row)) for place, ordered in enumerate(drawn) for row in ordered[:count]]
    return fit_probe(
        np.stack([vectors[row] for _, row in rows]),
        np.array([place for place, _ in rows], np.int32),
        seed=seed,
    )


def _point(
    count: int, probes: Sequence[Probe], tested: _Tested, split: Split, names: Sequence[str]
) -> ShotPoint:
    accuracies = tuple(tested.right[count, draw] / tested.images for draw in range(len(probes)))
    return ShotPoint(
        shots=count,
        accuracies=accuracies,
        mean=float(np.mean(accuracies)),
        interval=_t_interval(accuracies),
        short=tuple(
            names[one]
            for one, pool in zip(split.classes.tolist(), split.pools, strict=True)
            if len(pool) < count
        ),
        c=tuple(probe.c for probe in probes),
        unconverged=sum(not probe.converged for probe in probes),
    )


def _t_interval(values: Sequence[float]) -> Interval | None:
    """Of the mean of draws, by Student's t. It tells of the draws alone: all share one set of test images."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return max(0.0, middle - half), min(1.0, middle + half)


def _counted(shots: int) -> str:
    return f"{shots} shot{'' if shots == 1 else 's'}"
