"""Accuracy over the stream, in total and by model version, with marks of what happened where."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from serving.live.news import describe_update

WINDOW = 500
"""Labelled events of the rolling accuracy."""
STEP = 50
"""Stream positions in one cell."""

Cells = dict[int, list[int]]
"""`[labelled, correct]` by cell: cell n covers the stream positions from n * `STEP` on."""


@dataclass(frozen=True)
class Mark:
    """An event at a stream position."""

    position: int
    kind: Literal["true", "alert", "retraining", "promotion", "rollback"]
    """`true` is a drift that the scenario put there."""
    words: str


@dataclass
class AccuracyTrack:
    """Labelled events of one model version, or of all versions together."""

    scored: int = 0
    """Predictions of the version."""
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    cells: Cells = field(default_factory=dict)

    def add(self, cell: int, correct: bool) -> None:
        """Count one labelled event.

        Args:
            cell: Cell of its stream position.
            correct: True if the prediction was correct.
        """
        self.recent.append(correct)
        counts = self.cells.setdefault(cell, [0, 0])
        counts[0] += 1
        counts[1] += correct

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the newest `WINDOW` labelled events; `None` before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None


class AccuracyTimeline:
    """Accuracy by stream position, and marks of drifts, alerts, retrainings and promotions.

    Args:
        bootstrap: Events at the beginning that the first model is trained on. They do not count.
        drifts: Stream positions of the scenario's drifts, if known.
    """

    def __init__(self, bootstrap: int = 0, drifts: Sequence[int] = ()) -> None:
        self.whole = AccuracyTrack()
        """All versions together."""
        self.versions: dict[str, AccuracyTrack] = {}
        """By version, in the order of their first message."""
        self._bootstrap = bootstrap
        self._marks = [Mark(at, "true", "the stream changes here") for at in drifts]
        # Changes of the champion, with the new version.
        self._swaps: list[tuple[Mark, str]] = []
        self._first_positions: dict[str, int] = {}
        self._last_position = 0
        self._counted = 0

    def take(self, message: Message) -> None:
        """Add one message."""
        match message:
            case Prediction():
                self._track(message.model_version).scored += 1
                self._first_positions.setdefault(message.model_version, message.position)
                self._last_position = max(self._last_position, message.position)
            case Outcome():
                self._take_outcome(message)
            case DriftAlert():
                words = f"{message.signal} moved by {message.severity:+.3f}"
                self._marks.append(Mark(max(message.position, 0), "alert", words))
            case ModelUpdate():
                self._track(message.version)
                kind: Literal["promotion", "rollback"] = "promotion" if message.action == "promote" else "rollback"
                self._swaps.append((Mark(self._last_position, kind, describe_update(message)), message.version))
            case Retraining(state="queued"):
                at = message.position if message.position >= 0 else self._last_position
                self._marks.append(Mark(at, "retraining", f"{message.kind}: {message.reason}"))
            case _:
                pass

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the newest `WINDOW` labelled events of all versions; `None` before the first."""
        return self.whole.accuracy

    @property
    def marks(self) -> list[Mark]:
        """All marks. A change of the champion lies at the new version's first prediction."""
        return self._marks + [
            Mark(max(self._first_positions.get(version, mark.position), 0), mark.kind, mark.words)
            for mark, version in self._swaps
        ]

    def rolling(self, points: int) -> dict[str, list[tuple[int, float]]]:
        """Return the rolling accuracy by version, and of all versions together under the key "".

        A point is the stream position where its cells end, and the accuracy over the `WINDOW` positions before it.

        Args:
            points: Most points of one line.
        """
        merge = max(1, -(-(max(self.whole.cells, default=0) + 1) // points))
        over = max(1, WINDOW // (STEP * merge))
        tracks = {"": self.whole, **{name: track for name, track in self.versions.items() if track.cells}}
        return {name: _rolling(merge_cells(track.cells, merge), over, STEP * merge) for name, track in tracks.items()}

    def _take_outcome(self, outcome: Outcome) -> None:
        if outcome.in_sample or 0 <= outcome.position < self._bootstrap:
            return
        # A producer that knows no positions sends -1: the labelled events are counted instead.
        cell = (outcome.position if outcome.position >= 0 else self._counted) // STEP
        self._counted += 1
        for track in (self.whole, self._track(outcome.model_version)):
            track.add(cell, outcome.correct)

    def _track(self, version: str) -> AccuracyTrack:
        return self.versions.setdefault(version, AccuracyTrack())


def merge_cells(cells: Cells, merge: int) -> Cells:
    """Return wider cells.

    Args:
        cells: Cells of `STEP` positions.
        merge: Number of neighbouring cells that become one.
    """
    merged: Cells = {}
    for cell, (labelled, correct) in cells.items():
        counts = merged.setdefault(cell // merge, [0, 0])
        counts[0] += labelled
        counts[1] += correct
    return merged


def _rolling(cells: Cells, over: int, width: int) -> list[tuple[int, float]]:
    """Return the end position of each cell, with the accuracy of it and the ``over`` - 1 cells before it."""
    recent: deque[list[int]] = deque(maxlen=over)
    points = []
    for cell in sorted(cells):
        recent.append(cells[cell])
        labelled, correct = (sum(column) for column in zip(*recent, strict=True))
        points.append(((cell + 1) * width, round(correct / labelled, 4)))
    return points
