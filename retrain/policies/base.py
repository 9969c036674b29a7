"""Policy interface: the facts that a policy decides from, and its two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from driftloop.core.messages import DriftAlert, Kind, Outcome

ALWAYS = -1.0
"""Onset that lies before every event."""


@dataclass(frozen=True)
class CompletedRetraining:
    """A retraining that has ended, whether or not it promoted a model."""

    labelled: int
    """Labelled events in the stream when its window was taken."""
    onset_at: float
    """`occurred_at` at which the concept that it learnt began; `ALWAYS` for all events."""
    rows: int
    """Labelled events since the onset in its window."""
    until_at: float
    """`occurred_at` of the newest event in its window."""
    trigger: str
    """Alert id, or the name that the policy gave."""
    promoted: bool
    """True if it promoted a model."""
    kind: Kind = "answer"
    seconds: float = 0.0
    """Wall-clock seconds that it took."""


@dataclass(frozen=True)
class PolicyContext:
    """State of the stream at the time of a decision."""

    labelled: int
    """Labelled events in the stream so far."""
    past: tuple[CompletedRetraining, ...] = ()
    """Retrainings so far, oldest first."""
    searching: tuple[float, ...] = ()
    """Onset of each retraining that is still open, since its slow candidates are being fitted or compared."""


@dataclass(frozen=True)
class Wait:
    """Decision to do nothing yet."""

    reason: str
    details: Mapping[str, float] = field(default_factory=dict)
    """Figures behind the decision, by name."""


@dataclass(frozen=True)
class Retrain:
    """Decision to retrain now."""

    reason: str
    trigger: str
    """Alert id, or a name that the policy gives."""
    onset_at: float
    """`occurred_at` of the first event of the concept to learn; `ALWAYS` for all events."""
    kind: Kind = "search"
    """`answer`: the first model for a drift. `refresh`: the same recipe on more rows. `search`: all candidates."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Figures behind the decision, by name. The message `queued` on `retraining` carries them."""


@runtime_checkable
class Policy(Protocol):
    """Decides when to retrain.

    The decision depends on the arguments of `decide` alone, so that `driftloop case --replay` can repeat it.
    `retrain.policies.checks` has the checks that every policy passes.
    """

    name: str

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Decide whether to retrain now.

        Args:
            now: Number of labelled events and earlier retrainings.
            alerts: Newest drift alerts, oldest first. May be empty.
            outcomes: Newest labelled events, oldest first. May be empty.

        Returns:
            `Retrain` to start a retraining, `Wait` to be asked again after the next batch of labelled events.
        """
        ...
