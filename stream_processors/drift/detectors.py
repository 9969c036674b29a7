"""Detectors: River's change detectors behind one small protocol, chosen by a line of configuration."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from river import drift
from river.drift import binary

from driftloop.errors import DriftloopError
from stream_processors.drift.stepd import STEPD


class State(Enum):
    """What a detector says after a value."""

    STABLE = "stable"
    WARNING = "warning"
    DRIFT = "drift"


@runtime_checkable
class Detector(Protocol):
    """Watches one number. `tests/contracts/test_detectors.py` runs the same checks on each of them."""

    name: str

    def update(self, value: float) -> State:
        """Take the next value of the signal and say what it means."""
        ...

    def reset(self) -> None:
        """Forget everything: the model behind the signal has changed."""
        ...


class RiverDetector:
    """Any `river.base.DriftDetector` as a `Detector`."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self.reset()

    def update(self, value: float) -> State:
        """Take the next value; for the DDM family it must be 0 or 1."""
        self._river.update(bool(value) if self._binary else value)
        if self._river.drift_detected:
            return State.DRIFT
        return State.WARNING if getattr(self._river, "warning_detected", False) else State.STABLE

    def reset(self) -> None:
        """Forget everything."""
        self._river = self._make()
        self._binary = type(self._river).__module__.startswith("river.drift.binary") or self._river.__class__ is STEPD

    def dump(self) -> bytes:
        """Everything the detector has learnt, for `restore`."""
        return pickle.dumps(self._river)

    def restore(self, state: bytes) -> None:
        """Take over what `dump` wrote. The caller has checked that the bytes are its own."""
        self._river = pickle.loads(state)  # noqa: S301 - signed by the monitor before it is stored


FAMILIES: dict[str, tuple[type[Any], frozenset[str]]] = {
    "adwin": (drift.ADWIN, frozenset({"error", "confidence", "mix"})),
    "page-hinkley": (drift.PageHinkley, frozenset({"error", "confidence", "mix"})),
    "kswin": (drift.KSWIN, frozenset({"error", "confidence", "mix"})),
    "ddm": (binary.DDM, frozenset({"error"})),
    "eddm": (binary.EDDM, frozenset({"error"})),
    "hddm-a": (binary.HDDMA, frozenset({"error"})),
    "hddm-w": (binary.HDDMW, frozenset({"error"})),
    "stepd": (STEPD, frozenset({"error"})),
}
"""River's detectors, and STEPD, by name, and the signals that each can watch; the binary ones need a 0/1 error."""


def make_detector(text: str) -> tuple[str, RiverDetector]:
    """The signal and the detector that a line such as ``error:adwin?delta=0.002`` describes.

    Raises:
        DriftloopError: unknown signal, detector or parameter, or a detector that cannot watch the signal.
    """
    signal, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    if name not in FAMILIES:
        raise DriftloopError(f"There is no detector '{name}' in '{text}': choose one of {', '.join(FAMILIES)}.")
    family, signals = FAMILIES[name]
    if signal not in signals:
        raise DriftloopError(f"The detector {name} cannot watch '{signal}': it takes {', '.join(sorted(signals))}.")
    parameters = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        try:
            parameters[key] = float(value) if not value.lstrip("-").isdigit() else int(value)
        except ValueError as error:
            raise DriftloopError(f"'{pair}' in '{text}' is not a number: write for instance delta=0.002.") from error
    if name == "kswin":
        parameters.setdefault("seed", 7)

    def make() -> Any:
        return family(**parameters)

    try:
        make()
    except TypeError as error:
        raise DriftloopError(
            f"'{text}' has a parameter that River's {family.__name__} does not take: {error}."
        ) from error
    return signal, RiverDetector(name, make)
