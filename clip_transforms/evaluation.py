"""How right labels are: accuracy, per class, confusion, calibration error, and their intervals. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError
from clip_transforms.encoders.base import Float32

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
BINS = 15  # of the calibration error, as in Guo et al., arXiv:1706.04599


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of right answers with its 95 % interval; None where nothing was counted."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """One class: how many images have it, the share that is found (recall), and of those named so (precision)."""

    label: str
    images: int
    top1: float
    top5: float
    precision: float | None  # None: never named


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `beamclip evaluate` tells. confusion[i][j]: images of class i that were named j."""

    images: int
    classes: tuple[str, ...]
    top1: Share
    top5: Share
    mean_class_top1: float  # over the classes that have images
    calibration_error: float
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def wilson(right: int, count: int, *, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927), also sound for 0 and for all.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    share = right / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    bottom = 1 + z * z / count
    return (middle - spread) / bottom, (middle + spread) / bottom


def bootstrap(values: npt.ArrayLike, *, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of a mean, over images drawn with replacement.

    values: one number an image, such as 1 where the label is right; or, to compare two labellings of the same
    images, the difference of the two.

    >>> low, high = bootstrap([1.0] * 50)
    >>> low, high
    (1.0, 1.0)
    """
    given = np.asarray(values, np.float64)
    if given.size == 0:
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    means = [given[rng.integers(0, len(given), len(given))].mean() for _ in range(draws)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def calibration_error(confidence: npt.ArrayLike, right: npt.ArrayLike, *, bins: int = BINS) -> float:
    """The expected calibration error: how far confidence and accuracy are apart, over bins of equal width.

    >>> round(calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]), 3)
    0.15
    """
    sure, hit = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if sure.size == 0:
        return 0.0
    place = np.minimum((sure * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gap = np.abs(
        np.bincount(place, weights=hit, minlength=bins) - np.bincount(place, weights=sure, minlength=bins)
    )
    return float(gap.sum() / counts.sum())


def evaluate(
    probabilities: Float32, truth: Int64, classes: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> Evaluation:
    """Compares probabilities [N, C] with the true classes [N] (places in `classes`).

    The intervals of top-1 and top-5 are bootstrap ones over the images. Raises RequestError without images.
    """
    if len(truth) == 0:
        raise RequestError("there is no image with a known label to evaluate")
    count = len(classes)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : min(5, count)]
    named = order[:, 0]
    first, five = named == truth, (order == truth[:, None]).any(axis=1)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (truth, named), 1)
    per_class = [_class_result(classes[k], k, truth, named, five) for k in range(count)]
    seen = [one.top1 for one in per_class if one.images]
    return Evaluation(
        images=len(truth),
        classes=tuple(classes),
        top1=_share(first, seed, draws),
        top5=_share(five, seed, draws),
        mean_class_top1=float(np.mean(seen)),
        calibration_error=calibration_error(probabilities.max(axis=1), first),
        per_class=tuple(per_class),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


def _share(right: Bool, seed: int, draws: int) -> Share:
    low, high = bootstrap(right, seed=seed, draws=draws)
    return Share(value=float(right.mean()), low=low, high=high)


def _class_result(label: str, place: int, truth: Int64, named: Int64, five: Bool) -> ClassResult:
    mine = truth == place
    called = int((named == place).sum())
    return ClassResult(
        label=label,
        images=int(mine.sum()),
        top1=float((named[mine] == place).mean()) if mine.any() else 0.0,
        top5=float(five[mine].mean()) if mine.any() else 0.0,
        precision=float((truth[named == place] == place).mean()) if called else None,
    )
