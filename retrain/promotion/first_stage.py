"""Fitting of a cascade's first stage, and calibration of its threshold on held-out rows.

A model gets a first stage when it is promoted, if the loss of accuracy on the held-out rows stays within the settings.
Otherwise it is promoted without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import BundleClassifier, BundleDraft
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.first_stage import FirstStage, count_tokens, inverse_document_frequency, normalise_rows
from driftloop.core.models.manifest import CascadeCalibration
from driftloop.core.settings import Settings
from retrain.candidates.training_rows import fit_unconverged
from retrain.training_window import TrainingWindow

MIN_ROWS = 1000
"""Minimum rows of the current concept. With fewer, the encoder needs all of them."""
MIN_HELD = 150
"""Minimum held-out rows. With fewer, the loss cannot be estimated."""
OCCURS = 2
"""Minimum number of texts that hold a token or a pair of tokens that gets a weight."""
INVERSE_PENALTY = 3.0
"""scikit-learn's C."""
MAX_DISAGREEMENT = 4.0
"""Maximum share of rows on which the stages may disagree, in multiples of the allowed loss. Few rows can flatter the
first stage by chance, and where the stages disagree the encoder is right more often."""
NEVER = -30.0
"""Score of a class that the first stage has not seen."""
SHARES = np.arange(0.95, 0.15, -0.05)
"""Shares of the held-out rows that are tried for the first stage, largest first."""


def make_cascade(
    model: BundleClassifier,
    draft: BundleDraft,
    train: TrainingWindow,
    held: TrainingWindow,
    predict: Callable[[TrainingWindow], Predictions],
    settings: Settings,
) -> CascadeCalibration | None:
    """Give a model a first stage, if the loss of accuracy is small enough.

    Args:
        model: The model before it learnt ``held``. Its tokens are the draft's.
        draft: Bundle of that model, or of the same model refitted with ``held``. It is not signed here.
        train: Rows that the first stage learns from. Only those of the current concept are used.
        held: Rows that neither stage has learnt.
        predict: Returns the predictions of ``model``. It is called only if there are enough rows.
        settings: Settings with the allowed loss; a loss of `0` disables cascades.

    Returns:
        The calibration; `None` if the model stays without a first stage.
    """
    chosen = settings.retrain
    rows = train.take(slice(train.onset, None), 0)
    if not chosen.cascade_loss or len(rows) < MIN_ROWS or len(held) < MIN_HELD:
        return None
    ids = model.encoder.tokenise([*rows.texts, *held.texts])
    stage = fit_first_stage(ids[: len(rows)], rows.labels, model.labels, rows.weights)
    found = calibrate(stage, ids[len(rows) :], held.labels, predict(held), chosen.cascade_loss, chosen.confidence)
    if found is None:
        return None
    draft.set_first_stage(*found)
    return found[1]


def fit_first_stage(
    tokens: Sequence[Sequence[int]], labels: Sequence[str], classes: Sequence[str], weights: Sequence[float] = ()
) -> FirstStage:
    """Fit a logistic regression on the tokens of n texts.

    Args:
        tokens: Tokens of each text.
        labels: Label of each text, of two or more classes.
        classes: The k classes of the model. A class without a label here is never predicted.
        weights: Weight of each text; empty for ones.

    Returns:
        The first stage, with a threshold that no probability reaches.
    """
    counts = count_tokens(tokens)
    occurs = np.asarray((counts > 0).sum(axis=0)).ravel()
    columns = np.flatnonzero(occurs >= OCCURS).astype(np.int32)
    idf = inverse_document_frequency(occurs[columns], len(labels))
    features = normalise_rows(counts[:, columns].multiply(idf).tocsr())
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=100, tol=1e-3)
    fit_unconverged(model, features, np.asarray(labels), np.asarray(weights) if len(weights) else None)
    coefficients, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, bias = np.vstack([-coefficients, coefficients]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights = np.zeros((len(classes), len(columns)), dtype=np.float32)
    all_biases = np.full(len(classes), NEVER, dtype=np.float32)
    seen = [list(classes).index(name) for name in model.classes_]
    all_weights[seen], all_biases[seen] = coefficients, bias
    return FirstStage(columns, idf, all_weights, all_biases, threshold=2.0)


def calibrate(
    stage: FirstStage, tokens: Sequence[Sequence[int]], truth: Sequence[str], encoder: Predictions,
    max_loss: float, confidence: float,
) -> tuple[FirstStage, CascadeCalibration] | None:  # fmt: skip
    """Find the largest share of the rows that the first stage may answer.

    The loss is the mean of the rows' differences in accuracy. Its upper bound is a normal one, after Laplace's rule:
    one more row counts against the cascade.

    Args:
        stage: First stage.
        tokens: Tokens of n rows that neither stage has learnt.
        truth: Their labels.
        encoder: The second stage's predictions for them.
        max_loss: Accuracy that the upper bound of the loss must not exceed.
        confidence: One-sided level of that bound.

    Returns:
        The first stage with its threshold, and its calibration; `None` if no share keeps to ``max_loss``.
    """
    probabilities = stage.predict_proba(tokens)
    first = probabilities.argmax(axis=1)
    second = encoder.probabilities.argmax(axis=1)
    right = np.asarray([encoder.classes.index(name) if name in encoder.classes else -1 for name in truth])
    lost = (second == right).astype(float) - (first == right)
    for share in SHARES:
        threshold = float(np.quantile(probabilities.max(axis=1), 1 - share))
        calibrated = replace(stage, threshold=threshold)
        sure = calibrated.is_sure(probabilities)
        loss, high = _mean_and_upper_bound(np.where(sure, lost, 0.0), confidence)
        disagree = (first != second) & sure
        if high <= max_loss and sure.any() and disagree.mean() <= MAX_DISAGREEMENT * max_loss:
            calibration = CascadeCalibration(
                share=round(float(sure.mean()), 4),
                loss=round(loss, 4),
                loss_high=round(high, 4),
                disagreement=round(float(disagree.sum() / sure.sum()), 4),
                rows=len(truth),
            )
            return calibrated, calibration
    return None


def _mean_and_upper_bound(lost: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    padded = np.append(lost, 1.0)
    spread = float(padded.std(ddof=1)) / len(padded) ** 0.5
    return float(lost.mean()), float(padded.mean()) + NormalDist().inv_cdf(confidence) * spread
