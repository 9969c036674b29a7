"""How far the labels of a window are trusted, by who gave them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from retrain.candidates.training_rows import fit_roughly
from retrain.labels.annotator_trust import judge_annotators
from retrain.training_window import TrainingWindow

FOLDS = 3
MIN_ROWS = 60


def weigh(window: TrainingWindow, seed: int = 7) -> TrainingWindow:
    """The window with the weights that `judge_annotators` gives its labels; as it is with one annotator or few rows.

    The second opinion is a logistic regression on the embeddings, fitted on the other two thirds of the rows.
    """
    if len(set(window.annotators)) < 2 or len(window.classes) < 2 or len(window) < MIN_ROWS:
        return window
    labels = np.asarray(window.labels)
    said = np.full((len(window), len(window.classes)), 1e-6)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(window.embeddings):
        if len(set(labels[train])) < 2:
            return window
        model = LogisticRegression(C=3.0, max_iter=60, tol=1e-3)
        fit_roughly(model, window.embeddings[train], labels[train])
        columns = [window.classes.index(str(name)) for name in model.classes_]
        said[np.ix_(test, columns)] = model.predict_proba(window.embeddings[test])
    trust = judge_annotators(window.annotators, window.labels, window.classes, said)
    return replace(window, weights=tuple(trust.training_weights), gate_weights=tuple(trust.weights))
