"""How far each annotator's labels are to be trusted, judged against the other annotators of the same time."""

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
"""Rows of an annotator that a period should hold on average, where the caller gives no periods."""
ROUNDS = 20
FOLDS = 3
MIN_ROWS = 60


@dataclass(frozen=True)
class Trust:
    """What was found about the annotators of n labelled rows."""

    flip_rates: dict[str, float]
    """Share of an annotator's labels that are wrong beyond what the others' are, 0 unless beyond chance."""
    weights: Values
    """Shape (n,), in [0, 1]: for the gate. The same for all rows of an annotator."""
    training_weights: Values
    """Shape (n,), in [0, 1]: for training. The chance that this very label is right."""


def weight_labels(window: TrainingWindow, seed: int = 7) -> TrainingWindow:
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
        fit_unconverged(model, window.embeddings[train], labels[train])
        columns = [window.classes.index(str(name)) for name in model.classes_]
        said[np.ix_(test, columns)] = model.predict_proba(window.embeddings[test])
    trust = judge_annotators(window.annotators, window.labels, window.classes, said)
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
    """Estimate who flips labels, from one label per row and a model as the second opinion.

    As in a one-coin model (Dawid and Skene, 1979) an annotator gives a wrong class, any of the others alike, with one
    unknown chance; as in confident learning (Northcutt et al., 2021) the second opinion is a model's ``probabilities``
    (n, k) for rows that it was not trained on. A flip lowers the probability that the model gives to the label. That
    of an annotator is compared with what the *other* annotators get in the same period, and only with that: where the
    stream drifts and the model is wrong, it is wrong for all of them and nobody is a liar. The others count by their
    own trust, found by iteration. Differences in how easy the rows are cancel, since the model's own expectation of its
    agreement, the sum of its squared probabilities, is taken off each row.

    A rate is shrunk by its error (non-negative garrote, Breiman 1995) and is 0 unless beyond chance at ``alpha`` for
    all annotators together. With one annotator, none named, or all alike, every weight is 1. Rows without a name ("")
    count as those of one more annotator. Where most labels come from liars who agree, it cannot tell who lies.

    ``periods`` has shape (n,); by default the rows, in the order of their arrival, are cut into equal stretches.

    Raises:
        ValueError: the arguments are not as many, or a label is none of the ``classes``.
    """
    n = len(labels)
    if len(annotators) != n or np.shape(probabilities) != (n, len(classes)) or len(periods) not in (0, n):
        raise ValueError(f"{len(annotators)} annotators and {np.shape(probabilities)} probabilities for {n} labels")
    column = {name: number for number, name in enumerate(classes)}
    if not set(labels) <= set(column):
        raise ValueError(f"labels that are none of the classes: {sorted(set(labels) - set(column))}")
    names, who = np.unique(np.asarray(annotators, dtype=str), return_inverse=True)
    if len(names) < 2 or len(classes) < 2:
        return Trust({str(name): 0.0 for name in names}, np.ones(n), np.ones(n))
    given = np.asarray(probabilities, dtype=np.float64)
    agreement = given[np.arange(n), [column[label] for label in labels]]
    surprise = (given**2).sum(axis=1) - agreement
    when = np.unique(periods, return_inverse=True)[1] if len(periods) else _stretches(n, len(names))
    rates = np.zeros(len(names))
    for _ in range(ROUNDS):
        trust = _worth(rates, len(classes))
        rates = _flip_rates(who, when, agreement, surprise, trust, len(classes), alpha)
    flips = rates[who]
    right, wrong = (1 - flips) * agreement, flips * (1 - agreement) / (len(classes) - 1)
    clean = np.where(flips > 0, right / np.maximum(right + wrong, 1e-12), 1.0)
    found = {str(name): float(rate) for name, rate in zip(names, rates, strict=True)}
    return Trust(found, _worth(rates, len(classes))[who], clean)


def _flip_rates(
    who: NDArray[np.intp],
    when: NDArray[np.intp],
    agreement: Values,
    surprise: Values,
    trust: Values,
    classes: int,
    alpha: float,
) -> Values:
    """One round: each annotator's surprise against the others' of the same period, in units of one flip.

    Rows of a period in which nobody else has labelled count as rows without a flip, and who has mostly such rows is not
    judged at all: who came with the drift would else be judged by the few rows next to it.
    """
    shape = (len(trust), int(when.max()) + 1)
    rows, agreed, surprised = (
        _totals(who, when, values * trust[who], shape) for values in (np.ones(len(who)), agreement, surprise)
    )
    count = (rows.sum(axis=0) - rows)[who, when]
    known = count > 1e-9
    count = np.maximum(count, 1e-9)
    excess = np.where(known, surprise - (surprised.sum(axis=0) - surprised)[who, when] / count, 0.0)
    # What one flip costs in agreement. The level includes the annotator's own rows: of the others alone, it would be
    # high by chance exactly where they look good. Nothing can be learned from a model no better than chance.
    level = agreed.sum(axis=0)[when] / np.maximum(rows.sum(axis=0)[when], 1e-9)
    cost = np.maximum((classes * level - 1) / (classes - 1), 0.0)
    # The others' mean is itself uncertain, by as many rows as it rests on, and shared by all own rows of the period.
    own = _totals(who, when, np.ones(len(who)), shape)
    each = own.sum(axis=1)
    variance = np.array([surprise[who == number].var() for number in range(len(trust))])
    rest = ((each * variance).sum() - each * variance) / np.maximum(each.sum() - each, 1.0)
    noise = cost**2 * (variance[who] + np.where(known, rest[who] * own[who, when] / count, 0.0))
    size = np.maximum(np.bincount(who, cost**2, len(trust)), 1e-12)
    rate = np.maximum(np.bincount(who, cost * excess, len(trust)) / size, 1e-12)
    limit = float(norm.ppf(1 - alpha / len(trust))) * np.sqrt(np.bincount(who, noise, len(trust))) / size
    shrunk = np.minimum(rate * np.maximum(1 - (limit / rate) ** 2, 0.0), 1.0)
    return np.where(np.bincount(who, known, len(trust)) >= each / 2, shrunk, 0.0)


def _totals(who: NDArray[np.intp], when: NDArray[np.intp], values: Values, shape: tuple[int, int]) -> Values:
    """Sums of ``values`` (n,) by annotator and period."""
    table = np.zeros(shape)
    np.add.at(table, (who, when), values)
    return table


def _worth(rates: Values, classes: int) -> Values:
    """What a label still says of the truth at a flip rate: 1 at none, 0 where it is no better than a guess."""
    return np.maximum(1 - rates * classes / (classes - 1), 0.0)


def _stretches(n: int, annotators: int) -> NDArray[np.intp]:
    """Equal stretches of time, long enough for each annotator to have rows in most of them."""
    return np.arange(n) // max(ROWS_PER_PERIOD * annotators, 1)
