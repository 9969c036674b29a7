"""What every detector does: the checks of `driftloop.testing.checks` for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftloop.testing.checks import expect
from stream_processors.drift.detectors import CustomDetector, Detector, RiverDetector, State


@dataclass(frozen=True)
class Subject:
    """A detector to be checked; each check has its own."""

    make: Callable[[], RiverDetector | CustomDetector]
    most: int = 10
    """False alarms in 1,000 values that do not move: one in a hundred, as tests at that level raise by design."""


def bernoulli(seed: int, rate: float, n: int) -> list[float]:
    """``n`` values, 1 with the probability ``rate`` and else 0."""
    rng = random.Random(seed)
    return [float(rng.random() < rate) for _ in range(n)]


def alarms(detector: RiverDetector | CustomDetector, values: Sequence[float]) -> list[int]:
    """The places at which it says that there is a drift."""
    return [i for i, value in enumerate(values) if detector.update(value) is State.DRIFT]


def has_its_parts(subject: Subject) -> None:
    """It has a name, `update` and `reset`."""
    made = subject.make()
    expect(isinstance(made, Detector), "one of name, update and reset is missing")
    expect(isinstance(made.name, str) and made.name, f"its name is {made.name!r}, not a word")


def finds_a_jump(subject: Subject) -> None:
    """A rise from 0.2 to 0.8 is found within 400 values."""
    detector = subject.make()
    alarms(detector, bernoulli(1, 0.2, 1000))
    expect(alarms(detector, bernoulli(2, 0.8, 400)), "a rise from 0.2 to 0.8 was not found within 400 values")


def leaves_a_flat_signal_alone(subject: Subject) -> None:
    """A signal that does not move is mostly left alone."""
    found = alarms(subject.make(), bernoulli(1, 0.2, 1000))
    expect(len(found) <= subject.most, f"{len(found)} alarms in 1000 values that do not move, more than {subject.most}")


def takes_any_share(subject: Subject) -> None:
    """Any number from 0 to 1 is answered with a State."""
    detector = subject.make()
    rng = random.Random(8)
    for value in (0.0, 1.0, *(rng.random() for _ in range(300))):
        said = detector.update(value)
        expect(isinstance(said, State), f"{value} was answered with {said!r}")


def goes_on_when_restored(subject: Subject) -> None:
    """One that is restored from a dump goes on as if nothing had happened."""
    one, other = subject.make(), subject.make()
    alarms(one, bernoulli(3, 0.3, 300))
    other.restore(one.dump())
    later = bernoulli(4, 0.75, 300)
    found, again = alarms(one, later), alarms(other, later)
    expect(found, "a rise from 0.3 to 0.75 was not found within 300 values, so the state cannot be compared")
    expect(found == again, f"the alarms come at {again[:3]} after a restart and at {found[:3]} without one")


def forgets_when_reset(subject: Subject) -> None:
    """`reset` forgets everything."""
    used, fresh = subject.make(), subject.make()
    alarms(used, bernoulli(5, 0.05, 500))
    used.reset()
    values = bernoulli(6, 0.6, 500)
    found, new = alarms(used, values), alarms(fresh, values)
    expect(found == new, f"the alarms come at {found[:3]} after `reset` and at {new[:3]} in a new one")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    has_its_parts,
    finds_a_jump,
    leaves_a_flat_signal_alone,
    takes_any_share,
    goes_on_when_restored,
    forgets_when_reset,
)
