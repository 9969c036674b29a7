"""Rows of the adaptation benchmark: one system on one stream, stored as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from driftloop.core.errors import DriftloopError

BLOCK = 250
"""Events of a point of the accuracy curve, and of a draw of the bootstrap if there are too few seeds."""


class Comparison(msgspec.Struct, frozen=True):
    """A candidate of a search, compared with the mixture on the same labelled events."""

    candidate: str
    position: int
    """Position of the event at which the comparison ended."""
    events: int
    alone: float
    """Accuracy of the mixture."""
    together: float
    """Accuracy of the mixture with the candidate as one more expert."""
    joined: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system on one stream. The same command gives the same row again."""

    scenario: str
    seed: int
    system: str
    events: int
    counted_from: int
    """Position of the first event that counts for ``accuracy``."""
    accuracy: float
    """Prequential accuracy of the events from ``counted_from`` on."""
    blocks: list[float]
    """Accuracy of each `BLOCK` events from the first event on."""
    retrainings: int
    """Decisions that answered a drift or began a search. All decisions of a policy without rounds."""
    refreshes: int
    """Further rounds within a drift: the same recipe on more labels."""
    fits: int
    """Retrainings and refreshes together. Number of labels learnt by an online learner."""
    swaps: int
    """Models that took over after the first, including restored ones."""
    rollbacks: int
    drifts: list[int] | None
    """True positions. None if they are unknown."""
    detected: int | None
    """Number of detected drifts. None if nothing watched, or the drifts are unknown."""
    delays: list[int]
    """Labelled events from each detected drift to its detection."""
    false_alarms: int | None
    """None if nothing watched, or the drifts are unknown."""
    repeats: int | None
    """Further alerts within a drift's span. None if nothing watched, or the drifts are unknown."""
    quiet_events: int
    """Events outside every drift's span. False alarms are counted per quiet event."""
    alerts: list[tuple[int, str, str]]
    """Position, signal and verdict of each alert."""
    swapped_at: list[int]
    """Position of each swap."""
    recoveries: list[int | None] = []
    """Recovery time of each drift back to a known concept, from `benchmarks.adaptation.recurrence`."""
    guests: list[Comparison] = []
    """Candidates that were compared with a mixture."""


class Measured(msgspec.Struct, frozen=True):
    """A row and its CPU seconds. They are apart because a second run repeats only the row."""

    row: Row
    cpu: dict[str, float]
    """CPU seconds of `watch` (detectors), of `retrain` (fitting and gate), and of the `whole` run."""


def key(row: Row) -> tuple[str, int, str]:
    """Return scenario, seed and system, which identify a row."""
    return row.scenario, row.seed, row.system


def write(path: Path, measured: Sequence[Measured]) -> None:
    """Write rows as JSON.

    Args:
        path: File to write.
        measured: The rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")


def read(path: Path) -> list[Measured]:
    """Read rows that `write` wrote.

    Raises:
        DriftloopError: The file does not exist or holds no rows.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Measured])
    except (OSError, msgspec.DecodeError) as error:
        raise DriftloopError(f"{path} holds no rows of this benchmark ({error}): name one written by --out.") from error
