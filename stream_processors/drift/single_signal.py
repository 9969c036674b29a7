"""Detector of a single signal, as configured by a line such as ``error:adwin``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from stream_processors.drift.detectors import CustomDetector, RiverDetector, State, make_detector
from stream_processors.drift.explanation import ObservedEvent

SignalName = Literal["error", "confidence", "mix"]


@dataclass
class SignalDetector:
    """Detector of one signal; for the mix, one detector per class.

    Args:
        signal: Name of the signal.
        text: Configured line, from which the detectors are made.
        detectors: Detectors by class, or under an empty name if the signal is not the mix.
    """

    signal: SignalName
    text: str
    detectors: dict[str, RiverDetector | CustomDetector] = field(default_factory=dict)

    def update(self, event: ObservedEvent) -> bool:
        """Add an event; return True if a detector alarms."""
        if self.signal == "mix":
            self._add(event.predicted)
            alarms = [self._update_one(name, float(event.predicted == name)) for name in self.detectors]
            return any(alarms)
        self._add("")
        return self._update_one("", event.value(self.signal))

    def reset(self) -> None:
        """Drop the state of the detectors."""
        self.detectors.clear()

    def dump(self) -> dict[str, bytes]:
        """Return the state of each detector."""
        return {name: detector.dump() for name, detector in self.detectors.items()}

    def restore(self, states: dict[str, bytes]) -> None:
        """Restore a result of `dump`."""
        for name, state in states.items():
            self._add(name)
            self.detectors[name].restore(state)

    def _update_one(self, name: str, value: float) -> bool:
        return self.detectors[name].update(value) is State.DRIFT

    def _add(self, name: str) -> None:
        if name not in self.detectors:
            self.detectors[name] = make_detector(self.text)[1]


def make_signal_detector(text: str) -> SignalDetector:
    """Return the detector of a configured line such as ``error:adwin``.

    Raises:
        DriftloopError: The line is wrong; see `make_detector`.
    """
    return SignalDetector(cast(SignalName, make_detector(text)[0]), text)
