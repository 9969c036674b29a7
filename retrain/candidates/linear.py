"""Linear candidate: a regularised linear head that is fitted in seconds, the first answer to a drift."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import verify_bundle, write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head, stack_columns, weights_digest
from retrain.candidates import training_rows
from retrain.candidates.base import Task
from retrain.candidates.tfidf import fit_tfidf
from retrain.training_window import TrainingWindow

INVERSE_PENALTY = 3.0
"""scikit-learn's C."""


class LinearHead:
    """Multinomial logistic regression on embeddings and on TF-IDF of words and word pairs.

    The weight of the rows before the drift is chosen on the rows after it. After an abrupt drift the model forgets the
    rows before it, and after a false alarm it keeps them.
    """

    name = "linear"
    quick = True

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Choose the weight of the old rows, fit on the whole window and write the bundle; see `Candidate.fit`.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        head, old_weight = learn(window, task.budget.seed)
        _write(head, old_weight, window, task, out)

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit on the whole window with the weight of old rows that the winner was fitted with; see `Candidate.refit`.

        Args:
            window: All rows of the retraining.
            fitted: Bundle of the winner.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        old_weight = float(verify_bundle(fitted, task.signing_key).lineage.parameters["old_weight"])
        _write(fit_head(window, old_weight, task.budget.seed), old_weight, window, task, out)
        return True

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Return False: a fit has no checkpoints.

        Args:
            window: Not used.
            task: Not used.
            out: Not used.
        """
        return False


def learn(window: TrainingWindow, seed: int = 7) -> tuple[Head, float]:
    """Choose the weight of the old rows and fit a head on the whole window.

    Args:
        window: Labelled events to learn from.
        seed: Seed of the fit.

    Returns:
        The head, and the weight of a row before the onset.

    Raises:
        CannotFit: There is one class only, or there are too few rows.
    """
    training_rows.require_learnable(window)
    window = training_rows.order_by_similarity(window)
    old_weight = training_rows.choose_old_weight(window)
    return _fit(window, old_weight, seed), old_weight


def choose_weight(window: TrainingWindow) -> float:
    """Return the weight of the rows before the onset that are most similar to the rows after it."""
    return training_rows.choose_old_weight(training_rows.order_by_similarity(window))


def fit_head(window: TrainingWindow, old_weight: float, seed: int = 7) -> Head:
    """Fit one head. A class that only occurs in rows without weight is not among its classes.

    Args:
        window: Labelled events to learn from.
        old_weight: Weight of a row before the onset; a row after it has weight 1.
        seed: Seed of the fit.
    """
    return _fit(training_rows.order_by_similarity(window), old_weight, seed)


def _fit(window: TrainingWindow, old_weight: float, seed: int) -> Head:
    """Fit a head on a window that is ordered by similarity."""
    weights = training_rows.row_weights(window, old_weight)
    kept = np.flatnonzero(weights > 0)
    rows = window.take(kept.tolist())
    if len(rows.classes) < 2:
        kept, rows = np.arange(len(window)), window
        weights = np.maximum(training_rows.row_weights(window, 1.0), 1e-3)
    tfidf = fit_tfidf(rows.texts)
    vectorizer, features = (tfidf[0], stack_columns(rows.embeddings, tfidf[1])) if tfidf else (None, rows.embeddings)
    estimator = LogisticRegression(C=INVERSE_PENALTY, max_iter=100, tol=1e-3, random_state=seed)
    estimator.fit(features, np.asarray(rows.labels), sample_weight=weights[kept])
    return Head(estimator, vectorizer)


def _write(head: Head, old_weight: float, window: TrainingWindow, task: Task, out: Path) -> None:
    parameters = {"old_weight": old_weight, "C": INVERSE_PENALTY, "weights": weights_digest(head)}
    write_bundle(
        out,
        encoder=OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores),
        head=head,
        labels=head.classes,
        lineage=msgspec.structs.replace(task.lineage, parameters=parameters),
        key=task.signing_key,
    )
