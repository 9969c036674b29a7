"""A single signal under a single detector, as configured by a line such as ``error:adwin``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from stream_processors.drift.detectors import CustomDetector, RiverDetector, State, make_detector
from stream_processors.drift.explanation import ObservedEvent

SignalName = Literal["error", "confidence", "mix"]


@dataclass
class SignalDetector:
    """One signal under one detector; for the mix, one detector for each class."""

    signal: SignalName
    text: str
    detectors: dict[str, RiverDetector | CustomDetector] = field(default_factory=dict)

    def update(self, seen: ObservedEvent) -> bool:
        """Feed the detectors; True when one of them alarms."""
        if self.signal == "mix":
            self._meet(seen.predicted)
            alarms = [self._feed(name, float(seen.predicted == name)) for name in self.detectors]
            return any(alarms)
        self._meet("")
        return self._feed("", seen.value(self.signal))

    def reset(self) -> None:
        """Forget everything the detectors have learnt."""
        self.detectors.clear()

    def dump(self) -> dict[str, bytes]:
        """The state of each detector."""
        return {name: detector.dump() for name, detector in self.detectors.items()}

    def restore(self, states: dict[str, bytes]) -> None:
        """Take over what `dump` gave."""
        for name, state in states.items():
            self._meet(name)
            self.detectors[name].restore(state)

    def _feed(self, name: str, value: float) -> bool:
        return self.detectors[name].update(value) is State.DRIFT

    def _meet(self, name: str) -> None:
        if name not in self.detectors:
            self.detectors[name] = make_detector(self.text)[1]


def make_signal_detector(text: str) -> SignalDetector:
    """The track of a configured line.

    Raises:
        DriftloopError: see `make_detector`.
    """
    return SignalDetector(cast(SignalName, make_detector(text)[0]), text)
