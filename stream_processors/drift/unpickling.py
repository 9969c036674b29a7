"""Unpickler of stored detectors that knows the names which their classes had in the version before.

A pickle names each class by its module and its name. A rename therefore needs an entry here, or the stored detectors
cannot be read and begin anew.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

ROOM = "stream_processors.drift"

MOVED = {
    "edetector": "e_detector",
    "estimate": "accuracy_estimation",
    "evidence": "explanation",
    "fusion": "fused_detector",
    "kept": "row_buffer",
    "single": "single_signal",
    "watch": "drift_monitor",
}
"""New name by old name of each module of `ROOM` that was renamed after 0.1.0; to be dropped in the release after."""

RENAMED = {
    "AccuracyEstimate": "ConfidenceBasedEstimator",
    "DriftWatch": "DriftMonitor",
    "Fusion": "FusedDetector",
    "Kept": "RowBuffer",
    "Learnt": "ReferenceSignal",
    "OwnDetector": "CustomDetector",
    "Part": "BufferDelta",
    "Rated": "TwoSidedSignal",
    "Seen": "ObservedEvent",
    "Shares": "ClassShareDetector",
    "Track": "SignalDetector",
}
"""New name by old name of each class of `ROOM` that was renamed after 0.1.0; to be dropped in the release after."""


def load_pickle(body: bytes) -> Any:
    """Return the object that this version, or the one before it, has pickled.

    The caller must have checked the signature of the bytes: a pickle can run any code.
    """
    return _Unpickler(io.BytesIO(body)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        room, _, last = module.rpartition(".")
        if room == ROOM:
            module, name = f"{ROOM}.{MOVED.get(last, last)}", RENAMED.get(name, name)
        return super().find_class(module, name)
