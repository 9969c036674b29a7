"""Fits the first stage of a cascade, and chooses how sure it has to be so that little is lost by it.

The gate looks at it at each promotion: a model that goes through gets a first stage where one keeps to the loss that
the settings allow on the held-out rows, and goes without where none does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import BundleClassifier, Cascaded, add_first_stage
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.first_stage import FirstStage, count, unit
from driftloop.core.settings import Settings
from retrain.candidates.training_rows import fit_roughly
from retrain.training_window import TrainingWindow

MIN_ROWS = 1000
"""Rows of the present concept below which no first stage is fitted: what little there is, the encoder needs."""
MIN_HELD = 150
"""Held-out rows below which nobody could say what it loses."""
OCCURS = 2
"""Texts that a token or a pair has to occur in to get a weight."""
INVERSE_PENALTY = 3.0
"""scikit-learn's C."""
FLATTERY = 4.0
"""Times the loss allowed that the first stage may disagree with the encoder, in parts of all rows: few rows can flatter
it by chance, and where the two disagree the encoder is right more often."""
NEVER = -30.0
"""Score of a class that the first stage has not seen."""
SHARES = np.arange(0.95, 0.15, -0.05)
"""Of the held-out rows, that the first stage may be tried to answer."""


def make_cascade(
    model: BundleClassifier,
    bundle: Path,
    train: TrainingWindow,
    held: TrainingWindow,
    answers: Callable[[TrainingWindow], Predictions],
    settings: Settings,
) -> Cascaded | None:
    """Give the model in ``bundle`` a first stage, where that is worth it.

    Args:
        model: as it was before it learnt ``held``; its tokens are the bundle's.
        bundle: of that model, or of the same one fitted on ``held`` too; it is signed anew.
        train: what the first stage learns from: its rows of the present concept.
        held: rows that neither has learnt.
        answers: what ``model`` says to rows; asked only where there are rows enough.
    """
    chosen = settings.retrain
    rows = train.take(slice(train.onset, None), 0)
    if not chosen.cascade_loss or len(rows) < MIN_ROWS or len(held) < MIN_HELD:
        return None
    ids = model.encoder.tokenise([*rows.texts, *held.texts])
    stage = fit_first_stage(ids[: len(rows)], rows.labels, model.labels, rows.weights)
    found = calibrate(stage, ids[len(rows) :], held.labels, answers(held), chosen.cascade_loss, chosen.confidence)
    if found is not None:
        add_first_stage(bundle, *found, settings.signing_key)
    return found and found[1]


def fit_first_stage(
    tokens: Sequence[Sequence[int]], labels: Sequence[str], classes: Sequence[str], weights: Sequence[float] = ()
) -> FirstStage:
    """Logistic regression on the tokens of n texts, with a threshold that nothing reaches.

    ``labels`` hold two of the k ``classes`` or more; one that they lack is never the answer.
    """
    counts = count(tokens)
    occurs = np.asarray((counts > 0).sum(axis=0)).ravel()
    columns = np.flatnonzero(occurs >= OCCURS).astype(np.int32)
    idf = (np.log((1 + len(labels)) / (1 + occurs[columns])) + 1).astype(np.float32)
    features = unit(counts[:, columns].multiply(idf).tocsr())
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=100, tol=1e-3)
    fit_roughly(model, features, np.asarray(labels), np.asarray(weights) if len(weights) else None)
    coefficients, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, bias = np.vstack([-coefficients, coefficients]) / 2, np.concatenate([-bias, bias]) / 2
    whole = np.zeros((len(classes), len(columns)), dtype=np.float32), np.full(len(classes), NEVER, dtype=np.float32)
    places = [list(classes).index(name) for name in model.classes_]
    whole[0][places], whole[1][places] = coefficients, bias
    return FirstStage(columns, idf, *whole, threshold=2.0)


def calibrate(
    stage: FirstStage, tokens: Sequence[Sequence[int]], truth: Sequence[str], encoder: Predictions,
    max_loss: float, confidence: float,
) -> tuple[FirstStage, Cascaded] | None:  # fmt: skip
    """The largest share of the rows that the first stage may answer, for a loss of accuracy below ``max_loss``.

    ``encoder`` are the other stage's answers to the n rows, which neither has learnt from. The loss is the mean of the
    rows' differences, and its upper bound a normal one of the level ``confidence`` (one-sided) with Laplace's one more
    row against the cascade. None where no share keeps to it.
    """
    probabilities = stage.predict_proba(tokens)
    first = probabilities.argmax(axis=1)
    second = encoder.probabilities.argmax(axis=1)
    right = np.asarray([encoder.classes.index(name) if name in encoder.classes else -1 for name in truth])
    lost = (second == right).astype(float) - (first == right)
    for share in SHARES:
        threshold = float(np.quantile(probabilities.max(axis=1), 1 - share))
        found = replace(stage, threshold=threshold)
        sure = found.sure(probabilities)
        loss, high = _bound(np.where(sure, lost, 0.0), confidence)
        apart = (first != second) & sure
        if high <= max_loss and sure.any() and apart.mean() <= FLATTERY * max_loss:
            figures = {"share": sure.mean(), "loss": loss, "loss_high": high, "disagreement": apart.sum() / sure.sum()}
            return found, Cascaded(**{key: round(float(value), 4) for key, value in figures.items()}, rows=len(truth))
    return None


def _bound(lost: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Mean and upper bound."""
    padded = np.append(lost, 1.0)
    spread = float(padded.std(ddof=1)) / len(padded) ** 0.5
    return float(lost.mean()), float(padded.mean()) + NormalDist().inv_cdf(confidence) * spread
