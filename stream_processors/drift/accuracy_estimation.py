"""Estimated accuracy of predictions without labels, by the model's calibrated confidence.

The method is NannyML's CBPE (confidence-based performance estimation): the mean of the calibrated confidence over a
block of predictions. It is valid while P(y|x) does not change, and it cannot see a concept drift. Each block is
therefore kept until its labels come, and its realised accuracy is stored beside the estimate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from sklearn.isotonic import IsotonicRegression

from stream_processors.drift.row_buffer import RowBuffer

BLOCK_SIZE = 250
"""Predictions in a block."""
MIN_CALIBRATION = 50
"""Outcomes without which no estimate is made."""
MAX_CALIBRATION = 2000
"""Newest outcomes that the confidence is calibrated on."""
MAX_BLOCKS = 400
"""Newest blocks that are kept."""
Z = 1.96
"""Quantile of the normal distribution for a 95% interval."""


class Block(msgspec.Struct, kw_only=True):
    """Block of successive predictions of one model version."""

    start_at: float
    end_at: float
    """`occurred_at` of the last prediction; `start_at` is that of the first."""
    start: int
    end: int
    """Position of the last prediction; `start` is that of the first."""
    version: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    """Upper end of the estimate's 95% interval; all three are `None` if there were too few outcomes to calibrate on."""
    realised: float | None = None
    """Accuracy over the labels that have come; `None` before the first."""
    labels: int = 0

    @property
    def failed(self) -> bool:
        """True if the realised accuracy lies outside the interval by more than chance over its labels explains."""
        if self.estimate is None or self.low is None or self.high is None or self.realised is None:
            return False
        noise = Z * (self.estimate * (1 - self.estimate) / max(self.labels, 1)) ** 0.5
        return not self.low - noise <= self.realised <= self.high + noise


class ConfidenceBasedEstimator:
    """Estimator of the accuracy of each block of predictions (CBPE, NannyML), which also records the realised accuracy.

    Args:
        block_size: Predictions in a block.
    """

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self._size = block_size
        self.confidences: list[float] = []
        """Confidences of the block that is still growing."""
        self.past: RowBuffer[tuple[float, bool, str]] = RowBuffer(MAX_CALIBRATION)
        """Outcomes as (confidence, True if the prediction was correct, version that made it)."""
        self.blocks: deque[Block] = deque(maxlen=MAX_BLOCKS)
        """Blocks, oldest first; the last one may still be growing, and has no estimate then."""

    def restore(self, blocks: Iterable[Block], confidences: Iterable[float]) -> None:
        """Restore `blocks` and `confidences`; the rows of `past` are restored separately.

        Args:
            blocks: Stored blocks, oldest first.
            confidences: Stored confidences of the block that was still growing.
        """
        self.blocks = deque(blocks, MAX_BLOCKS)
        self.confidences = list(confidences)

    def predicted(self, confidence: float, version: str, position: int, occurred_at: float) -> Block | None:
        """Add a prediction; return the block that it completes, or `None`. A new version begins a new block.

        Args:
            confidence: Confidence of the predicted label, from 0 to 1.
            version: Model version that predicted.
            position: Position of the event in the stream.
            occurred_at: Time of the event, in seconds since 1970.
        """
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
        """Add an outcome, for the calibration and for the realised accuracy of its block.

        Args:
            confidence: Confidence of the predicted label, from 0 to 1.
            correct: True if the prediction was correct.
            version: Model version that predicted.
            occurred_at: Time of the event, in seconds since 1970.
        """
        self.past.append((confidence, correct, version))
        for block in reversed(self.blocks):
            if block.version == version and block.start_at <= occurred_at <= block.end_at:
                block.labels += 1
                block.realised = (block.realised or 0.0) + (correct - (block.realised or 0.0)) / block.labels
                break

    def estimate(self, confidences: Sequence[float], version: str) -> tuple[float | None, float | None, float | None]:
        """Return the mean calibrated confidence and its 95% interval; three times `None` with too few outcomes.

        Only outcomes of the same version are used, if they are enough. The interval adds the spread of the block's own
        outcomes to that of the outcomes behind the calibration. It does not cover a change of P(y|x).

        Args:
            confidences: Confidences of the block.
            version: Model version that predicted.
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
