"""Stack of a mixture and a candidate in shadow: the two as experts, weighted by how well each does at present.

It is the mixture that would answer if the candidate were one of its guests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retrain.mixture.fixed_share import update_weights


class Stack:
    """Fixed-share mean of two models' probabilities. Both begin with half of the weight."""

    def __init__(self) -> None:
        self._weights = np.asarray([0.5, 0.5])

    @property
    def weight(self) -> float:
        """Weight of the candidate."""
        return float(self._weights[1])

    def combine(self, mixture: Mapping[str, float], candidate: Mapping[str, float]) -> dict[str, float]:
        """Return the weighted mean of two probabilities by class.

        Args:
            mixture: Answer of the mixture.
            candidate: Answer of the candidate.
        """
        ours, theirs = map(float, self._weights)
        classes = dict.fromkeys((*mixture, *candidate))
        return {name: ours * mixture.get(name, 0.0) + theirs * candidate.get(name, 0.0) for name in classes}

    def learn(self, label: str, mixture: Mapping[str, float], candidate: Mapping[str, float]) -> None:
        """Move the weights by one label.

        Args:
            label: The true label.
            mixture: Answer of the mixture, from before the label was known.
            candidate: Answer of the candidate.
        """
        given = np.asarray([mixture.get(label, 0.0), candidate.get(label, 0.0)])
        self._weights = update_weights(self._weights, given)
