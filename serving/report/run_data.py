"""`report.json`: the data of a report that is not in `summary.json`, stored with the run.

A report can be written from both files when no service is running. Fields are only ever added. Times are Unix seconds;
positions count the events of the stream from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.files import write_atomic
from driftloop.core.messages import Kind
from serving.cases.model import Case, Round
from serving.simulation.drift_scoring import Drift
from serving.simulation.summary import Summary

T = TypeVar("T")
SUMMARY, FACTS = "summary.json", "report.json"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the stream in the scenario; ``end`` is exclusive."""

    name: str
    start: int
    end: int


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """Change that the scenario injects."""

    kind: str
    onset: int
    end: int | None
    """Position at which it ends; `None` if it never ends."""
    width: int
    """Events over which it begins; `0` for an abrupt change."""
    classes: list[str]
    segments: list[str]


class Annotator(msgspec.Struct, frozen=True, kw_only=True):
    """Simulated annotator of the scenario, who gives a share of the labels."""

    name: str
    share: float
    flipped: float
    missing: float


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Origin of the stream: the scenario and its data."""

    about: str = ""
    kind: str = ""
    """Kind of the data: packaged, file, hub or synthetic."""
    origin: str = ""
    """Name of the data, without its folder."""
    revision: str = ""
    """SHA-256 of the data, or a revision of the Hugging Face Hub."""
    seed: int = 0
    rate: str = ""
    """Events per second, or max."""
    label_delay: int = 0
    """Events between an event and its label."""
    planned: int = 0
    """Events that the scenario sends."""
    warm_up: int = 0
    """First events of the stream, on which the first model is trained."""
    masked: list[str] = []
    """Kinds of personal data that are masked in the texts."""
    parts: list[Part] = []
    injected: list[Injected] = []
    annotators: list[Annotator] = []
    command: str = ""
    """Command that repeats the run."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Correct predictions among the labelled events of a segment or of a true class that count."""

    name: str
    labelled: int
    right: int
    first: int = -1
    last: int = -1
    """Positions of the first and the last of these events."""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled events that count, from position ``start`` to ``end``, exclusive."""

    start: int
    end: int
    labelled: int
    right: int


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """Count of each label in a segment, warm-up included."""

    segment: str
    labels: dict[str, int]


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """Count of the events with the true label ``label`` and the predicted label ``predicted``."""

    label: str
    predicted: str
    count: int


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the scored texts."""

    count: int = 0
    distinct: int = 0
    median_characters: float = 0.0
    longest: int = 0


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in milliseconds: percentiles, and a histogram whose bar i lies between edges i and i + 1."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None
    edges: list[float] = []
    counts: list[int] = []


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions in ``width`` seconds from ``at`` on; ``at`` counts seconds from the first prediction."""

    at: float
    width: float
    predictions: int


class ExpertWeights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the experts of a mixture at one moment."""

    labelled: int
    """Labelled events so far."""
    weights: dict[str, float]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Promoted version, from `retraining`, `predictions`, `outcomes` and MLflow."""

    version: str
    kind: Kind | str = ""
    """bootstrap, answer, refresh, search, rollback or manual."""
    candidate: str = ""
    trigger: str = ""
    reason: str = ""
    promoted_at: float = 0.0
    first_position: int = -1
    """Position of the first event that it scored; -1 if it scored none."""
    predictions: int = 0
    segments: list[Slice] = []
    classes: list[Slice] = []
    topic: str = ""
    first_offset: str = ""
    last_offset: str = ""
    dataset_revision: str = ""
    digest: str = ""
    parent: str = ""
    restores: str = ""
    verdict: str = ""
    parameters: dict[str, str] = {}
    """Parameters in MLflow. All fields from ``topic`` on are from MLflow, and empty if it did not answer."""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that the report describes."""

    stack: str = "embedded"
    """embedded or own."""
    secured: bool = False
    encoder: str = ""
    classifier: str = ""
    max_tokens: int = 0
    quantised: bool = False
    batch: int = 0
    detectors: list[str] = []
    policy: str = ""
    approval: str = ""
    candidates: list[str] = []
    tpot_seconds: float = 0.0
    finetune_seconds: float = 0.0
    finetune_share: float = 0.0
    window: int = 0
    holdout: float = 0.0
    confidence: float = 0.0
    probation: int = 0
    shadow: int = 0
    search_rows: int = 0
    max_segment_drop: float = 0.0
    max_recall_drop: float = 0.0
    min_rows: int = 0
    partitions: int = 1


