"""Which images of an evaluation train the few-shot probes and which test them: seeded, by the images' bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.metrics import Bool, Int64
from clip_transforms.probabilities import Int32

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotOptions:
    """shots: images a class that a probe is trained on. draws: random choices of them for each shot count.
    test_share: of each class, kept apart to test on.
    """

    shots: tuple[int, ...]
    draws: int = 5
    test_share: float = 0.5
    seed: int = 0


@dataclass(slots=True)
class Gathered:
    """What the first pass keeps: 12 bytes an image, in the order of reading."""

    truth: list[Int32] = field(default_factory=list)  # places in the set's classes; negative: not used
    keys: list[Keys] = field(default_factory=list)  # of the image's bytes

    def add(self, truth: Int32, keys: Keys) -> None:
        """Take a batch."""
        self.truth.append(truth)
        self.keys.append(keys)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Rows to train and to test on. classes: places in the set's classes, [K]; all else goes by their order."""

    classes: Int64
    left_out: Int64
    pools: tuple[Int64, ...]  # rows of each class to draw shots from, in an order that is the images' own
    test: Bool  # [rows]
    place: Int32  # [rows], in `classes`; -1 for other rows


def split_rows(gathered: Gathered, options: ShotOptions, *, classes: int) -> Split:
    """Keep a share of each class apart for testing; seeded, and the same in whatever order rows were read.

    Images with the same bytes go to one side. A class needs two different images. Raises RequestError where
    fewer than two classes have them.
    """
    truth, keys = np.concatenate(gathered.truth), np.concatenate(gathered.keys)
    mixed = _mixed(keys, options.seed)
    test = np.zeros(len(truth), bool)
    place = np.full(len(truth), -1, np.int32)
    used: list[int] = []
    left_out: list[int] = []
    pools: list[Int64] = []
    for one in range(classes):
        rows = np.flatnonzero(truth == one)
        if not len(rows):
            continue
        rows = rows[np.argsort(mixed[rows], kind="stable")]
        cut = _cut(mixed[rows], options.test_share)
        if cut is None:
            left_out.append(one)
            continue
        place[rows] = len(used)
        used.append(one)
        test[rows[:cut]] = True
        pools.append(rows[cut:])
    if len(used) < 2:
        raise RequestError(
            f"--few-shot: {len(used)} classes have two different images, one to train and one to test on; "
            "at least two must. Leave --few-shot out, or give more images"
        )
    return Split(
        classes=np.array(used), left_out=np.array(left_out, int), pools=tuple(pools), test=test, place=place
    )


def draw_shots(split: Split, options: ShotOptions, *, draw: int) -> list[Int64]:
    """For one draw, each class's rows in the order in which they are used: k shots are the first k."""
    rng = np.random.default_rng([options.seed, draw])
    return [pool[rng.permutation(len(pool))][: max(options.shots)] for pool in split.pools]


def _cut(mixed: Keys, test_share: float) -> int | None:
    """Where a class's sorted rows are cut into test and training; None where that cannot be done."""
    ends = np.flatnonzero(mixed[1:] != mixed[:-1]) + 1  # between images that differ
    if not len(ends):
        return None
    wanted = test_share * len(mixed)
    return int(ends[np.argmin(np.abs(ends - wanted))])


def _mixed(keys: Keys, seed: int) -> Keys:
    """Keys in an order of the seed's own (splitmix64's finalizer, a bijection).

    >>> _mixed(np.array([1, 2], np.uint64), 0).tolist()[0] != 1
    True
    """
    mixed = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    found: Keys = mixed ^ (mixed >> np.uint64(31))
    return found
