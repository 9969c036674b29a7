"""Detectors: River's change detectors, and the user's own, behind one small protocol, chosen by a configured line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from river import drift
from river.base import BinaryDriftDetector, DriftDetector
from river.drift import binary

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from stream_processors.drift.stepd import STEPD
from stream_processors.drift.unpickling import load_pickle


class State(Enum):
    """What a detector says after a value."""

    STABLE = "stable"
    WARNING = "warning"
    DRIFT = "drift"


@runtime_checkable
class Detector(Protocol):
    """Watches one number; `stream_processors.drift.checks` has the checks that each of them passes."""

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
        self._binary = isinstance(self._river, BinaryDriftDetector | STEPD)

    def dump(self) -> bytes:
        """Everything the detector has learnt, for `restore`."""
        return pickle.dumps(self._river)

    def restore(self, state: bytes) -> None:
        """Take over what `dump` wrote. The caller has checked that the bytes are its own."""
        self._river = load_pickle(state)


class CustomDetector:
    """A detector of the user's own, with its state kept: pickled, unless it has ``dump`` and ``restore`` itself."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self._own = make()

    def update(self, value: float) -> State:
        """Take the next value.

        Raises:
            DriftloopError: it answered with something that is no `State`.
        """
        said = self._own.update(value)
        if not isinstance(said, State):
            raise DriftloopError(
                f"The detector {self.name} answered {said!r}: `update` must return a State of "
                "stream_processors.drift.detectors."
            )
        return said

    def reset(self) -> None:
        """Forget everything."""
        self._own.reset()

    def dump(self) -> bytes:
        """Everything the detector has learnt, for `restore`.

        Raises:
            DriftloopError: it has neither a ``dump`` of its own nor can it be pickled.
        """
        if hasattr(self._own, "dump"):
            return bytes(self._own.dump())
        try:
            return pickle.dumps(self._own)
        except Exception as error:  # whatever a stranger's class keeps
            raise DriftloopError(
                f"The state of the detector {self.name} cannot be kept ({error}): give the class `dump` and `restore`, "
                "or keep nothing in it that pickle refuses, such as a lambda or an open file."
            ) from error

    def restore(self, state: bytes) -> None:
        """Take over what `dump` wrote. The caller has checked that the bytes are its own."""
        if hasattr(self._own, "dump"):
            self._own.restore(state)
        else:
            self._own = load_pickle(state)


SIGNALS = frozenset({"error", "confidence", "mix"})
"""What a single detector can watch."""

FAMILIES: dict[str, tuple[type[Any], frozenset[str]]] = {
    "adwin": (drift.ADWIN, SIGNALS),
    "page-hinkley": (drift.PageHinkley, SIGNALS),
    "kswin": (drift.KSWIN, SIGNALS),
    "ddm": (binary.DDM, frozenset({"error"})),
    "eddm": (binary.EDDM, frozenset({"error"})),
    "hddm-a": (binary.HDDMA, frozenset({"error"})),
    "hddm-w": (binary.HDDMW, frozenset({"error"})),
    "stepd": (STEPD, frozenset({"error"})),
}
"""River's detectors, and STEPD, by name, and the signals that each can watch; the binary ones need a 0/1 error."""


def make_detector(text: str) -> tuple[str, RiverDetector | CustomDetector]:
    """The signal and the detector that a line such as ``error:adwin?delta=0.002`` describes.

    Raises:
        DriftloopError: unknown signal, detector or parameter, or a detector that cannot watch the signal.
    """
    signal, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    family, signals = _family(name, text)
    if signal not in signals:
        raise DriftloopError(f"The detector {name} cannot watch '{signal}': it takes {', '.join(sorted(signals))}.")
    parameters = {"seed": 7} if name == "kswin" else {}
    return signal, make_custom(family, name, parameters | parse_parameters(query, text))


def make_custom(family: Any, name: str, parameters: dict[str, int | float]) -> RiverDetector | CustomDetector:
    """A detector of the class ``family``, of River's or of the user's own, called with ``parameters``.

    Raises:
        DriftloopError: it cannot be made, or is no detector.
    """

    def make() -> Any:
        return family(**parameters)

    rivers = isinstance(family, type) and issubclass(family, DriftDetector | BinaryDriftDetector)
    try:
        made = make()
    except TypeError as error:
        raise DriftloopError(
            f"The detector {name} does not take these parameters: {error}; correct what stands after the question mark."
        ) from error
    except Exception as error:  # a stranger's code
        raise DriftloopError(f"The detector {name} cannot be made ({type(error).__name__}: {error}).") from error
    if rivers:
        return RiverDetector(name, make)
    if not isinstance(made, Detector):
        raise DriftloopError(f"{name} is not a detector: it needs a name, update and reset, or to be one of River's.")
    return CustomDetector(name, make)


def parse_parameters(query: str, text: str) -> dict[str, int | float]:
    """Numbers by name, from ``query``, what stands after the question mark of ``text``.

    Raises:
        DriftloopError: one of them is no number.
    """
    parameters: dict[str, int | float] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        try:
            parameters[key] = float(value) if not value.lstrip("-").isdigit() else int(value)
        except ValueError as error:
            raise DriftloopError(f"'{pair}' in '{text}' is not a number: write for instance delta=0.002.") from error
    return parameters


def _family(name: str, text: str) -> tuple[Any, frozenset[str]]:
    """The class of that name, and the signals that it can watch."""
    if name in FAMILIES:
        return FAMILIES[name]
    if ":" not in name and name not in plugins.names("detectors"):
        known = ", ".join((*FAMILIES, *plugins.names("detectors")))
        raise DriftloopError(f"There is no detector '{name}' in '{text}': choose one of {known}, or give module:Class.")
    family = plugins.find("detectors", name)
    binary_only = isinstance(family, type) and issubclass(family, BinaryDriftDetector)
    return family, frozenset({"error"}) if binary_only else SIGNALS
