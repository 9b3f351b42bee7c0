"""The pieces of a refit: log-losses, the temperature of the zero-shot logits, the regression itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.probabilities import Float64
from clip_transforms.probe import log_softmax
from clip_transforms.prompts.types import Task
from clip_transforms.refining.reviewed import Bool

_LOG_TEMPERATURES = (-5.0, 7.0)  # natural logarithms: 0.007 to 1,100
_MAX_ITERATIONS = 1000
_SWEEP = {"max_iter": 200, "tol": 1e-3}  # each value of C goes on from the solution of the one before


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear:
    """Classifiers of P classes. weights: [P, D], bias: [P]."""

    weights: Float64
    bias: Float64

    def logits(self, embeddings: Float64) -> Float64:
        """[N, P]."""
        found: Float64 = embeddings @ self.weights.T + self.bias
        return found


def require_extra() -> None:
    """Raise RequestError, with the line that installs them, where scikit-learn, SciPy or cleanlab are missing."""
    try:
        import cleanlab.filter  # noqa: F401
        import scipy.optimize  # noqa: F401
        import sklearn.linear_model  # noqa: F401
    except ImportError as error:
        name = {"sklearn": "scikit-learn"}.get(str(error.name).split(".")[0], str(error.name).split(".")[0])
        raise RequestError(f"refine needs {name}: pip install 'beamclip[review]'") from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra in this thread alone: hundreds of small fits are faster so, and equal on any number of cores."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with threadpool_limits(1):
        yield


def log_losses(logits: Float64, targets: Bool, task: Task) -> Float64:
    """The log-loss of each row [N], in nats; of a multi-label set the sum over its labels.

    >>> log_losses(np.zeros((1, 4)), np.array([[True, False, False, False]]), "single").round(4).tolist()
    [1.3863]
    """
    found: Float64
    if task == "single":
        found = -log_softmax(logits)[np.arange(len(logits)), targets.argmax(axis=1)]
    else:
        found = np.logaddexp(0, np.where(targets, -logits, logits)).sum(axis=1)
    return found


def fit_temperature(logits: Float64, targets: Bool, weights: Float64, task: Task) -> float:
    """What zero-shot logits are best divided by: the least weighted log-loss (Guo et al., arXiv 1706.04599).

    >>> logits, targets = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), np.eye(2, dtype=bool)[[0, 0, 1]]
    >>> round(2 / fit_temperature(logits, targets, np.ones(3), "single"), 3)  # the logit of 2 in 3
    0.693
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(weights @ log_losses(logits / np.exp(log_temperature), targets, task))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


class Regression:
    """Regressions on one set of rows, for rising C: each fit goes on from where the last one was.

    Single: a multinomial one over the classes at `places`, of the rows that are of them. Multi: a binary one a
    label. Rows are [N, D] of norm 1 in float64; weights are scikit-learn's sample weights.
    """

    def __init__(
        self,
        rows: Float64,
        targets: Bool,
        weights: Float64,
        places: Sequence[int],
        task: Task,
        *,
        exact: bool = False,
    ) -> None:
        wanted = targets[:, list(places)]
        options = {"max_iter": _MAX_ITERATIONS} if exact else {**_SWEEP, "warm_start": True}
        self._task, self._count = task, len(places)
        if task == "single":
            used = wanted.any(axis=1)
            self._parts = [(_regression(**options), rows[used], wanted[used].argmax(axis=1), weights[used])]
        else:
            self._parts = [
                (_regression(**options), rows, wanted[:, place].astype(np.int64), weights)
                for place in range(len(places))
            ]

    def fit(self, c: float) -> Linear:
        """At one C, the inverse of the L2 penalty."""
        fitted = [_fit(*part, c=c) for part in self._parts]
        if self._task == "multi":
            return Linear(
                weights=np.concatenate([weights for _, weights, _ in fitted]),
                bias=np.concatenate([bias for _, _, bias in fitted]),
            )
        known, weights, bias = fitted[0]
        if len(known) < 2:
            weights, bias = weights[: len(known)], 0 * bias[: len(known)]
        elif len(weights) == 1:  # two classes: the first one's logit is 0
            weights, bias = np.vstack([0 * weights, weights]), np.r_[0.0, bias]
        every = Linear(weights=np.zeros((self._count, weights.shape[1])), bias=np.zeros(self._count))
        every.weights[known], every.bias[known] = weights, bias
        return every


def _regression(**options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**options)


def _fit(
    model: Any, rows: Float64, answers: Any, weights: Float64, *, c: float
) -> tuple[Any, Float64, Float64]:
    """(the answers that there are, their weights, their bias); one row for two answers, as scikit-learn has it."""
    from sklearn.exceptions import ConvergenceWarning

    known = np.unique(answers)
    if len(known) < 2:  # the others are all in the fold that is held out: nothing to tell apart
        side = np.log(len(answers) + 1) * (1 if answers.any() else -1)
        return known, np.zeros((1, rows.shape[1])), np.array([side])
    model.C = c
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, answers, sample_weight=weights)
    return known, np.array(model.coef_, np.float64), np.array(model.intercept_, np.float64)
