"""Detectors of a single signal: River's change detectors and custom classes, chosen by a configured line."""

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
    """State of a detector after a value."""

    STABLE = "stable"
    WARNING = "warning"
    DRIFT = "drift"


@runtime_checkable
class Detector(Protocol):
    """Detector of a change in one number; `stream_processors.drift.checks` has the checks that each one passes."""

    name: str

    def update(self, value: float) -> State:
        """Add the next value of the signal; return the state after it."""
        ...

    def reset(self) -> None:
        """Forget everything, because the model behind the signal has changed."""
        ...


class RiverDetector:
    """`Detector` that uses a `river.base.DriftDetector`, or a binary one.

    Args:
        name: Name of the detector.
        make: Makes a new detector of River.
    """

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self.reset()

    def update(self, value: float) -> State:
        """Add a value, which must be 0 or 1 for the DDM family; return the state after it."""
        self._river.update(bool(value) if self._binary else value)
        if self._river.drift_detected:
            return State.DRIFT
        return State.WARNING if getattr(self._river, "warning_detected", False) else State.STABLE

    def reset(self) -> None:
        """Forget everything."""
        self._river = self._make()
        self._binary = isinstance(self._river, BinaryDriftDetector | STEPD)

    def dump(self) -> bytes:
        """Return everything that the detector has learnt, for `restore`."""
        return pickle.dumps(self._river)

    def restore(self, state: bytes) -> None:
        """Restore a result of `dump`. The caller must have checked the signature of the bytes."""
        self._river = load_pickle(state)


class CustomDetector:
    """`Detector` that uses a custom class. Its state is pickled, unless the class has ``dump`` and ``restore``.

    Args:
        name: Name of the detector.
        make: Makes a new object of the class.
    """

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self._custom = make()

    def update(self, value: float) -> State:
        """Add a value; return the state after it.

        Raises:
            DriftloopError: The class returned something other than a `State`.
        """
        state = self._custom.update(value)
        if not isinstance(state, State):
            raise DriftloopError(
                f"The detector {self.name} answered {state!r}: `update` must return a State of "
                "stream_processors.drift.detectors."
            )
        return state

    def reset(self) -> None:
        """Forget everything."""
        self._custom.reset()

    def dump(self) -> bytes:
        """Return everything that the detector has learnt, for `restore`.

        Raises:
            DriftloopError: The object has no ``dump`` and cannot be pickled.
        """
        if hasattr(self._custom, "dump"):
            return bytes(self._custom.dump())
        try:
            return pickle.dumps(self._custom)
        except Exception as error:  # an attribute of a custom class may raise anything
            raise DriftloopError(
                f"The state of the detector {self.name} cannot be kept ({error}). Give the class `dump` and `restore`, "
                "or keep nothing in it that pickle refuses, such as a lambda or an open file."
            ) from error

    def restore(self, state: bytes) -> None:
        """Restore a result of `dump`. The caller must have checked the signature of the bytes."""
        if hasattr(self._custom, "dump"):
            self._custom.restore(state)
        else:
            self._custom = load_pickle(state)


SIGNALS = frozenset({"error", "confidence", "mix"})
"""Signals of the single detectors."""

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
"""Class and possible signals of each built-in detector, by name; the binary ones need a 0/1 error."""


def make_detector(text: str) -> tuple[str, RiverDetector | CustomDetector]:
    """Return the signal and the detector of a configured line such as ``error:adwin?delta=0.002``.

    Raises:
        DriftloopError: The signal, the detector or a parameter is unknown, or the detector cannot watch the signal.
    """
    signal, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    family, signals = _family(name, text)
    if signal not in signals:
        raise DriftloopError(f"The detector {name} cannot watch '{signal}': it takes {', '.join(sorted(signals))}.")
    parameters = {"seed": 7} if name == "kswin" else {}
    return signal, make_custom(family, name, parameters | parse_parameters(query, text))


def make_custom(family: Any, name: str, parameters: dict[str, int | float]) -> RiverDetector | CustomDetector:
    """Return a detector of a class of River or of a custom class.

    Args:
        family: Class, or another callable that makes a detector.
        name: Name of the detector.
        parameters: Arguments of the class.

    Raises:
        DriftloopError: The class cannot be called with the parameters, or is no detector.
    """

    def make() -> Any:
        return family(**parameters)

    from_river = isinstance(family, type) and issubclass(family, DriftDetector | BinaryDriftDetector)
    try:
        made = make()
    except TypeError as error:
        raise DriftloopError(
            f"The detector {name} does not take these parameters: {error}. Correct the part after the question mark."
        ) from error
    except Exception as error:  # custom code may raise anything
        raise DriftloopError(f"The detector {name} cannot be made ({type(error).__name__}: {error}).") from error
    if from_river:
        return RiverDetector(name, make)
    if not isinstance(made, Detector):
        raise DriftloopError(f"{name} is not a detector: it needs a name, update and reset, or to be one of River's.")
    return CustomDetector(name, make)


def parse_parameters(query: str, text: str) -> dict[str, int | float]:
    """Return numbers by name.

    Args:
        query: Part of the line after the question mark.
        text: Whole line, for the error message.

    Raises:
        DriftloopError: A value is no number.
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
    """Return the class of a name, and the signals that it can watch."""
    if name in FAMILIES:
        return FAMILIES[name]
    if ":" not in name and name not in plugins.names("detectors"):
        known = ", ".join((*FAMILIES, *plugins.names("detectors")))
        raise DriftloopError(f"There is no detector '{name}' in '{text}': choose one of {known}, or give module:Class.")
    family = plugins.find("detectors", name)
    binary_only = isinstance(family, type) and issubclass(family, BinaryDriftDetector)
    return family, frozenset({"error"}) if binary_only else SIGNALS
