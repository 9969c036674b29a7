"""What the live view of a simulation shows, gathered from messages; knows nothing of terminals."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from driftloop.core.loop_progress import State
from driftloop.core.messages import DeadLetter, DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.core.terminal_text import escape_control_chars

WINDOW = 500
"""Labelled events that a rolling accuracy is taken over."""
STEP = 50
"""Stream positions that one cell of the timeline stands for, before cells are merged to fit the width."""
RATE_OVER = 5.0
"""Seconds that events/s are measured over."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a stream position."""

    position: int
    kind: Literal["true", "alert", "retraining", "promotion", "rollback"]
    """true: where the scenario knows that the stream changes."""
    words: str


@dataclass
class VersionTrack:
    """One model version's part of the stream."""

    version: str
    reason: str = ""
    scored: int = 0
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    cells: dict[int, list[int]] = field(default_factory=dict)
    """Cell of the timeline: [labelled, correct]."""

    @property
    def accuracy(self) -> float | None:
        """Share of its newest `WINDOW` labelled events that it had right; None before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None


class LoopView:
    """Everything the views show, gathered from messages; knows nothing of terminals."""

    def __init__(self, title: str, bootstrap: int = 0, drifts: Sequence[int] = ()) -> None:
        self.title = title
        self.news: deque[str] = deque(maxlen=200)
        self.versions: dict[str, VersionTrack] = {}
        self.recent: deque[bool] = deque(maxlen=WINDOW)
        self.retraining = "no retraining yet"
        self.state = State(began=time.time())
        self.rate = 0.0
        self.printed = 0
        """News so far, to know which are new."""
        self._bootstrap = bootstrap
        self.cells: dict[int, list[int]] = {}
        """The timeline: [labelled, correct] in each cell of `STEP` positions."""
        self._marks = [Mark(at, "true", "the stream changes here") for at in drifts]
        self._swaps: list[tuple[Mark, str]] = []
        """Changes of the champion, each with the version that came."""
        self._first_seen: dict[str, int] = {}
        self._counted = 0
        self._rates: deque[tuple[float, int]] = deque()
        self._told: Counter[str] = Counter()
        self._last_position = 0

    @property
    def marks(self) -> list[Mark]:
        """What happened where; a change of the champion is where its first prediction is."""
        return self._marks + [
            Mark(max(self._first_seen.get(version, mark.position), 0), mark.kind, mark.words)
            for mark, version in self._swaps
        ]

    def take(self, message: Message) -> None:
        """Learn from a message."""
        match message:
            case Prediction():
                track = self._track(message.model_version)
                track.scored += 1
                self._first_seen.setdefault(message.model_version, message.position)
                self._last_position = max(self._last_position, message.position)
            case Outcome():
                self._outcome(message)
            case DriftAlert():
                words = f"{message.signal} moved by {message.severity:+.3f}"
                self._marks.append(Mark(max(message.position, 0), "alert", words))
                self._tell(
                    f"▲ drift: {message.signal} moved by {message.severity:+.3f} at event {message.position} "
                    f"(began about {message.onset}; {message.detector}, v{message.model_version})"
                )
            case ModelUpdate():
                forward = message.action == "promote"
                self._track(message.version).reason = message.reason
                done = f"{'promoted' if forward else 'rolled back to'} v{message.version}"
                mark = Mark(self._last_position, "promotion" if forward else "rollback", done)
                self._swaps.append((mark, message.version))
                self._tell(f"{'●' if forward else '○'} {done}: {message.reason}")
            case Retraining():
                self._retrained(message)
            case DeadLetter():
                self._told["dead letters"] += 1
                if self._told["dead letters"] <= 5:
                    self._tell(f"† dead letter from {message.topic}: {message.error}")
            case _:
                pass

    def tick(self, state: State) -> None:
        """Learn from the state."""
        self.state = state
        now = time.monotonic()
        self._rates.append((now, state.predictions))
        while len(self._rates) > 2 and now - self._rates[0][0] > RATE_OVER:
            self._rates.popleft()
        (then, before), (_, after) = self._rates[0], self._rates[-1]
        self.rate = (after - before) / (now - then) if now > then else 0.0
        for note in state.notes[self._told["notes"] :]:
            self._tell(note)
        self._told["notes"] = len(state.notes)
        for child in state.children.values():
            if child.restarts > self._told[child.name]:
                self._told[child.name] = child.restarts
                self._tell(f"! {child.name} ended and was started again: {child.last_words or 'it said nothing'}")

    @property
    def accuracy(self) -> float | None:
        """Of the newest `WINDOW` labelled events that count."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    def status(self) -> str:
        """The counts on one line."""
        state = self.state
        newest = next(reversed(self.versions.values()), None)
        shown = "" if self.accuracy is None else f"  accuracy {self.accuracy:.3f}"
        model = ""
        if newest is not None and newest.accuracy is not None:
            model = f" (v{escape_control_chars(newest.version, 40)} alone {newest.accuracy:.3f})"
        restarts = sum(child.restarts for child in state.children.values())
        parts = [
            f"{time.time() - state.began:6.1f} s  {state.phase}",
            f"events {state.events}/{state.total}  {self.rate:.1f}/s  lag {state.lag}",
            f"predicted {state.predictions}  labelled {state.outcomes}{shown}{model}",
        ]
        parts += [f"dead letters {state.dead_letters}"] if state.dead_letters else []
        parts += [f"restarts {restarts}"] if restarts else []
        return "  ".join(parts)

    def rolling(self, points: int) -> dict[str, list[tuple[int, float]]]:
        """The accuracy over the stream by version, and of all together under "".

        Each point is the stream position where some cells end and the share of right predictions over them and those
        before, `WINDOW` labelled positions in all; there are ``points`` at most.
        """
        merge = max(1, -(-(max(self.cells, default=0) + 1) // points))
        over = max(1, WINDOW // (STEP * merge))
        every = {"": self.cells, **{name: track.cells for name, track in self.versions.items() if track.cells}}
        return {name: _rolled(_merged(cells, merge), over, STEP * merge) for name, cells in every.items()}

    def timeline(self, width: int, ascii_only: bool = False) -> Timeline:
        """The accuracy over the stream, its marks, and each version's part of it, in ``width`` cells."""
        last = max([(self.state.total - 1) // STEP, *self.cells, 0])
        merge = max(1, -(-(last + 1) // max(width, 1)))
        cells = _merged(self.cells, merge)
        shares = [right / n for n, right in cells.values()]
        low, high = (min(shares), max(shares)) if shares else (0.0, 1.0)
        low, high = math.floor(low * 10) / 10, math.ceil(high * 10) / 10
        columns = min(width, last // merge + 1)

        def spark(of: dict[int, list[int]]) -> str:
            return "".join(_bar(of.get(cell), low, high, ascii_only) for cell in range(columns))

        marks = [" "] * columns
        signs = _ASCII_SIGNS if ascii_only else _SIGNS
        for mark in self.marks:
            if mark.kind in signs:
                marks[min(mark.position // STEP // merge, columns - 1)] = signs[mark.kind]
        versions = {v: spark(_merged(t.cells, merge)) for v, t in self.versions.items()}
        return Timeline(spark(cells), "".join(marks), versions, low, high)

    def _outcome(self, outcome: Outcome) -> None:
        if outcome.in_sample or 0 <= outcome.position < self._bootstrap:
            return
        # Where the producer knows no positions, the labelled events are counted.
        cell = (outcome.position if outcome.position >= 0 else self._counted) // STEP
        self._counted += 1
        track = self._track(outcome.model_version)
        track.recent.append(outcome.correct)
        self.recent.append(outcome.correct)
        for cells in (self.cells, track.cells):
            counts = cells.setdefault(cell, [0, 0])
            counts[0] += 1
            counts[1] += outcome.correct

    def _retrained(self, message: Retraining) -> None:
        what = {
            "queued": f"queued: {message.reason}",
            "searching": f"fitting {message.candidate}: {message.reason}",
            "gated": f"{message.candidate} compared with the champion: {message.reason}",
            "shadow": f"{message.candidate} {message.reason}",
            "waiting": f"{message.candidate} {message.reason}",
            "rolled-back": f"version {message.version} put back: {message.reason}",
            "promoted": f"{message.candidate} promoted as v{message.version}",
            "rejected": f"{message.candidate} rejected: {message.reason}",
            "failed": f"{message.candidate or 'the retraining'} failed: {message.reason}",
            "finished": f"finished after {message.seconds:.1f} s: {message.reason}",
        }[message.state]
        self.retraining = f"{what}  [{message.trigger}]"
        if message.state == "queued":
            at = message.position if message.position >= 0 else self._last_position
            self._marks.append(Mark(at, "retraining", f"{message.kind}: {message.reason}"))
        # The promotion itself is told by its model update.
        if message.state != "promoted":
            self._tell(f"retraining {what}")

    def _track(self, version: str) -> VersionTrack:
        return self.versions.setdefault(version, VersionTrack(version))

    def _tell(self, line: str) -> None:
        self.news.append(escape_control_chars(line, 400))
        self.printed += 1


@dataclass(frozen=True)
class Timeline:
    """Lines of equal length that belong under one another."""

    accuracy: str
    marks: str
    versions: dict[str, str]
    low: float
    high: float
    """Accuracies at the bottom and the top of the bars."""


_SIGNS = {"true": "△", "alert": "▲", "promotion": "●", "rollback": "●"}
_ASCII_SIGNS = {"true": "'", "alert": "^", "promotion": "o", "rollback": "o"}
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.,-=+*#"


def _merged(cells: dict[int, list[int]], merge: int) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for cell, (n, right) in cells.items():
        counts = out.setdefault(cell // merge, [0, 0])
        counts[0] += n
        counts[1] += right
    return out


def _rolled(cells: dict[int, list[int]], over: int, width: int) -> list[tuple[int, float]]:
    recent: deque[list[int]] = deque(maxlen=over)
    out = []
    for cell in sorted(cells):
        recent.append(cells[cell])
        out.append(((cell + 1) * width, round(sum(r for _, r in recent) / sum(n for n, _ in recent), 4)))
    return out


def _bar(counts: list[int] | None, low: float, high: float, ascii_only: bool) -> str:
    if not counts or not counts[0]:
        return " "
    bars = _ASCII_BARS if ascii_only else _BARS
    place = (counts[1] / counts[0] - low) / ((high - low) or 1.0)
    return bars[min(int(place * len(bars)), len(bars) - 1)]
