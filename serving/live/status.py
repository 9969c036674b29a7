"""Status of a running loop: its counts, its phase and its processes at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ProcessStatus:
    """State of one child process of a simulation."""

    name: str
    running: bool = False
    restarts: int = 0
    exit_code: int | None = None
    last_log_line: str = ""
    """Last line of its log; empty until it ends or is restarted."""


@dataclass
class LoopStatus:
    """Counts, phase and processes of a loop. Its owner changes it in place."""

    began: float
    """Unix seconds."""
    total: int = 0
    """Events that the scenario will send; `0` if unknown."""
    phase: str = "starting"
    """`starting`, `waiting for the first model`, `running`, `finishing` or `stopping`."""
    notes: list[str] = field(default_factory=list)
    """Lines from the process that runs the simulation, oldest first."""
    processes: dict[str, ProcessStatus] = field(default_factory=dict)
    """Child processes by name; empty outside a simulation."""
    page: str = ""
    """Address of the dashboard; empty until it answers."""
    events: int = 0
    labels: int = 0
    predictions: int = 0
    duplicates: int = 0
    """Predictions of an event that already has one; counted in a simulation only."""
    outcomes: int = 0
    dead_letters: int = 0
    lag: int = 0
    """Events without a prediction or a dead letter."""
    first_prediction_seconds: float | None = None
    """Seconds from `began` to the first prediction; `None` before it."""
    first_promotion_seconds: float | None = None
    """Seconds from `began` to the first promotion after the first model; `None` before it."""
    memory_mb: float = 0.0
    peak_memory_mb: float = 0.0
