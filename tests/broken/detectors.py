"""Detectors with one fault each."""

from __future__ import annotations

from my_package.detector import Cusum

from stream_processors.drift.detectors import State


class Nameless:
    def update(self, value: float) -> State:
        return State.STABLE

    def reset(self) -> None:
        pass


class Deaf(Cusum):
    def update(self, value: float) -> State:
        return State.STABLE


class Nervous(Cusum):
    def update(self, value: float) -> State:
        state = super().update(value)
        return State.DRIFT if self.seen % 20 == 19 else state


class BitsOnly(Cusum):
    def update(self, value: float) -> State:
        assert value in (0.0, 1.0), "neither right nor wrong"
        return super().update(value)


class Truthful(Cusum):
    def update(self, value: float) -> bool:
        return super().update(value) is State.DRIFT


class Amnesiac(Cusum):
    def dump(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        self.reset()


class Unpicklable(Cusum):
    def __init__(self) -> None:
        super().__init__()
        self.half = lambda value: value / 2


class Stubborn(Cusum):
    def __init__(self) -> None:
        self.seen, self.mean, self.sum = 0, 0.0, 0.0
        super().__init__()

    def reset(self) -> None:
        self.sum = 0.0
