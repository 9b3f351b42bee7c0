"""A linear probe: logistic regression on stored embeddings, its regularisation chosen on the shots alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.metrics import Bool, Int64
from clip_transforms.probabilities import Float32, Float64, Int32

#: C of scikit-learn's LogisticRegression, the inverse of the L2 penalty: decades around what unit vectors need
#: (the CLIP paper, arXiv 2103.00020, appendix A.3, sweeps the same way and refines).
C_VALUES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
#: C for one image a class, which leaves nothing to choose it by.
C_ONE_SHOT = 100.0
_FOLDS = 4
_PATIENCE = 2  # values of C in a row that are no better, after which larger ones are not tried
_MAX_ITERATIONS = 1000
_SWEEP = {"max_iter": 100, "tol": 1e-3}  # each value of C goes on from the solution of the one before


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A fitted probe. weights: [C, D], bias: [C]; converged: within 1,000 iterations of L-BFGS."""

    weights: Float64
    bias: Float64
    c: float
    converged: bool

    def predict(self, embeddings: Float32) -> Int64:
        """The best class of each row [N, D]."""
        found: Int64 = np.argmax(embeddings @ self.weights.T + self.bias, axis=1)
        return found


def require_scikit_learn() -> None:
    """Raise RequestError, with the line that installs it, where scikit-learn is not there."""
    try:
        import sklearn.linear_model  # noqa: F401
    except ImportError:
        raise RequestError("--few-shot needs scikit-learn: pip install 'beamclip[evaluate]'") from None


def fit_probe(embeddings: Float32, classes: Int32, *, seed: int = 0) -> Probe:
    """Fit rows [N, D] to their classes [N], which are 0..C-1, each at least once, C at least 2.

    C of the penalty has the best cross-validated accuracy over up to four folds, stratified; of equal ones the
    smallest, which is the simplest model. With one image a class it is fixed.
    """
    if int(np.bincount(classes).max()) == 1:
        return _fit(embeddings, classes, C_ONE_SHOT)
    fewest = int(np.bincount(classes).min())
    folds = _folds(classes, min(_FOLDS, max(2, fewest)), seed=seed)
    return _fit(embeddings, classes, _best_c(embeddings, classes, folds))


def _folds(classes: Int32, count: int, *, seed: int) -> Int64:
    """The fold of each row: each class is dealt out over the folds."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(classes), np.int64)
    for one in range(int(classes.max()) + 1):
        rows = np.flatnonzero(classes == one)
        found[rng.permutation(rows)] = (np.arange(len(rows)) + one) % count
    return found


def _best_c(embeddings: Float32, classes: Int32, folds: Int64) -> float:
    sweeps = [_Sweep(embeddings, classes, folds == fold) for fold in range(int(folds.max()) + 1)]
    best, most, worse = C_VALUES[0], -1, 0
    for c in C_VALUES:
        right = sum(sweep.right(c) for sweep in sweeps)
        worse = 0 if right > most else worse + 1
        if right > most:
            best, most = c, right
        if worse == _PATIENCE:
            break
    return best


class _Sweep:
    """One fold: trained on the rest for rising C, each time from where it was.

    A class whose only image is held out cannot be named, as in life.
    """

    def __init__(self, embeddings: Float32, classes: Int32, held: Bool) -> None:
        self._known, places = np.unique(classes[~held], return_inverse=True)
        self._train = (embeddings[~held].astype(np.float64), places)
        self._test = (embeddings[held].astype(np.float64), classes[held])
        self._model = _regression(warm_start=True, **_SWEEP)

    def right(self, c: float) -> int:
        """How many of the held-out images are named right."""
        if len(self._known) < 2 or not len(self._test[1]):
            return 0
        self._model.C = c
        _quietly(self._model, *self._train)
        return int((self._known[self._model.predict(self._test[0])] == self._test[1]).sum())


def _regression(**options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**options)


def _quietly(model: Any, embeddings: Float64, classes: Any) -> None:
    """Fit; that it did not converge is told by n_iter_, not by a warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # one shot is what was asked for
        model.fit(embeddings, classes)


def _fit(embeddings: Float32, classes: Int32, c: float) -> Probe:
    model = _regression(C=c, max_iter=_MAX_ITERATIONS)
    _quietly(model, embeddings.astype(np.float64), classes)
    weights, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weights) == 1:  # two classes: the first one's logit is 0
        weights, bias = np.vstack([0 * weights, weights]), np.r_[0.0, bias]
    return Probe(weights=weights, bias=bias, c=c, converged=int(model.n_iter_.max()) < _MAX_ITERATIONS)
