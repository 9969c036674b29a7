"""Stored state of a drift monitor: observations as MessagePack, and detectors as pickles.

`stream_processors.drift.unpickling` reads the pickles of the version before.
"""

from __future__ import annotations

import msgspec
import river

from stream_processors.drift.accuracy_estimation import Block
from stream_processors.drift.explanation import ObservedEvent
from stream_processors.drift.row_buffer import BufferDelta
from stream_processors.drift.signals import Observation

MADE_BY = f"detectors 3, and river {river.__version__}"
"""Versions that pickled the detectors. Increase the number of the detectors if the content of their pickles changes."""


class Rows(msgspec.Struct, frozen=True):
    """Observations of a monitor: all of them, or those added since the last save."""

    labelled: BufferDelta[ObservedEvent]
    predicted: BufferDelta[ObservedEvent]
    fused: dict[str, dict[str, BufferDelta[Observation]]]
    """Observations by detector and signal."""
    calibration: BufferDelta[tuple[float, bool, str]] = BufferDelta(True, [])
    """Outcomes that the accuracy is estimated from."""


class Saved(msgspec.Struct, frozen=True):
    """Stored state of a monitor's detectors."""

    version: str
    labelled: list[ObservedEvent]
    """Empty, because the rows are stored separately; older versions stored them here."""
    predicted: list[ObservedEvent]
    """As `labelled`."""
    detectors: dict[str, dict[str, bytes]]
    """State of each single detector, by its configured line."""
    begins: dict[str, float]
    """`occurred_at` of the present concept's first observation, by configured line."""
    fused: dict[str, bytes] = {}
    """Pickle of each fused detector, by its configured line."""
    blocks: list[Block] = []
    """Estimated accuracy of each block of predictions, and the realised one once its labels have come."""
    confidences: list[float] = []
    """Confidences of the last block, if it is still growing."""
    outcomes: int = 0
    made_by: str = ""
    """Versions that pickled the detectors. 0.1.0 wrote its own version in front."""

    @property
    def readable(self) -> bool:
        """Return True if this version understands the pickles of the detectors."""
        return self.made_by.removeprefix("driftloop 0.1.0, ") == MADE_BY
