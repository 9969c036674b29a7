"""`report.json`: what a report needs besides `summary.json`, stored with the run so that no service has to be asked.

Fields are only ever added. Times are Unix seconds, positions count the events of the stream from 0.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Kind
from serving.cases.model import Case, Round
from serving.simulation.drift_scoring import Drift
from serving.simulation.summary import Summary

T = TypeVar("T")
SUMMARY, FACTS = "summary.json", "report.json"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the stream as the scenario plans it, ``end`` exclusive."""

    name: str
    start: int
    end: int


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the scenario makes on purpose."""

    kind: str
    onset: int
    end: int | None
    """Where it is taken back; None: never."""
    width: int
    """Events over which it sets in; 0: at once."""
    classes: list[str]
    segments: list[str]


class Annotator(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who gives a share of the labels, as the scenario makes them up."""

    name: str
    share: float
    flipped: float
    missing: float


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the stream comes from: the scenario, and the data behind it."""

    about: str = ""
    kind: str = ""
    """packaged, file, hub or synthetic."""
    origin: str = ""
    """The data's name, without the folders it lies in."""
    revision: str = ""
    """SHA-256 of the data, or a revision of the Hub."""
    seed: int = 0
    rate: str = ""
    """Events per second, or max."""
    label_delay: int = 0
    """Events after which a label comes."""
    planned: int = 0
    """Events that the scenario sends."""
    warm_up: int = 0
    """First events, on which the first model is trained."""
    masked: list[str] = []
    """Kinds of personal data taken out of the texts."""
    parts: list[Part] = []
    injected: list[Injected] = []
    annotators: list[Annotator] = []
    command: str = ""
    """What makes the run again."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers among the labelled events of a segment or of a true class that count."""

    name: str
    labelled: int
    right: int
    first: int = -1
    last: int = -1
    """Positions of the first and the last of them."""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled events that count, from position ``start`` to ``end``, exclusive."""

    start: int
    end: int
    labelled: int
    right: int


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """How often each label was given in a segment, warm-up included."""

    segment: str
    labels: dict[str, int]


class Confused(msgspec.Struct, frozen=True, kw_only=True):
    """How often the true label ``label`` was answered by ``predicted``."""

    label: str
    predicted: str
    count: int


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """The texts that were scored."""

    count: int = 0
    distinct: int = 0
    median_characters: float = 0.0
    longest: int = 0


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds: percentiles, and a histogram whose bar i lies between edges i and i + 1."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None
    edges: list[float] = []
    counts: list[int] = []


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions made in ``width`` seconds from ``at`` on, both counted from the first prediction."""

    at: float
    width: float
    predictions: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was promoted, from `retraining`, `predictions`, `outcomes` and MLflow."""

    version: str
    kind: Kind | str = ""
    """bootstrap, answer, refresh, search, rollback or manual."""
    candidate: str = ""
    trigger: str = ""
    reason: str = ""
    promoted_at: float = 0.0
    first_position: int = -1
    """Of the first event that it scored; -1: it scored none."""
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
    """As MLflow has them; so too the fields from ``topic`` on, which are empty where it was not asked."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the report speaks of."""

    stack: str = "embedded"
    """embedded, or own."""
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
    chosen: Chosen = Chosen()
    labels: list[Mix] = []
    texts: Texts = Texts()
    bins: list[Bin] = []
    segments: list[Slice] = []
    classes: list[Slice] = []
    confused: list[Confused] = []
    mean_confidence: float | None = None
    """Over the labelled events that count."""
    majority: str = ""
    """The label most frequent in the warm-up, and how often it was right among the labelled events that count."""
    majority_right: int = 0
    latency: Durations = Durations()
    """In the scorer, of each prediction."""
    end_to_end: Durations = Durations()
    """From the event to its prediction, for events that occurred after the first prediction: the loop was up then."""
    backlog: int = 0
    """Events that had occurred before the first prediction: they waited for the first model."""
    speed: list[Second] = []
    reached: int = -1
    """The largest position that was predicted."""
    cases: list[Case] = []
    rounds: list[Round] = []
    """Every retraining but the first model's, refreshes included."""
    models: list[Model] = []
    unread: str = ""
    """Why MLflow could not be asked; empty: it was."""
    software: dict[str, str] = {}
    """Versions of the packages that did the work."""


@dataclass(frozen=True)
class RunFacts:
    """Everything that a report is made of."""

    summary: Summary
    evidence: RunData

    @property
    def passed(self) -> list[Drift]:
        """The true drifts that the predictions came as far as; a run that ended early says nothing about the others."""
        return [drift for drift in self.summary.drifts if drift.true_position <= self.evidence.reached]


def write(evidence: RunData, folder: Path) -> Path:
    """Write ``folder/report.json``, whole or not at all, and return its path.

    Raises:
        DriftloopError: it cannot be written.
    """
    return write_whole(folder / FACTS, msgspec.json.format(msgspec.json.encode(evidence), indent=1) + b"\n")


def write_whole(path: Path, body: bytes) -> Path:
    """Write a file, whole or not at all, and return its path.

    Raises:
        DriftloopError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(body)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise DriftloopError(f"{path} cannot be written: {error.strerror}; make room, then try again.") from error
    return path


def read(folder: Path) -> RunFacts:
    """The facts of the run in ``folder``.

    Raises:
        DriftloopError: there is no run, its simulation has not ended, or a file is damaged.
    """
    if not folder.is_dir():
        raise DriftloopError(f"There is no run directory {folder}: give the folder that `driftloop simulate` named.")
    summary = _read(folder, SUMMARY, Summary)
    return RunFacts(summary, _read(folder, FACTS, RunData))


def _read(folder: Path, name: str, kind: type[T]) -> T:
    path = folder / name
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise DriftloopError(
            f"{folder} has no {name}, which `driftloop simulate` writes at its end: go on with the run (`driftloop "
            f"simulate --resume {folder}`), or give another folder."
        ) from error
    except OSError as error:
        raise DriftloopError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DriftloopError(
            f"{path} is damaged ({str(error)[:200]}): resume the run, which writes it again."
        ) from error
