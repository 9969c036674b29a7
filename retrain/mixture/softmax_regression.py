"""Softmax regression on dense embeddings and sparse words, which goes on from earlier weights.

scikit-learn's `LogisticRegression` finds the same weights in two to six times the CPU, because it takes one matrix: the
embeddings must become sparse. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from driftloop.core.models.expert_features import COLUMNS, Features
from driftloop.core.models.mixture import LinearWeights

INVERSE_PENALTY = 3.0
"""scikit-learn's C."""
MAX_STEPS = 100
GRADIENT_TOLERANCE = 1e-3
LOSS_TOLERANCE = 1e-6
"""Relative decrease of the loss that ends a fit."""


def fit_softmax_regression(
    features: Features,
    labels: Sequence[str],
    weights: NDArray[np.float64] | None = None,
    start: LinearWeights | None = None,
) -> LinearWeights:
    """Minimise the weighted log loss plus an L2 penalty with L-BFGS (Liu and Nocedal, 1989).

    Args:
        features: Features of n texts.
        labels: Their labels, shape (n,), of two or more classes.
        weights: Weight of each text, shape (n,). `None` for ones.
        start: Weights to go on from. `None` for zeros.

    Returns:
        Weights for the classes that occur, sorted.

    Raises:
        ValueError: There is only one class.
    """
    classes, truth = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise ValueError("all labels are equal")
    n, d = features.embeddings.shape
    k, rows = len(classes), np.arange(n)
    used = np.unique(features.words.indices)  # the other columns keep a weight of zero
    words = features.words[:, used]
    transposed = words.T.tocsr()
    row_weights = np.ones(n, dtype=np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
    size = d + len(used) + 1

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.astype(np.float32).reshape(size, k)
        scores = features.embeddings @ parameters[:d] + words @ parameters[d:-1] + parameters[-1]
        scores -= scores.max(axis=1, keepdims=True)
        exps = np.exp(scores)
        totals = exps.sum(axis=1)
        penalised = parameters[:-1]
        value = float((row_weights * (np.log(totals) - scores[rows, truth])).sum())
        value += 0.5 / INVERSE_PENALTY * float((penalised * penalised).sum())
        errors = exps / totals[:, None]
        errors[rows, truth] -= 1
        errors *= row_weights[:, None]
        gradient = np.empty_like(parameters)
        gradient[:d] = features.embeddings.T @ errors
        gradient[d:-1] = transposed @ errors
        gradient[-1] = errors.sum(axis=0)
        gradient[:-1] += penalised / INVERSE_PENALTY
        return value / n, (gradient / n).ravel().astype(np.float64)

    first = _flat_start(start, classes, used, size, d)
    options = {"maxiter": MAX_STEPS, "gtol": GRADIENT_TOLERANCE, "ftol": LOSS_TOLERANCE}
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x.astype(np.float32).reshape(size, k)
    all_words = np.zeros((COLUMNS, k), dtype=np.float32)
    all_words[used] = found[d:-1]
    return LinearWeights(tuple(map(str, classes)), found[:d].copy(), all_words, found[-1].copy())


def _flat_start(
    start: LinearWeights | None, classes: NDArray[np.str_], used: NDArray[np.int32], size: int, d: int
) -> NDArray[np.float64]:
    """Return the parameters to start from: those of the classes that ``start`` knows, and zeros."""
    first = np.zeros((size, len(classes)))
    if start is not None and len(start.embedding) == d:
        for column, name in enumerate(classes):
            if name in start.classes:
                known = start.classes.index(str(name))
                first[:d, column] = start.embedding[:, known]
                first[d:-1, column] = start.words[used, known]
                first[-1, column] = start.bias[known]
    return first.ravel()
