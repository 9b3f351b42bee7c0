"""Whether the guarantee of `beamclip calibrate` holds, and what it costs: audits of populations whose truth is known.

    python -m benchmarks.auto_accept [--repeats 2000] [--target 0.95] [--confidence 0.95]

Populations of 100,000 scored images are made in code: softmax scores of few and many classes, well and badly
calibrated, with a contaminated top, with ties, and two in which hardly any or no cut is good enough. From each,
audits of 300, 500 and 1,000 images are drawn at random, and the cut is chosen by the function that the command
uses. Printed are the share of audits that are refused; the share whose accepted images have a true precision below
the target, with its upper 95 % limit (Clopper-Pearson, one-sided), which must not exceed 1 - confidence; the median
share of images accepted, and that as a part of what an oracle accepts who knows the truth. The last columns choose
the cut by the precision seen in the audit instead: the largest set of at least as many audited images whose share
of right ones is the target.

Below: the same for a cut a class, where one class under the target breaks the promise; and audits that are looked
at again and again until something is accepted, which the promise does not cover.

Exits 1 where a limit is broken, or where at 1,000 audited images less than 0.8 of the oracle's is accepted in the
median (but for the populations that are made to be hard).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from clip_transforms.auto_accept import Choice, choose, choose_per_class, least_accepted

_ROWS = 100_000
_AUDITS = (300, 500, 1000)
_LEAST_COVERAGE = 0.8  # of the oracle's
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population:
    """Scored images with what is true of them. label: [N] places in names, -1 where abstained."""

    score: Floats
    right: Bools
    label: Ints
    names: tuple[str, ...]
    hard: bool = False  # no coverage is promised


class Truth:
    """The true precision and size of what any cut accepts, among some rows of a population."""

    def __init__(self, score: Floats, right: Bools, *, rows: int) -> None:
        order = np.argsort(score, kind="stable")
        self._score = score[order]
        self._right = np.append(np.cumsum(right[order][::-1])[::-1], 0)
        self._rows = rows

    def of(self, cut: float) -> tuple[float, float]:
        """Precision and coverage of the rows at or above the cut."""
        first = int(np.searchsorted(self._score, np.float32(cut), side="left"))
        accepted = len(self._score) - first
        return (self._right[first] / accepted if accepted else 1.0), accepted / self._rows

    def oracle(self, target: float) -> float:
        """The largest coverage of a cut whose precision is the target."""
        sizes = np.arange(len(self._score), 0, -1)
        edges = np.append(True, self._score[1:] > self._score[:-1])  # rows of one score stand together
        good = edges & (self._right[:-1] >= target * sizes)
        return float(sizes[good][0] / self._rows) if good.any() else 0.0


def softmax_population(
    classes: int, *, signal: float, confidence: float, seed: int, threshold: float = 0.0, hard: bool = False
) -> Population:
    """Logits with a signal of random strength for the true class; confidence: what they are multiplied by."""
    rng = np.random.default_rng(seed)
    score, right, label = [], [], []
    for rows in np.array_split(np.arange(_ROWS), 10):
        logits = rng.standard_normal((len(rows), classes), np.float32)
        truth = rng.integers(0, classes, len(rows))
        logits[np.arange(len(rows)), truth] += rng.gamma(2.0, 1.0, len(rows)).astype(np.float32) * signal
        powers = np.exp(confidence * (logits - logits.max(axis=1, keepdims=True)))
        best = logits.argmax(axis=1)
        score.append((1 / powers.sum(axis=1)).astype(np.float32))
        right.append(best == truth)
        label.append(best)
    scores = np.concatenate(score)
    labels = np.where(scores >= threshold, np.concatenate(label), -1).astype(np.int32)
    names = tuple(f"class{number}" for number in range(classes))
    return Population(score=scores, right=np.concatenate(right), label=labels, names=names, hard=hard)


def contaminated(seed: int) -> Population:
    """The surest 3 % are right in 90 % of cases only: a pattern that fools the model."""
    found = softmax_population(20, signal=2.0, confidence=1.0, seed=seed, hard=True)
    rng = np.random.default_rng(seed)
    top = found.score >= np.quantile(found.score, 0.97)
    right = np.where(top, rng.random(len(top)) < 0.9, found.right)
    return Population(score=found.score, right=right, label=found.label, names=found.names, hard=True)


def flat(precision: float, seed: int) -> Population:
    """The score says nothing: every cut has this precision, a little below the target."""
    rng = np.random.default_rng(seed)
    score = rng.random(_ROWS).astype(np.float32)
    right = rng.random(_ROWS) < precision
    label = np.zeros(_ROWS, np.int32)
    return Population(score=score, right=right, label=label, names=("class0",), hard=True)


def slow(seed: int) -> Population:
    """The precision falls so slowly that even the surest rows are hardly better than the target."""
    rng = np.random.default_rng(seed)
    score = rng.random(_ROWS).astype(np.float32)
    chance = 0.985 - 0.1 * (1 - score) ** 1.2 - 0.3 * np.maximum(0, 0.5 - score)
    right = rng.random(_ROWS) < chance
    label = np.zeros(_ROWS, np.int32)
    return Population(score=score, right=right, label=label, names=("class0",), hard=True)


def rounded(seed: int) -> Population:
    """Scores of two digits: many rows are alike."""
    found = softmax_population(20, signal=2.0, confidence=1.0, seed=seed)
    score = np.round(found.score, 2)
    return Population(score=score, right=found.right, label=found.label, names=found.names)


def populations() -> Mapping[str, Callable[[], Population]]:
    """By name; made when asked for."""
    return {
        "2 classes, calibrated": lambda: softmax_population(2, signal=1.5, confidence=1.0, seed=1),
        "5 classes, calibrated": lambda: softmax_population(5, signal=1.5, confidence=1.0, seed=2),
        "5 classes, overconfident": lambda: softmax_population(5, signal=1.5, confidence=5.0, seed=3),
        "100 classes, calibrated": lambda: softmax_population(100, signal=2.0, confidence=1.0, seed=4),
        "100 classes, overconfident": lambda: softmax_population(100, signal=2.0, confidence=6.0, seed=5),
        "100 classes, underconfident": lambda: softmax_population(100, signal=2.5, confidence=0.4, seed=6),
        "100 classes, some abstain": lambda: softmax_population(
            100, signal=2.0, confidence=1.0, seed=7, threshold=0.08
        ),
        "20 classes, rounded scores": lambda: rounded(8),
        "20 classes, wrong at the top": lambda: contaminated(9),
        "20 classes, a hard set": lambda: softmax_population(
            20, signal=1.0, confidence=1.0, seed=10, hard=True
        ),
        "precision falls slowly": lambda: slow(12),
        "no cut is good (0.5 points short)": lambda: flat(0.945, 11),
    }


def by_seen_precision(score: Floats, right: Bools, *, target: float, least: int) -> float | None:
    """The contrast: the cut of the largest accepted set in which the share of right ones is the target."""
    order = np.argsort(-score, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(shares >= target)
    good = good[good >= least - 1]
    return float(score[order][good[-1]]) if len(good) else None


@dataclass(slots=True)
class Tally:
    """What came of the repeats of one case."""

    refused: int = 0
    broken: int = 0
    coverage: list[float] = field(default_factory=list)

    def add(self, precision: float | None, coverage: float, target: float) -> None:
        """precision: None where nothing is accepted."""
        self.coverage.append(coverage)
        self.refused += precision is None
        self.broken += precision is not None and precision < target

    def upper(self) -> float:
        """The upper 95 % limit of the share of broken promises."""
        repeats = len(self.coverage)
        return float(beta.ppf(0.95, self.broken + 1, repeats - self.broken)) if repeats > self.broken else 1.0

    def median(self) -> float:
        """Of the coverage."""
        return float(np.median(self.coverage))


def draw(population: Population, size: int, rng: np.random.Generator) -> tuple[Floats, Bools, Ints]:
    """The rows of an audit that have a label."""
    rows = rng.choice(len(population.score), size, replace=False, shuffle=False)
    rows = rows[population.label[rows] >= 0]
    return population.score[rows], population.right[rows], population.label[rows]


def cut_of(choice: Choice) -> float | None:
    """Of a choice with one walk."""
    chosen = choice.walks[None].chosen
    return None if chosen is None else chosen.cut


def one_cut(name: str, population: Population, args: argparse.Namespace) -> bool:
    """A table line for each size of audit; whether all limits hold."""
    has = population.label >= 0
    truth = Truth(population.score[has], population.right[has], rows=len(has))
    oracle, delta = truth.oracle(args.target), 1 - args.confidence
    sound = True
    for size in _AUDITS:
        rng = np.random.default_rng(size)
        ours, seen = Tally(), Tally()
        for _ in range(args.repeats):
            score, right, _ = draw(population, size, rng)
            cut = cut_of(choose(score, right, target=args.target, delta=delta))
            least = least_accepted(args.target, delta)
            rival = by_seen_precision(score, right, target=args.target, least=least)
            for tally, chosen in ((ours, cut), (seen, rival)):
                precision, coverage = (None, 0.0) if chosen is None else truth.of(chosen)
                tally.add(precision, coverage, args.target)
        share = ours.median() / oracle if oracle else None
        print(_line(name, size, ours, share, args.repeats), f"{seen.broken / args.repeats:>8.1%}", flush=True)
        sound &= ours.upper() <= delta
        if size == _AUDITS[-1] and not population.hard:
            sound &= share is not None and share >= _LEAST_COVERAGE
    return sound


def per_class(name: str, population: Population, args: argparse.Namespace, sizes: Sequence[int]) -> bool:
    """The same with a cut a class; the oracle chooses a cut for each class too."""
    delta, rows = 1 - args.confidence, len(population.score)
    truths = {
        label: Truth(
            population.score[population.label == place],
            population.right[population.label == place],
            rows=rows,
        )
        for place, label in enumerate(population.names)
    }
    oracle = sum(truth.oracle(args.target) for truth in truths.values())
    sound = True
    for size in sizes:
        rng = np.random.default_rng(size)
        tally = Tally()
        for _ in range(args.repeats):
            score, right, label = draw(population, size, rng)
            choice = choose_per_class(score, right, label, population.names, target=args.target, delta=delta)
            found = [truths[key].of(cut) for key, cut in choice.accept(population.names).items()]
            worst = min((precision for precision, _ in found), default=None)
            tally.add(worst, sum(coverage for _, coverage in found), args.target)
        print(_line(name, size, tally, tally.median() / oracle, args.repeats), flush=True)
        sound &= tally.upper() <= delta
    return sound


def looked_at_again(name: str, population: Population, args: argparse.Namespace) -> None:
    """One audit that grows until something is accepted."""
    has = population.label >= 0
    truth = Truth(population.score[has], population.right[has], rows=len(has))
    rng = np.random.default_rng(0)
    tally = Tally()
    for _ in range(args.repeats):
        score, right, _ = draw(population, _AUDITS[-1], rng)
        cut = None
        for size in (*_AUDITS[:-1], len(score)):
            cut = cut_of(choose(score[:size], right[:size], target=args.target, delta=1 - args.confidence))
            if cut is not None:
                break
        precision, coverage = (None, 0.0) if cut is None else truth.of(cut)
        tally.add(precision, coverage, args.target)
    oracle = truth.oracle(args.target)
    share = tally.median() / oracle if oracle else None
    print(_line(name, f"{_AUDITS[0]} to {_AUDITS[-1]}", tally, share, args.repeats), flush=True)


def _line(name: str, size: object, tally: Tally, share: float | None, repeats: int) -> str:
    part = "       -" if share is None else f"{share:>8.2f}"
    return (
        f"{name:<34} {size!s:>11} {tally.refused / repeats:>8.1%} {tally.broken / repeats:>8.2%} "
        f"{tally.upper():>8.2%} {tally.median():>8.1%} {part}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args(argv)
    started = time.perf_counter()
    head = (
        f"{'':<34} {'audit':>11} {'refused':>8} {'broken':>8} {'at most':>8} {'accepted':>8} {'/ oracle':>8}"
    )
    print(f"{args.repeats:,} audits each; target {args.target:g} at confidence {args.confidence:g}\n")
    print(f"{head} {'if seen':>8}")
    made = {name: make() for name, make in populations().items()}
    sound = [one_cut(name, population, args) for name, population in made.items()]
    print(f"\na cut a class\n{head}")
    for name, sizes in (
        ("2 classes, calibrated", (500, 1000, 3000)),
        ("5 classes, overconfident", (1000, 3000)),
    ):
        sound.append(per_class(name, made[name], args, sizes))
    print(f"\nlooked at again at {', '.join(map(str, _AUDITS))}: not covered by the promise\n{head}")
    for name in ("5 classes, calibrated", "20 classes, a hard set", "no cut is good (0.5 points short)"):
        looked_at_again(name, made[name], args)
    print(
        f"\n{'all limits hold' if all(sound) else 'A LIMIT IS BROKEN'}, {time.perf_counter() - started:.0f} s"
    )
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
