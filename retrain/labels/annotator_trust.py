"""Annotator trust: weights for labels, from a comparison of each annotator with the others of the same period."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from retrain.candidates.training_rows import fit_unconverged
from retrain.training_window import TrainingWindow

Values = NDArray[np.float64]

ROWS_PER_PERIOD = 20
"""Rows of an annotator that a period holds on average, if the caller gives no periods."""
ROUNDS = 20
"""Iterations of rates and weights."""
FOLDS = 3
MIN_ROWS = 60
"""Rows of a window below which no annotator is judged."""


@dataclass(frozen=True)
class Trust:
    """Trust in the annotators of n labelled rows."""

    flip_rates: dict[str, float]
    """Share of an annotator's labels that are wrong beyond the share of the others; 0 unless beyond chance."""
    weights: Values
    """Shape (n,), in [0, 1]: weights for the gate, the same for all rows of an annotator."""
    training_weights: Values
    """Shape (n,), in [0, 1]: weights for training, the chance that this label is right."""


def weight_labels(window: TrainingWindow, seed: int = 7) -> TrainingWindow:
    """Return the window with the weights that `judge_annotators` gives to its labels.

    The second opinion is a logistic regression on the embeddings, fitted on the other two thirds of the rows. A window
    with one annotator or few rows is returned unchanged.

    Args:
        window: Labelled events with their annotators.
        seed: Seed of the split into thirds.
    """
    if len(set(window.annotators)) < 2 or len(window.classes) < 2 or len(window) < MIN_ROWS:
        return window
    labels = np.asarray(window.labels)
    probabilities = np.full((len(window), len(window.classes)), 1e-6)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(window.embeddings):
        if len(set(labels[train])) < 2:
            return window
        model = LogisticRegression(C=3.0, max_iter=60, tol=1e-3)
        fit_unconverged(model, window.embeddings[train], labels[train])
        columns = [window.classes.index(str(name)) for name in model.classes_]
        probabilities[np.ix_(test, columns)] = model.predict_proba(window.embeddings[test])
    trust = judge_annotators(window.annotators, window.labels, window.classes, probabilities)
    return replace(window, weights=tuple(trust.training_weights), gate_weights=tuple(trust.weights))


def judge_annotators(
    annotators: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    probabilities: NDArray[np.floating],
    *,
    periods: Sequence[int] = (),
    alpha: float = 0.05,
) -> Trust:
    """Estimate how often each annotator flips labels, from one label per row and a model as the second opinion.

    As in a one-coin model (Dawid and Skene, 1979) an annotator gives a wrong class with one unknown chance, and every
    wrong class is equally likely. As in confident learning (Northcutt et al., 2021) the second opinion is a model that
    was not trained on the rows. A flip lowers the probability that the model gives to the label.

    An annotator is compared only with the other annotators of the same period. If the stream drifts and the model is
    wrong, it is wrong for all of them, and none is accused. The others count by their own trust, found by iteration.
    The model's expectation of its own agreement, the sum of its squared probabilities, is subtracted from each row. So
    differences in how easy the rows are cancel.

    A rate is shrunk by its error (non-negative garrote, Breiman 1995). It is 0 unless it is beyond chance at ``alpha``
    for all annotators together. Every weight is 1 if there is one annotator, if none is named, or if all are alike. The
    method fails if most labels come from annotators who flip in the same way.

    Args:
        annotators: Annotator of each row, shape (n,). Rows with "" count as those of one more annotator.
        labels: Label of each row, shape (n,).
        classes: The k classes.
        probabilities: The model's probabilities, shape (n, k).
        periods: Period of each row, shape (n,). By default the rows are cut into equal stretches.
        alpha: Error rate for all annotators together.

    Raises:
        ValueError: The arguments differ in length, or a label is none of the classes.
    """
    n = len(labels)
    if len(annotators) != n or np.shape(probabilities) != (n, len(classes)) or len(periods) not in (0, n):
        raise ValueError(f"{len(annotators)} annotators and {np.shape(probabilities)} probabilities for {n} labels")
    column = {name: number for number, name in enumerate(classes)}
    if not set(labels) <= set(column):
        raise ValueError(f"labels that are none of the classes: {sorted(set(labels) - set(column))}")
    names, annotator = np.unique(np.asarray(annotators, dtype=str), return_inverse=True)
    if len(names) < 2 or len(classes) < 2:
        return Trust({str(name): 0.0 for name in names}, np.ones(n), np.ones(n))
    given = np.asarray(probabilities, dtype=np.float64)
    agreement = given[np.arange(n), [column[label] for label in labels]]
    surprise = (given**2).sum(axis=1) - agreement
    period = np.unique(periods, return_inverse=True)[1] if len(periods) else _equal_periods(n, len(names))
    rates = np.zeros(len(names))
    for _ in range(ROUNDS):
        trust = _trust(rates, len(classes))
        rates = _flip_rates(annotator, period, agreement, surprise, trust, len(classes), alpha)
    flips = rates[annotator]
    flip_rates = {str(name): float(rate) for name, rate in zip(names, rates, strict=True)}
    return Trust(flip_rates, _trust(rates, len(classes))[annotator], chance_right(flips, agreement, len(classes)))


