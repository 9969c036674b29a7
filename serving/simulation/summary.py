"""Summary of a simulation: the content of `summary.json`. Fields are only ever added.

`serving.simulation.summarise` computes it from the topics. Delay and false alarm are defined as in CapyMOA's
`EvaluateDriftDetector`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.files import write_atomic
from driftloop.core.messages import Kind
from serving.simulation.drift_scoring import Alert, Drift


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy over the stream positions from `start` up to `end`, exclusive."""

    start: int
    end: int
    labelled: int
    accuracy: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Prequential accuracy: each event is predicted before its label is learnt.

    Events that the first model was trained on are warm-up and do not count. Of a repeated event the first outcome
    counts.
    """

    prequential: float | None
    """Accuracy over all labelled events that count; `None` if there are none."""
    prequential_after_2000: float | None
    """Accuracy from stream position 2,000 on; `None` if no such event counts."""
    per_segment: dict[str, float]
    """Accuracy by segment of the stream."""
    per_500_events: list[Block]
    """Accuracy by blocks of 500 stream positions; blocks without a label are left out."""
    per_version: dict[str, float]
    """Accuracy by the model version that made the prediction."""
    counted: int
    """Labelled events that count."""
    warm_up: int
    """Labelled events that do not count, because the first model was trained on them."""


class RetrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """One retraining, from its messages on `retraining`."""

    run_id: str
    trigger: str
    """Id of the alert, or the name that the policy gives its other triggers."""
    reason: str
    position: int
    """Stream position at which it was queued; -1 if unknown."""
    candidates: list[str]
    """Candidates in the order in which they were started."""
    scores: dict[str, dict[str, Any]]
    """Scores by candidate, as the gate published them."""
    reasons: dict[str, str]
    """Reason by candidate: why it was promoted or rejected, or why it failed."""
    seconds: float
    """Duration from the queue to the end; to the last message if the run is unfinished."""
    verdict: Literal["promoted", "rejected", "failed", "unfinished"]
    version: str
    """Version that was promoted; empty if none was."""
    kind: Kind = "search"
    """`answer`: the first retraining for a drift. `refresh`: a later fit on new labels. `search`: all candidates."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from reading a batch to its predictions; `None` without predictions."""

    p50: float | None
    p95: float | None
    p99: float | None


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A model version that scored events."""

    version: str
    trigger: str
    """Trigger of the retraining that made it; `bootstrap` for the first model, empty if unknown."""
    first_position: int
    """Smallest stream position that it scored."""
    predictions: int
    """Events that it scored."""
    accuracy: float | None
    """Accuracy on its labelled events that count; `None` if there are none."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `summary.json`."""

    scenario: str
    complete: bool
    """True if every event has a prediction or a dead letter, every label an outcome, and every retraining an end."""
    missing: str
    """Incomplete work at the end, as text; empty for a complete run."""
    events: int
    """Messages on the topic `events`."""
    predictions: int
    """Messages on the topic `predictions`, with duplicates."""
    dead_letters: int
    """Messages that could not be processed, each counted once."""
    duplicates: int
    """Predictions of an event that already had one (at-least-once delivery). The first prediction counts."""
    accuracy: Accuracy
    drifts: list[Drift]
    """True drifts of the scenario, each with its detection."""
    drifts_known: bool
    """True if the scenario defines its drifts, or defines that it has none. Otherwise no alert is a false alarm."""
    false_alarms: int
    """Alerts more than `MAX_DELAY` labelled events after the last true drift, or before the first."""
    repeat_alerts: int
    """Alerts within `MAX_DELAY` labelled events after a drift that has already been detected."""
    alerts: list[Alert]
    """All alerts, by stream position."""
    retrainings: list[RetrainingRun]
    """Retrainings of the kinds `answer` and `search`, without the first model's."""
    refreshes: list[RetrainingRun] = []
    """Retrainings of the kind `refresh`."""
    bootstrap: RetrainingRun | None
    """Training of the first model; `None` if there was none."""
    promotions: int
    """Versions that were promoted, without the first model's."""
    rollbacks: int
    """Versions that were brought back."""
    latency: Latency
    """Latency without the events of `queued`."""
    queued: int = 0
    """Events that waited for the first model, and those behind them until the scorer had caught up."""
    events_per_second: float
    """Predicted events per second, from the first prediction to the last."""
    seconds: float
    """Wall-clock duration with start and end, over all sessions of a resumed run."""
    first_prediction_seconds: float | None
    """Seconds from the start of the command to the first prediction; `None` without one."""
    first_promotion_seconds: float | None
    """Seconds from the start of the command to the first promotion after the first model's; `None` without one."""
    peak_memory_mb: float
    """Largest sum of the resident memory of all processes. Shared pages count in each process."""
    versions: list[Version]
    """Model versions in the order of their first prediction."""
    restarts: dict[str, int]
    """Restarts by process."""
    cpu_seconds: dict[str, float] = {}
    """CPU seconds by process, with its children; `simulate` is the rest. Empty if not measured."""
    software: dict[str, str]
    """Versions of driftloop and Python, and the platform."""


def write(summary: Summary, folder: Path) -> Path:
    """Write `summary.json` completely or not at all, and return its path.

    Args:
        summary: Content of the file.
        folder: Run directory.

    Raises:
        DriftloopError: The file cannot be written.
    """
    path = folder / "summary.json"
    try:
        write_atomic(path, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    except OSError as error:
        raise DriftloopError(f"{path} cannot be written: {error.strerror}; make room and resume the run.") from error
    return path
