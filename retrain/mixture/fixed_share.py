"""Weights of experts that follow their losses: the fixed-share forecaster.

The weights multiply with the probability that each expert gave to the true label, to the power of a rate, and then a
small share of the total is spread evenly. The loss stays close to that of the best sequence of experts with few changes
(Herbster and Warmuth, "Tracking the Best Expert", Machine Learning 32, 1998). A rate below 1 averages over more labels;
it keeps several good experts in the mean, which is better than the best of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RATE = 0.2
"""Power of the probability."""
SHARE = 0.01
"""Share of the total weight that is spread evenly after each label."""
MIN_PROBABILITY = 1e-3
"""Smallest probability counted for a true label."""


def update_weights(weights: Values, given: Values, rate: float = RATE, share: float = SHARE) -> Values:
    """Return the weights of m experts after one label.

    Args:
        weights: Shape (m,), summing to 1.
        given: Probability that each expert gave to the true label, shape (m,).
        rate: Power of the probability.
        share: Share that is spread evenly.
    """
    moved = weights * np.maximum(given, MIN_PROBABILITY) ** rate
    return np.asarray((1 - share) * moved / moved.sum() + share / len(weights))


def favour(count: int, best: int, weight: float = 0.9) -> Values:
    """Return weights of m experts that trust one of them.

    Args:
        count: Number of experts, m.
        best: Index of the trusted one.
        weight: Its weight. The others have the rest in equal parts.
    """
    found = np.full(count, (1 - weight) / max(count - 1, 1))
    found[best] = weight if count > 1 else 1.0
    return found
