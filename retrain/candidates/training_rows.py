"""Choice of the training and validation rows of a window, and the weight of the rows before the drift."""

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
"""Indices to train on, and later indices to validate on."""

MIN_ROWS = 20
"""Rows that a window must have."""
MIN_RECENT = 16
"""Rows after the onset below which the newest half of the window replaces them in validation."""
ONE_FOLD_ROWS = 300
"""Rows after the onset from which on their newest quarter is enough for validation."""
OLD_WEIGHTS = (0.0, 0.05, 0.3, 1.0)
"""Weights that a row before the drift may have; a row after it has weight 1."""
DEFAULT_OLD_WEIGHT = 0.3
"""Weight of a row before the drift if there are too few rows after it to choose one."""
MAX_OLD_ROWS = 1000
"""Rows before the drift that are learnt if they count less than those after it: the last ones of the window.

In a window ordered by `order_by_similarity` these are the most similar ones.
"""
SELECTION_ROWS = 2000
"""Rows before the drift that are enough to choose their weight, or to learn how they look: the last ones."""
MIN_PROBABILITY = 1e-3
"""Smallest probability counted for the true label, so that one certain mistake does not decide a search."""


def require_learnable(window: TrainingWindow) -> None:
    """Check that the window has two classes and enough rows.

    Raises:
        CannotFit: There is one class only, or there are too few rows.
    """
    if len(window.classes) < 2:
        raise CannotFit(f"all {len(window)} labels are '{window.classes[0] if window.classes else ''}'")
    if len(window) < MIN_ROWS:
        raise CannotFit(f"{len(window)} labelled events are fewer than {MIN_ROWS}")


def forward_folds(labels: Sequence[str], onset: int) -> list[Fold]:
    """Return folds in the order of time over the rows after the onset: train on earlier rows, validate on later ones.

    There is one fold if the recent rows are many, and three if they are few. A fold whose training rows hold one class
    is left out. If no fold is left, models of all rows are validated on the last quarter.

    Args:
        labels: Label of each row, shape (n,).
        onset: Index of the first row after the drift.
    """
    n = len(labels)
    start = onset if n - onset >= MIN_RECENT else n // 2
    quarters = [start + (n - start) * part // 4 for part in range(5)]
    cuts = [3] if n - start >= ONE_FOLD_ROWS else [1, 2, 3]
    folds = [(np.arange(quarters[cut]), np.arange(quarters[cut], quarters[cut + 1])) for cut in cuts]
    kept = [fold for fold in folds if len(fold[1]) and len({labels[int(i)] for i in fold[0]}) > 1]
    return kept or [(np.arange(n), np.arange(quarters[3], n))]


def choose_old_weight(window: TrainingWindow) -> float:
    """Return the weight of the rows before the onset with the least log loss on the rows after it.

    It is small or 0 after an abrupt drift, and 1 after a false alarm. The loss is that of a quick model, a logistic
    regression on the embeddings alone.
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
    """Return the same rows, those before the onset ordered by their similarity to those after it, most similar last.

    A logistic regression on the embeddings separates the rows before from those after the onset. Its estimate that a
    text is recent is the similarity (covariate shift: Bickel, Brueckner and Scheffer, 2009). If a concept comes back,
    the most similar rows are those of its earlier time. A past of at most `MAX_OLD_ROWS` rows stays in the order of
    time.
    """
    n, onset = len(window), window.onset
    if not MAX_OLD_ROWS < onset < n:
        return window
    old = np.linspace(0, onset - 1, min(onset, SELECTION_ROWS)).astype(int)
    shown = np.concatenate([old, np.arange(max(onset, n - MAX_OLD_ROWS), n)])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=50, tol=1e-3)
    fit_unconverged(model, window.embeddings[shown], shown >= onset)
    similarity = model.decision_function(window.embeddings[:onset])
    return window.take([*np.argsort(similarity, kind="stable").tolist(), *range(onset, n)])


def row_weights(window: TrainingWindow, old_weight: float) -> NDArray[np.float64]:
    """Return the weight of each row, shape (n,): its trust, times ``old_weight`` before the onset.

    If ``old_weight`` is less than 1, only the last `MAX_OLD_ROWS` rows before the onset have a weight.

    Args:
        window: Labelled events.
        old_weight: Weight of a row before the onset.
    """
    weights = np.asarray(window.weights, dtype=np.float64) if window.weights else np.ones(len(window))
    weights[: window.onset] *= old_weight
    if old_weight < 1:
        weights[: max(0, window.onset - MAX_OLD_ROWS)] = 0
    return weights


def fit_unconverged(model: LogisticRegression, features: Any, labels: Any, weights: Any = None) -> None:
    """Fit without a warning if the steps run out: the ranking is stable long before the model has converged.

    Args:
        model: Model to fit in place.
        features: Shape (n, d).
        labels: Shape (n,).
        weights: Shape (n,). `None` weighs all rows alike.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels, sample_weight=weights)


def sample_rows(window: TrainingWindow, old_share: float, limit: int, seed: int) -> Rows:
    """Return row indices in the order of time: the newest after the onset, then a random part of the older ones.

    Every class of the window keeps at least two rows, so that the model knows all of them.

    Args:
        window: Labelled events.
        old_share: Share of the rows before the onset to take.
        limit: Largest number of rows, before those of missing classes are added.
        seed: Seed of the random part.
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
    given: NDArray[np.float64] | None = None,
) -> list[float]:
    """Return the log loss of a fresh estimator on each fold, in nats per row.

    Beside a mixture it is the loss of their mean: the estimator is to add what the mixture lacks. A loss above the
    limit of its fold ends the evaluation; the remaining folds are skipped.

    Args:
        make: Makes an unfitted estimator.
        features: Shape (n, d).
        labels: Shape (n,).
        folds: Folds to evaluate.
        loss_limits: Limit of each fold; empty for none.
        deadline: Time of `time.monotonic` after which no fold begins.
        given: Probability that a mixture gave to each label, shape (n,); see `TrainingWindow.given`.

    Raises:
        TimeoutError: The deadline passed before a fold.
    """
    losses: list[float] = []
    for (train, test), limit in zip(folds, loss_limits or [float("inf")] * len(folds), strict=True):
        if time.monotonic() > deadline:
            raise TimeoutError("no time was left for the next fold")
        estimator = make().fit(features[train], labels[train])
        beside = None if given is None else given[test]
        losses.append(log_loss(estimator.classes_, estimator.predict_proba(features[test]), labels[test], beside))
        if losses[-1] > limit:
            break
    return losses


def log_loss(
    classes: Sequence[str],
    probabilities: NDArray[Any],
    labels: NDArray[np.str_],
    given: NDArray[np.float64] | None = None,
) -> float:
    """Return the mean of -log p(true label).

    Args:
        classes: The k classes of the model.
        probabilities: Shape (n, k).
        labels: True labels, shape (n,). One that the model cannot name has probability `MIN_PROBABILITY`.
        given: Probability that a mixture gave to each label. Known ones are averaged with the model's.
    """
    column = {str(name): i for i, name in enumerate(classes)}
    found = [probabilities[row, column[name]] if name in column else 0.0 for row, name in enumerate(labels)]
    values = np.nan_to_num(np.asarray(found, dtype=np.float64), nan=0.0)
    if given is not None:
        values = np.where(given >= 0, (values + given) / 2, values)
    return float(-np.log(np.clip(values, MIN_PROBABILITY, 1.0)).mean())
