"""A slice of labelled events that two models have answered, and the resampling that tells a difference from chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.core.models.classifier import Predictions
from retrain.training_window import TrainingWindow

RESAMPLES = 2000
CHUNK = 2_000_000
"""Most numbers drawn at once, for the sake of memory: a long slice is resampled in parts."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """n labelled events with the answers of the champion and of a challenger that was trained on none of them.

    Raises:
        ValueError: there are no events, the parts are not as many, or a weight is negative or all are zero.
    """

    truth: Sequence[str]
    champion: Predictions
    challenger: Predictions
    segments: Sequence[str] = ()
    """Shape (n,) or empty: which part of the stream each event comes from; "" for none."""
    annotators: Sequence[str] = ()
    """Shape (n,) or empty: who gave each label; "" where that is not known."""
    weights: Values | None = None
    """Shape (n,), from 0 up: how much each label counts; all alike where none are given."""

    def __post_init__(self) -> None:
        n = len(self.truth)
        if not n or not n == len(self.champion.probabilities) == len(self.challenger.probabilities):
            sizes = f"{len(self.champion.probabilities)} and {len(self.challenger.probabilities)}"
            raise ValueError(f"cannot compare {sizes} answers on {n} events")
        if any(len(part) not in (0, n) for part in (self.segments, self.annotators)):
            raise ValueError(f"segments and annotators must be given for all of the {n} events or for none")
        if self.weights is not None and (
            len(self.weights) != n or not np.isfinite(self.weights).all() or (self.weights < 0).any()
        ):
            raise ValueError(f"{len(self.weights)} weights for {n} events, or one that is not a number from 0 up")
        if self.weights is not None and not self.weights.any():
            raise ValueError("every label has weight zero: there is nothing to compare on")

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def row_weights(self) -> Values:
        """Shape (n,): the weights, ones where none are given."""
        return np.ones(len(self)) if self.weights is None else np.asarray(self.weights, dtype=np.float64)

    def correctness(self) -> tuple[Values, Values]:
        """Correctness of the champion and of the challenger, each of shape (n,), 1 where right."""
        return correct(self.truth, self.champion), correct(self.truth, self.challenger)

    def groups(self, names: Sequence[str]) -> list[tuple[str, NDArray[np.bool_]]]:
        """Each distinct name but the empty one, sorted, with the mask (n,) of its rows."""
        array = np.asarray(names, dtype=object)
        return [(str(name), array == name) for name in sorted(set(names) - {""})]


def slice_of(rows: TrainingWindow, champion: Predictions, challenger: Predictions) -> Slice:
    """The rows of a window as a slice, with both models' answers to them."""
    return Slice(
        rows.labels,
        champion,
        challenger,
        rows.segments,
        rows.annotators if any(rows.annotators) else (),
        np.asarray(rows.gate_weights) if any(rows.gate_weights) else None,
    )


def correct(truth: Sequence[str], said: Predictions) -> Values:
    """Shape (n,): 1 where the answer is right."""
    return np.asarray([float(a == b) for a, b in zip(said.labels, truth, strict=True)])


def brier(truth: Sequence[str], said: Predictions) -> Values:
    """Shape (n,): the squared distance between the probabilities and the truth, from 0 to 2, summed over all classes.

    A class that the model cannot name has probability zero.
    """
    column = {name: number for number, name in enumerate(said.classes)}
    given = said.probabilities.astype(np.float64)
    right = np.array([given[row, column[name]] if name in column else 0.0 for row, name in enumerate(truth)])
    return np.asarray((given**2).sum(axis=1) - 2 * right + 1)


def effective_sample_size(weights: Values) -> float:
    """Kish's effective sample size: how many rows of equal weight say as much as these."""
    total = float((weights**2).sum())
    return float(weights.sum()) ** 2 / total if total else 0.0


def resampled_means(values: Values, seed: int, weights: Values | None = None) -> Values:
    """Shape (`RESAMPLES`,): weighted means of ``values`` (n,) over resamples of the rows with replacement."""
    rng = np.random.default_rng(seed)
    means = []
    for part in _parts(len(values)):
        rows = rng.integers(0, len(values), (part, len(values)))
        if weights is None:
            means.append(values[rows].mean(axis=1))
        else:
            total = weights[rows].sum(axis=1)
            # A resample may hold nothing but rows of weight zero: it says what the whole says.
            whole = np.average(values, weights=weights)
            means.append(np.where(total > 0, (values * weights)[rows].sum(axis=1) / np.maximum(total, 1e-12), whole))
    return np.concatenate(means)


def resampled_sums(columns: Values, seed: int) -> Values:
    """Shape (`RESAMPLES`, k): sums of each column of ``columns`` (n, k) over resamples of the rows with replacement."""
    rng = np.random.default_rng(seed)
    n = len(columns)
    return np.concatenate([rng.multinomial(n, np.full(n, 1 / n), part) @ columns for part in _parts(n)])


def bootstrap_interval(
    values: Values, confidence: float, seed: int, weights: Values | None = None
) -> tuple[float, float]:
    """Percentile interval of the (weighted) mean of ``values`` (n,): paired bootstrap (Efron and Tibshirani, 1993)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_means(values, seed, weights), [tail, 1 - tail])
    return float(low), float(high)


def fall_p_values(columns: Values, seed: int) -> Values:
    """Shape (k,): for each column of paired differences (n, k), the chance of a sum this low between equal models.

    Fisher's randomisation test: if the two models are equal, each row's difference might as well have the other sign.
    On 0/1 correctness it is McNemar's exact test by sampling. Unlike a bootstrap percentile it keeps its level on 20
    rows, where three lost answers are nothing unusual (chance 1/8), and it takes weights: multiply them in.
    """
    rng = np.random.default_rng(seed)
    observed = columns.sum(axis=0)
    as_low = np.zeros(columns.shape[1])
    for part in _parts(len(columns)):
        signs = rng.integers(0, 2, (part, len(columns)), dtype=np.int8).astype(np.float64) * 2 - 1
        as_low += (signs @ columns <= observed + 1e-9).sum(axis=0)
    return np.asarray((as_low + 1) / (RESAMPLES + 1))


def holm_adjusted(chances: Values) -> Values:
    """Shape (k,): p-values adjusted for k looks at once (Holm, 1979): the chance of any false alarm at all is kept."""
    order = np.argsort(chances, kind="stable")
    factors = len(chances) - np.arange(len(chances))
    adjusted = np.maximum.accumulate(chances[order] * factors)
    out = np.empty(len(chances))
    out[order] = np.minimum(adjusted, 1.0)
    return out


def _parts(n: int) -> Iterator[int]:
    """How many resamples to draw at a time."""
    size = max(CHUNK // max(n, 1), 1)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
