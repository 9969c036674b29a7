"""STEPD, a change detector on errors that River does not have."""

from __future__ import annotations

from collections import deque

from river.base import DriftAndWarningDetector
from scipy.stats import norm


class STEPD(DriftAndWarningDetector):  # type: ignore[misc]  # river has no types
    """Detector of a rise in the error rate by a test of equal proportions (Nishida and Yamauchi, 2007).

    It compares the error rate of the newest ``window`` predictions with that of all older ones since the last drift.
    The test is a two-proportion z test with continuity correction.

    Args:
        window: Number of predictions in the newer sample.
        alpha_drift: Level of the drift, two-sided as in the paper.
        alpha_warning: Level of the warning.
    """

    def __init__(self, window: int = 30, alpha_drift: float = 0.003, alpha_warning: float = 0.05) -> None:
        super().__init__()
        self.window = window
        self.alpha_drift = alpha_drift
        self.alpha_warning = alpha_warning
        self._restart()

    def update(self, x: bool) -> None:
        """Add a prediction; True stands for an error."""
        if self.drift_detected:
            self._restart()
        if len(self._newest) == self.window:
            self._old_errors += self._newest.popleft()
            self._old += 1
        self._newest.append(int(x))
        p = self._p_value() if self._old >= self.window else 1.0
        self._drift_detected = p < self.alpha_drift
        self._warning_detected = not self._drift_detected and p < self.alpha_warning

    def _restart(self) -> None:
        self._newest: deque[int] = deque()
        self._old = self._old_errors = 0
        self._drift_detected = self._warning_detected = False

    def _p_value(self) -> float:
        new, errors = len(self._newest), sum(self._newest)
        old_rate, new_rate = self._old_errors / self._old, errors / new
        if new_rate <= old_rate:
            return 1.0
        pooled = (self._old_errors + errors) / (self._old + new)
        correction = 0.5 * (1 / self._old + 1 / new)
        spread = (pooled * (1 - pooled) * (1 / self._old + 1 / new)) ** 0.5
        gap = new_rate - old_rate - correction
        return float(2 * norm.sf(gap / spread)) if gap > 0 and spread > 0 else 1.0
