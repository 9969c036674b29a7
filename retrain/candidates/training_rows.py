"""Which rows of a window a candidate learns from, and which of the newest ones it validates on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from retrain.candidates.base import CannotFit
from retrain.training_window import TrainingWindow

Rows = NDArray[np.int64]
Fold = tuple[Rows, Rows]
"""Indices to train on and, all of them later, indices to validate on."""

MIN_ROWS = 20
MIN_RECENT = 16
"""With fewer rows after the onset, the newest half of the window stands in for them in validation."""
ONE_FOLD_ROWS = 300
"""With so many rows after the onset, their newest quarter is validation enough."""
OLD_WEIGHTS = (0.0, 0.05, 0.3, 1.0)
"""What a row before the drift may count for, where a row after it counts for 1."""
DEFAULT_OLD_WEIGHT = 0.3
"""What it counts for where the rows after the drift are too few to choose."""
MAX_OLD_ROWS = 1000
"""How many rows before the drift are learnt from where they count for less than those after it: the last, so the
likest ones of a window `by_likeness`."""
SELECTION_ROWS = 2000
"""Rows before the drift, the last, that are enough to choose their weight with, or to learn what they look like."""
MIN_PROBABILITY = 1e-3
"""Least probability counted for the true label, so that one sure mistake does not decide a search."""


def require_learnable(window: TrainingWindow) -> None:
    """Raise `CannotFit` where there is nothing to tell apart, or next to nothing to learn from."""
    if len(window.classes) < 2:
        raise CannotFit(f"all {len(window)} labels are '{window.classes[0] if window.classes else ''}'")
    if len(window) < MIN_ROWS:
        raise CannotFit(f"{len(window)} labelled events are fewer than {MIN_ROWS}")


def forward_folds(labels: Sequence[str], onset: int) -> list[Fold]:
    """Folds in the order of time over the rows after ``onset``: train on what was known, validate on what came next.

    One fold where the recent rows are many, three where they are few. A fold whose training rows hold one class is
    left out; where that leaves none, the last quarter is validated on models of all rows.
    """
    n = len(labels)
    start = onset if n - onset >= MIN_RECENT else n // 2
    quarters = [start + (n - start) * part // 4 for part in range(5)]
    cuts = [3] if n - start >= ONE_FOLD_ROWS else [1, 2, 3]
    folds = [(np.arange(quarters[cut]), np.arange(quarters[cut], quarters[cut + 1])) for cut in cuts]
    kept = [fold for fold in folds if len(fold[1]) and len({labels[int(i)] for i in fold[0]}) > 1]
    return kept or [(np.arange(n), np.arange(quarters[3], n))]


def choose_old_weight(window: TrainingWindow) -> float:
    """What the rows before the onset should count for: the least log loss on the rows after it, of a quick model.

    After an abrupt drift that is little or nothing, after a false alarm 1. The quick model is a logistic regression on
    the embeddings alone.
    """
    if window.onset == 0:
        return 1.0
    if len(window) - window.onset < MIN_RECENT:
        return DEFAULT_OLD_WEIGHT
    window = window.take(slice(max(0, window.onset - SELECTION_ROWS), None), min(window.onset, SELECTION_ROWS))
    labels = np.asarray(window.labels)
    folds = forward_folds(window.labels, window.onset)

    def loss(weight: float) -> float:
        losses = []
        for train, test in folds:
            weights = row_weights(window, weight)[train]
            kept = train[weights > 0]
            if len(set(labels[kept])) < 2:
                return float("inf")
            model = LogisticRegression(C=3.0, max_iter=60, tol=1e-3)
            fit_unconverged(model, window.embeddings[kept], labels[kept], weights[weights > 0])
            losses.append(log_loss(model.classes_, model.predict_proba(window.embeddings[test]), labels[test]))
        return float(np.mean(losses))

    return min(reversed(OLD_WEIGHTS), key=loss)


def order_by_similarity(window: TrainingWindow) -> TrainingWindow:
    """The same rows, those before the onset in the order of how much they look like those after it, the likest last.

    How likely a text is recent is what a logistic regression on the embeddings says that tells the two apart
    (covariate shift: Bickel, Brueckner and Scheffer, 2009). Where a concept comes back, these are the rows of its
    earlier time. A past of no more than `REACH` rows stays in the order of time.
    """
    n, onset = len(window), window.onset
    if not MAX_OLD_ROWS < onset < n:
        return window
    old = np.linspace(0, onset - 1, min(onset, SELECTION_ROWS)).astype(int)
    shown = np.concatenate([old, np.arange(max(onset, n - MAX_OLD_ROWS), n)])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=50, tol=1e-3)
    fit_unconverged(model, window.embeddings[shown], shown >= onset)
    likeness = model.decision_function(window.embeddings[:onset])
    return window.take([*np.argsort(likeness, kind="stable").tolist(), *range(onset, n)])


def row_weights(window: TrainingWindow, old_weight: float) -> NDArray[np.float64]:
    """Shape (n,): ``old_weight`` before the onset, 1 after it, times how far each label is trusted.

    Where the past counts for less, only its last `REACH` rows count at all.
    """
    weights = np.asarray(window.weights, dtype=np.float64) if window.weights else np.ones(len(window))
    weights[: window.onset] *= old_weight
    if old_weight < 1:
        weights[: max(0, window.onset - MAX_OLD_ROWS)] = 0
    return weights


def fit_unconverged(model: LogisticRegression, features: Any, labels: Any, weights: Any = None) -> None:
    """Fit, and say nothing where the steps run out: an order shows long before its model has converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels, sample_weight=weights)


