"""Accuracy before the labels are there: what the model's confidence, calibrated on past outcomes, lets expect.

The method is NannyML's CBPE: the mean of the calibrated confidence over a block of predictions. It holds while P(y|x)
stays as it was; under concept drift it cannot know, so each block is kept until its labels are there, and its realised
accuracy stands beside the estimate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from sklearn.isotonic import IsotonicRegression

from stream_processors.drift.row_buffer import RowBuffer

BLOCK = 250
MIN_CALIBRATION = 50
"""Outcomes without which nothing is estimated."""
CALIBRATION = 2000
BLOCKS = 400
"""Blocks kept."""
Z = 1.96


class Block(msgspec.Struct, kw_only=True):
    """Successive predictions of one model version."""

    start_at: float
    end_at: float
    """`occurred_at` of the first and the last prediction."""
    start: int
    end: int
    """Their positions."""
    version: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    """The estimated accuracy with its 95% interval; None where there were too few outcomes to calibrate on."""
    realised: float | None = None
    """Accuracy over the labels that have come."""
    labels: int = 0

    @property
    def failed(self) -> bool:
        """Whether the realised accuracy lies outside the interval by more than chance over its labels explains."""
        if self.estimate is None or self.low is None or self.high is None or self.realised is None:
            return False
        noise = Z * (self.estimate * (1 - self.estimate) / max(self.labels, 1)) ** 0.5
        return not self.low - noise <= self.realised <= self.high + noise


class ConfidenceBasedEstimator:
    """Estimates the accuracy of each block of predictions, and later says what became of it."""

    def __init__(self, block: int = BLOCK) -> None:
        self._size = block
        self.confidences: list[float] = []
        """Of the block that is still growing."""
        self.past: RowBuffer[tuple[float, bool, str]] = RowBuffer(CALIBRATION)
        """Outcomes: the confidence, whether the prediction was right, and the version that made it."""
        self.blocks: deque[Block] = deque(maxlen=BLOCKS)
        """Oldest first; the last one may still be growing, and has no estimate then."""

    def restore(self, blocks: Iterable[Block], confidences: Iterable[float]) -> None:
        """Take over `blocks` and `confidences`; `past` takes its rows by itself."""
        self.blocks = deque(blocks, BLOCKS)
        self.confidences = list(confidences)

    def predicted(self, confidence: float, version: str, position: int, occurred_at: float) -> Block | None:
        """Take a prediction; the block that it completes, None otherwise. A new version begins a new block."""
        if self.confidences and self.blocks[-1].version != version:
            self.blocks.pop()
            self.confidences.clear()
        if not self.confidences:
            self.blocks.append(
                Block(start_at=occurred_at, end_at=occurred_at, start=position, end=position, version=version)
            )
        self.confidences.append(confidence)
        block = self.blocks[-1]
        block.end_at, block.end = occurred_at, position
        if len(self.confidences) < self._size:
            return None
        block.estimate, block.low, block.high = self.estimate(self.confidences, version)
        self.confidences.clear()
        return block

    def labelled(self, confidence: float, correct: bool, version: str, occurred_at: float) -> None:
        """Take an outcome: it calibrates what comes, and counts for the block that it belongs to."""
        self.past.append((confidence, correct, version))
        for block in reversed(self.blocks):
            if block.version == version and block.start_at <= occurred_at <= block.end_at:
                block.labels += 1
                block.realised = (block.realised or 0.0) + (correct - (block.realised or 0.0)) / block.labels
                break

    def estimate(self, confidences: Sequence[float], version: str) -> tuple[float | None, float | None, float | None]:
        """Mean calibrated confidence and its 95% interval; the version's own outcomes are used where there are enough.

        The interval adds the spread of the block's own outcomes to that of the outcomes behind the calibration; a
        change of P(y|x) is in neither.
        """
        own = [(confidence, correct) for confidence, correct, by in self.past if by == version]
        past = own if len(own) >= MIN_CALIBRATION else [(confidence, correct) for confidence, correct, _ in self.past]
        if len(past) < MIN_CALIBRATION:
            return None, None, None
        x, y = np.array(past, dtype=float).T
        curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y)
        expected = curve.predict(np.asarray(confidences))
        centre = float(expected.mean())
        spread = Z * float(np.sqrt(np.mean(expected * (1 - expected)) * (1 / len(expected) + 1 / len(past))))
        return round(centre, 4), round(max(0.0, centre - spread), 4), round(min(1.0, centre + spread), 4)
