"""A linear probe: logistic regression on stored embeddings, its regularisation chosen on the shots alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_transforms.elements import RequestError
from clip_transforms.evaluation_metrics import Int64
from clip_transforms.probabilities import Float32, Float64, Int32

#: C of scikit-learn's LogisticRegression, the inverse of the L2 penalty: decades around what unit vectors need
#: (the CLIP paper, arXiv 2103.00020, appendix A.3, sweeps the same way and refines).
C_VALUES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
#: C for one image a class, which leaves nothing to choose it by.
C_ONE_SHOT = 100.0
_FOLDS = 4
_MAX_ITERATIONS = 1000


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
    fewest = int(np.bincount(classes).min())
    most = int(np.bincount(classes).max())
    if most == 1:
        return _fit(embeddings, classes, C_ONE_SHOT)
    folds = _folds(classes, min(_FOLDS, max(2, fewest)), seed=seed)
    scores = [_validated(embeddings, classes, folds, c) for c in C_VALUES]
    return _fit(embeddings, classes, C_VALUES[int(np.argmax(scores))])


def _folds(classes: Int32, count: int, *, seed: int) -> Int64:
    """The fold of each row: each class is dealt out over the folds."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(classes), np.int64)
    for one in range(int(classes.max()) + 1):
        rows = np.flatnonzero(classes == one)
        found[rng.permutation(rows)] = (np.arange(len(rows)) + one) % count
    return found


def _validated(embeddings: Float32, classes: Int32, folds: Int64, c: float) -> float:
    """Cross-validated accuracy. A class whose only image is held out cannot be named, as in life."""
    right = 0
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        known, places = np.unique(classes[~held], return_inverse=True)
        if len(known) < 2 or not held.any():
            continue
        probe = _fit(embeddings[~held], places.astype(np.int32), c)
        right += int((known[probe.predict(embeddings[held])] == classes[held]).sum())
    return right / len(classes)


def _fit(embeddings: Float32, classes: Int32, c: float) -> Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told by n_iter_
        model.fit(embeddings.astype(np.float64), classes)
    weights, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weights) == 1:  # two classes: the first one's logit is 0
        weights, bias = np.vstack([0 * weights, weights]), np.r_[0.0, bias]
    return Probe(weights=weights, bias=bias, c=c, converged=int(model.n_iter_.max()) < _MAX_ITERATIONS)
