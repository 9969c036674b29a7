"""Paired slice: labelled events that two models have answered, and resampling tests of their difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.core.models.classifier import Predictions
from retrain.training_window import TrainingWindow

RESAMPLES = 2000
CHUNK = 2_000_000
"""Random numbers drawn at a time. It bounds the memory: a long slice is resampled in parts."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """n labelled events with the predictions of the champion and of a challenger that learnt none of them.

    Raises:
        ValueError: There are no events, the parts differ in length, or a weight is negative or all are zero.
    """

    truth: Sequence[str]
    """Shape (n,): true labels."""
    champion: Predictions
    challenger: Predictions
    segments: Sequence[str] = ()
    """Shape (n,) or empty: the part of the stream that each event comes from; "" for none."""
    annotators: Sequence[str] = ()
    """Shape (n,) or empty: the annotator of each label; "" if unknown."""
    weights: Values | None = None
    """Shape (n,), from 0 up: weight of each label. `None` weighs all labels alike."""

    def __post_init__(self) -> None:
        n = len(self.truth)
        if not n or not n == len(self.champion.probabilities) == len(self.challenger.probabilities):
            sizes = f"{len(self.champion.probabilities)} and {len(self.challenger.probabilities)}"
            raise ValueError(f"cannot compare {sizes} predictions on {n} events")
        if any(len(part) not in (0, n) for part in (self.segments, self.annotators)):
            raise ValueError(f"segments and annotators must be given for all of the {n} events or for none")
        if self.weights is not None:
            self._check_weights(self.weights)

    def _check_weights(self, weights: Values) -> None:
        if len(weights) != len(self):
            raise ValueError(f"{len(weights)} weights for {len(self)} events")
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("a weight is not a number from 0 up")
        if not weights.any():
            raise ValueError("every label has weight zero, so there is nothing to compare on")

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def row_weights(self) -> Values:
        """Return the weights, shape (n,); ones if none are given."""
        return np.ones(len(self)) if self.weights is None else np.asarray(self.weights, dtype=np.float64)

    def correctness(self) -> tuple[Values, Values]:
        """Return the correctness of the champion and of the challenger, each of shape (n,), 1 where right."""
        return correct(self.truth, self.champion), correct(self.truth, self.challenger)

    def groups(self, names: Sequence[str]) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return each distinct name but the empty one, sorted, with the mask (n,) of its rows."""
        array = np.asarray(names, dtype=object)
        return [(str(name), array == name) for name in sorted(set(names) - {""})]


def slice_of(rows: TrainingWindow, champion: Predictions, challenger: Predictions) -> Slice:
    """Return the rows of a window as a slice.

    Args:
        rows: Labelled events that neither model learnt.
        champion: Predictions of the champion for the rows.
        challenger: Predictions of the challenger for the rows.
    """
    return Slice(
        rows.labels,
        champion,
        challenger,
        rows.segments,
        rows.annotators if any(rows.annotators) else (),
        np.asarray(rows.gate_weights) if any(rows.gate_weights) else None,
    )


def correct(truth: Sequence[str], predictions: Predictions) -> Values:
    """Return 1 for each right label and 0 for each wrong one, shape (n,).

    Args:
        truth: True labels, shape (n,).
        predictions: Predictions for the same rows.
    """
    return np.asarray([float(a == b) for a, b in zip(predictions.labels, truth, strict=True)])


def brier(truth: Sequence[str], predictions: Predictions) -> Values:
    """Return the Brier score of each row, shape (n,), from 0 to 2, summed over all classes.

    A class that the model cannot name has probability zero.

    Args:
        truth: True labels, shape (n,).
        predictions: Predictions for the same rows.
    """
    column = {name: number for number, name in enumerate(predictions.classes)}
    given = predictions.probabilities.astype(np.float64)
    right = np.array([given[row, column[name]] if name in column else 0.0 for row, name in enumerate(truth)])
    return np.asarray((given**2).sum(axis=1) - 2 * right + 1)


def effective_sample_size(weights: Values) -> float:
    """Return Kish's effective sample size: the number of rows of equal weight that carry as much information."""
    total = float((weights**2).sum())
    return float(weights.sum()) ** 2 / total if total else 0.0


def resampled_means(values: Values, seed: int, weights: Values | None = None) -> Values:
    """Return weighted means over resamples of the rows with replacement, shape (`RESAMPLES`,).

    Args:
        values: Value of each row, shape (n,).
        seed: Seed of the random numbers.
        weights: Weight of each row, shape (n,). `None` weighs all rows alike.
    """
    rng = np.random.default_rng(seed)
    means = []
    for part in _parts(len(values)):
        rows = rng.integers(0, len(values), (part, len(values)))
        if weights is None:
            means.append(values[rows].mean(axis=1))
        else:
            total = weights[rows].sum(axis=1)
            # The mean of all rows stands for a resample that holds only rows of weight zero.
            whole = np.average(values, weights=weights)
            means.append(np.where(total > 0, (values * weights)[rows].sum(axis=1) / np.maximum(total, 1e-12), whole))
    return np.concatenate(means)


def resampled_sums(columns: Values, seed: int) -> Values:
    """Return the sums of each column over resamples of the rows with replacement, shape (`RESAMPLES`, k).

    Args:
        columns: Values, shape (n, k).
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    n = len(columns)
    return np.concatenate([rng.multinomial(n, np.full(n, 1 / n), part) @ columns for part in _parts(n)])


def bootstrap_interval(
    values: Values, confidence: float, seed: int, weights: Values | None = None
) -> tuple[float, float]:
    """Return the percentile interval of the weighted mean by a bootstrap (Efron and Tibshirani, 1993).

    Args:
        values: Value of each row, shape (n,). For a paired bootstrap, the difference of two models.
        confidence: Two-sided level of the interval.
        seed: Seed of the random numbers.
        weights: Weight of each row, shape (n,). `None` weighs all rows alike.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_means(values, seed, weights), [tail, 1 - tail])
    return float(low), float(high)


def fall_p_values(columns: Values, seed: int) -> Values:
    """Return the one-sided p-value of each column's sum: how often equal models show a sum as low. Shape (k,).

    Fisher's randomisation test: if both models are equal, each row's difference is as likely to have the other sign.
    On 0/1 correctness it is McNemar's exact test by sampling. Unlike a bootstrap percentile it keeps its level on 20
    rows, where three lost rows are not unusual (p = 1/8).

    Args:
        columns: Paired differences, shape (n, k). Multiply the row weights in.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    observed = columns.sum(axis=0)
    as_low = np.zeros(columns.shape[1])
    for part in _parts(len(columns)):
        signs = rng.integers(0, 2, (part, len(columns)), dtype=np.int8).astype(np.float64) * 2 - 1
        as_low += (signs @ columns <= observed + 1e-9).sum(axis=0)
    return np.asarray((as_low + 1) / (RESAMPLES + 1))


def holm_adjusted(p_values: Values) -> Values:
    """Return k p-values adjusted for k tests (Holm, 1979), which keeps the rate of any false alarm. Shape (k,)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(p_values[order] * factors)
    out = np.empty(len(p_values))
    out[order] = np.minimum(adjusted, 1.0)
    return out


def _parts(n: int) -> Iterator[int]:
    """Yield the number of resamples to draw in each part."""
    size = max(CHUNK // max(n, 1), 1)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