def sample_rows(window: TrainingWindow, old_share: float, limit: int, seed: int) -> Rows:
    """At most ``limit`` row indices in the order of time: the newest after the onset, then ``old_share`` of the rest.

    Every class of the window keeps at least two rows, so that the model knows the names of all of them.
    """
    recent = np.arange(max(window.onset, len(window) - limit), len(window))
    old = np.arange(window.onset)
    size = min(round(len(old) * old_share), limit - len(recent))
    rng = np.random.default_rng(seed)
    rows = np.union1d(recent, rng.choice(old, size=size, replace=False)) if size > 0 else recent
    labels = np.asarray(window.labels)
    for name in window.classes:
        missing = 2 - int((labels[rows] == name).sum())
        if missing > 0:
            others = np.setdiff1d(np.flatnonzero(labels == name), rows)
            rows = np.union1d(rows, others[-missing:])
    return np.asarray(rows, dtype=np.int64)


def fold_losses(
    make: Callable[[], Any],
    features: Any,
    labels: NDArray[np.str_],
    folds: Sequence[Fold],
    loss_limits: Sequence[float] = (),
    deadline: float = float("inf"),
) -> list[float]:
    """Log loss on each fold, in nats per row, of a fresh estimator from ``make`` for each.

    A loss above the fold's number in ``hopeless`` is the last: the rest of the folds is spared.

    Raises:
        TimeoutError: `time.monotonic` was past ``deadline`` before a fold.
    """
    losses: list[float] = []
    for (train, test), limit in zip(folds, loss_limits or [float("inf")] * len(folds), strict=True):
        if time.monotonic() > deadline:
            raise TimeoutError("no time was left for the next fold")
        estimator = make().fit(features[train], labels[train])
        losses.append(log_loss(estimator.classes_, estimator.predict_proba(features[test]), labels[test]))
        if losses[-1] > limit:
            break
    return losses


def log_loss(classes: Sequence[str], probabilities: NDArray[Any], labels: NDArray[np.str_]) -> float:
    """Mean of -log p(true label); a label that the model cannot name has probability `FLOOR`."""
    column = {str(name): i for i, name in enumerate(classes)}
    found = [probabilities[row, column[name]] if name in column else 0.0 for row, name in enumerate(labels)]
    values = np.nan_to_num(np.asarray(found, dtype=np.float64), nan=0.0)
    return float(-np.log(np.clip(values, MIN_PROBABILITY, 1.0)).mean())