def chance_right(flips: Values, agreement: Values, classes: int) -> Values:
    """Return the chance that each of n labels is right, shape (n,); 1 where the annotator does not flip labels.

    Args:
        flips: Flip rate of the annotator of each label, shape (n,).
        agreement: Probability that the second opinion gives to the label, shape (n,).
        classes: Number of classes, k.
    """
    right, wrong = (1 - flips) * agreement, flips * (1 - agreement) / max(classes - 1, 1)
    return np.where(flips > 0, right / np.maximum(right + wrong, 1e-12), 1.0)


def _flip_rates(
    annotator: NDArray[np.intp],
    period: NDArray[np.intp],
    agreement: Values,
    surprise: Values,
    trust: Values,
    classes: int,
    alpha: float,
) -> Values:
    """Return each annotator's flip rate: the surprise beyond the others' of the same period, in units of one flip.

    Rows of a period in which no other annotator labelled count as rows without a flip. An annotator with mostly such
    rows is not judged: one who came with the drift would be judged by the few rows next to it.
    """
    shape = (len(trust), int(period.max()) + 1)
    ones = np.ones(len(annotator))
    rows, agreed, surprised = (
        _totals(annotator, period, values * trust[annotator], shape) for values in (ones, agreement, surprise)
    )
    count = (rows.sum(axis=0) - rows)[annotator, period]
    known = count > 1e-9
    count = np.maximum(count, 1e-9)
    others_mean = (surprised.sum(axis=0) - surprised)[annotator, period] / count
    excess = np.where(known, surprise - others_mean, 0.0)
    # Agreement that one flip costs. The level includes the annotator's own rows: the others' level alone would be high
    # by chance exactly where they look good. A model no better than chance gives no information.
    level = agreed.sum(axis=0)[period] / np.maximum(rows.sum(axis=0)[period], 1e-9)
    cost = np.maximum((classes * level - 1) / (classes - 1), 0.0)
    # The others' mean is itself uncertain, by the number of rows that it rests on, and shared by all own rows of the
    # period.
    own = _totals(annotator, period, ones, shape)
    each = own.sum(axis=1)
    variance = np.array([surprise[annotator == number].var() for number in range(len(trust))])
    rest = ((each * variance).sum() - each * variance) / np.maximum(each.sum() - each, 1.0)
    noise = cost**2 * (variance[annotator] + np.where(known, rest[annotator] * own[annotator, period] / count, 0.0))
    size = np.maximum(np.bincount(annotator, cost**2, len(trust)), 1e-12)
    rate = np.maximum(np.bincount(annotator, cost * excess, len(trust)) / size, 1e-12)
    limit = float(norm.ppf(1 - alpha / len(trust))) * np.sqrt(np.bincount(annotator, noise, len(trust))) / size
    shrunk = np.minimum(rate * np.maximum(1 - (limit / rate) ** 2, 0.0), 1.0)
    return np.where(np.bincount(annotator, known, len(trust)) >= each / 2, shrunk, 0.0)


def _totals(annotator: NDArray[np.intp], period: NDArray[np.intp], values: Values, shape: tuple[int, int]) -> Values:
    """Return the sums of ``values`` (n,) by annotator and period."""
    table = np.zeros(shape)
    np.add.at(table, (annotator, period), values)
    return table


def _trust(rates: Values, classes: int) -> Values:
    """Return the trust at a flip rate: 1 without flips, 0 if a label is no better than a guess."""
    return np.maximum(1 - rates * classes / (classes - 1), 0.0)


def _equal_periods(n: int, annotators: int) -> NDArray[np.intp]:
    """Return the period of each row: equal stretches, long enough for each annotator to have rows in most of them."""
    return np.arange(n) // max(ROWS_PER_PERIOD * annotators, 1)
