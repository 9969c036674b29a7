"""The regularised linear head: seconds to fit, and the first answer to a drift."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import verify_bundle, write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head, stack_columns, weights_digest
from retrain.candidates import training_rows as choice
from retrain.candidates.base import Task
from retrain.candidates.tfidf import fit_tfidf
from retrain.training_window import TrainingWindow

INVERSE_PENALTY = 3.0
"""scikit-learn's C."""


class LinearHead:
    """Multinomial logistic regression over embeddings and TF-IDF of words and word pairs.

    How much the rows before the drift count is chosen on the rows after it: a window after an abrupt drift forgets
    what came before, one after a false alarm keeps it.
    """

    name = "linear"
    quick = True

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Choose the weight of the old rows, fit on the whole window and write the bundle; see `Candidate.fit`."""
        head, old_weight = learn(window, task.budget.seed)
        _write(head, old_weight, window, task, out)

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit on the whole of ``window`` with the weight that the bundle ``fitted`` was made with."""
        old_weight = float(verify_bundle(fitted, task.signing_key).lineage.parameters["old_weight"])
        _write(fit_head(window, old_weight, task.budget.seed), old_weight, window, task, out)
        return True

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Nothing is kept half-way."""
        return False


def learn(window: TrainingWindow, seed: int = 7) -> tuple[Head, float]:
    """A head fitted on the whole window, and what a row before the onset counted for.

    Raises:
        CannotFit: one class only, or too few rows.
    """
    choice.require_learnable(window)
    window = choice.order_by_similarity(window)
    old_weight = choice.choose_old_weight(window)
    return _fit(window, old_weight, seed), old_weight


def choose_weight(window: TrainingWindow) -> float:
    """What the rows before the onset that are likest to those after it should count for."""
    return choice.choose_old_weight(choice.order_by_similarity(window))


def fit_head(window: TrainingWindow, old_weight: float, seed: int = 7) -> Head:
    """Fit one head; a class that the window's kept rows do not hold is not among its classes."""
    return _fit(choice.order_by_similarity(window), old_weight, seed)


def _fit(window: TrainingWindow, old_weight: float, seed: int) -> Head:
    """Fit on a window that is in the order of likeness."""
    weights = choice.row_weights(window, old_weight)
    kept = np.flatnonzero(weights > 0)
    rows = window.take(kept.tolist())
    if len(rows.classes) < 2:
        kept, rows = np.arange(len(window)), window
        weights = np.maximum(choice.row_weights(window, 1.0), 1e-3)
    read = fit_tfidf(rows.texts)
    vectorizer, features = (read[0], stack_columns(rows.embeddings, read[1])) if read else (None, rows.embeddings)
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
