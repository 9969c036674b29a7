"""Checks that every detector passes; `driftloop.testing.checks` runs them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftloop.testing.checks import expect
from stream_processors.drift.detectors import CustomDetector, Detector, RiverDetector, State


@dataclass(frozen=True)
class Subject:
    """Detector under check."""

    make: Callable[[], RiverDetector | CustomDetector]
    """Makes a new detector."""
    max_false_alarms: int = 10
    """Maximum of false alarms in 1,000 values that do not move. One in a hundred is what tests at that level raise."""


def bernoulli(seed: int, rate: float, n: int) -> list[float]:
    """Return random values that are 0 or 1.

    Args:
        seed: Seed of the random numbers.
        rate: Probability of a 1.
        n: Number of values.
    """
    rng = random.Random(seed)
    return [float(rng.random() < rate) for _ in range(n)]


def alarms(detector: RiverDetector | CustomDetector, values: Sequence[float]) -> list[int]:
    """Return the indices of the values at which a detector alarms.

    Args:
        detector: Detector that gets the values.
        values: Values of the signal.
    """
    return [i for i, value in enumerate(values) if detector.update(value) is State.DRIFT]


def check_interface(subject: Subject) -> None:
    """The detector has a name, `update` and `reset`."""
    made = subject.make()
    expect(isinstance(made, Detector), "one of name, update and reset is missing")
    expect(isinstance(made.name, str) and made.name, f"its name is {made.name!r}, not a word")


def check_finds_jump(subject: Subject) -> None:
    """The detector finds a rise from 0.2 to 0.8 within 400 values."""
    detector = subject.make()
    alarms(detector, bernoulli(1, 0.2, 1000))
    expect(alarms(detector, bernoulli(2, 0.8, 400)), "a rise from 0.2 to 0.8 was not found within 400 values")


def check_flat_signal(subject: Subject) -> None:
    """The detector seldom alarms on a signal that does not move."""
    found = alarms(subject.make(), bernoulli(1, 0.2, 1000))
    expect(
        len(found) <= subject.max_false_alarms,
        f"{len(found)} alarms in 1000 values that do not move, more than {subject.max_false_alarms}",
    )


def check_any_share(subject: Subject) -> None:
    """The detector answers any number from 0 to 1 with a State."""
    detector = subject.make()
    rng = random.Random(8)
    for value in (0.0, 1.0, *(rng.random() for _ in range(300))):
        state = detector.update(value)
        expect(isinstance(state, State), f"{value} was answered with {state!r}")


def check_restore(subject: Subject) -> None:
    """A detector that is restored from a dump alarms as the original does."""
    one, other = subject.make(), subject.make()
    alarms(one, bernoulli(3, 0.3, 300))
    other.restore(one.dump())
    later = bernoulli(4, 0.75, 300)
    found, again = alarms(one, later), alarms(other, later)
    expect(found, "a rise from 0.3 to 0.75 was not found within 300 values, so the state cannot be compared")
    expect(found == again, f"the alarms come at {again[:3]} after a restart and at {found[:3]} without one")


def check_reset(subject: Subject) -> None:
    """The detector forgets everything on `reset`."""
    used, fresh = subject.make(), subject.make()
    alarms(used, bernoulli(5, 0.05, 500))
    used.reset()
    values = bernoulli(6, 0.6, 500)
    found, new = alarms(used, values), alarms(fresh, values)
    expect(found == new, f"the alarms come at {found[:3]} after `reset` and at {new[:3]} in a new one")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_interface,
    check_finds_jump,
    check_flat_signal,
    check_any_share,
    check_restore,
    check_reset,
)