class RunData(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `report.json`."""

    written_at: float = 0.0
    source: Source = Source()
    chosen: RunSettings = RunSettings()
    labels: list[Mix] = []
    texts: Texts = Texts()
    bins: list[Bin] = []
    segments: list[Slice] = []
    classes: list[Slice] = []
    confused: list[Confusion] = []
    mean_confidence: float | None = None
    """Mean confidence over the labelled events that count; `None` without any."""
    majority: str = ""
    """Most frequent label of the warm-up."""
    majority_right: int = 0
    """Labelled events that count and have the majority label."""
    latency: Durations = Durations()
    """Time in the scorer, without `backlog`; of all predictions if all are in it."""
    end_to_end: Durations = Durations()
    """Time from the event to its prediction, without `backlog`."""
    backlog: int = 0
    """Events that waited for the first model, and those behind them until the scorer had caught up."""
    speed: list[Second] = []
    reached: int = -1
    """Largest predicted position; -1 without predictions."""
    cases: list[Case] = []
    rounds: list[Round] = []
    """All retrainings except the one of the first model, refreshes included."""
    models: list[Model] = []
    weights: list[ExpertWeights] = []
    """Weights over time, oldest first; empty without a mixture."""
    unread: str = ""
    """Error of MLflow; empty if it answered."""
    software: dict[str, str] = {}
    """Versions of the installed packages."""


@dataclass(frozen=True)
class RunFacts:
    """Content of `summary.json` and `report.json`."""

    summary: Summary
    data: RunData

    @property
    def reached_drifts(self) -> list[Drift]:
        """True drifts within the predicted part of the stream. A run that ended early cannot detect the others."""
        return [drift for drift in self.summary.drifts if drift.true_position <= self.data.reached]


def write(data: RunData, folder: Path) -> Path:
    """Write ``report.json`` atomically and return its path.

    Args:
        data: Its content.
        folder: The run directory.

    Raises:
        DriftloopError: The file cannot be written.
    """
    return write_file(folder / FACTS, msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")


def write_file(path: Path, body: bytes) -> Path:
    """Write a file atomically and return its path.

    Args:
        path: The file.
        body: Its content.

    Raises:
        DriftloopError: The file cannot be written.
    """
    try:
        write_atomic(path, body)
    except OSError as error:
        raise DriftloopError(
            f"{path} cannot be written: {error.strerror}. Free some disk space and try again."
        ) from error
    return path


def read(folder: Path) -> RunFacts:
    """Read the data of the run in ``folder``.

    Raises:
        DriftloopError: The folder is not a run directory, its simulation has not ended, or a file is damaged.
    """
    if not folder.is_dir():
        raise DriftloopError(f"There is no run directory {folder}. Give the folder that `driftloop simulate` printed.")
    summary = _read(folder, SUMMARY, Summary)
    return RunFacts(summary, _read(folder, FACTS, RunData))


def _read(folder: Path, name: str, kind: type[T]) -> T:
    path = folder / name
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise DriftloopError(
            f"{folder} has no {name}, which `driftloop simulate` writes at its end. Finish the run with `driftloop "
            f"simulate --resume {folder}`, or give another folder."
        ) from error
    except OSError as error:
        raise DriftloopError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DriftloopError(f"{path} is damaged ({str(error)[:200]}). Resume the run to write it again.") from error
