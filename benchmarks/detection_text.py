"""Texts for the detection benchmark: scenarios with a head that is fitted on the first events and after each alert."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.embeddings import embed
from driftloop.classifiers.base import Matrix
from driftloop.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.settings import Settings
from producers.scenarios import Row, Scenario, load_scenario
from stream_processors.drift.estimate import Block
from stream_processors.joins import outcome as join_one

TRAINED = 500
ROUNDS = (90, 400)
"""Labelled events since the onset after which the head is fitted anew, as the on-drift policy's rounds do."""
SWAP = "label-swap"
"""`tweets-stationary` with the two most frequent classes exchanged from its middle on: P(y|x) alone moves."""
TEXT_SCENARIOS = (
    "tweets",
    "tweets-gradual",
    "tweets-recurring",
    "tweets-label-shift",
    "tweets-typos",
    "tweets-stationary",
    SWAP,
)

Blocks = list[tuple[Block, bool]]
"""Blocks with both accuracies, and whether a drift began within them or in the 500 events before."""


@dataclass
class TextStream:
    """Texts in order with their embeddings, shape (n, d), the true drifts, and what each of them moved."""

    rows: Sequence[Row]
    embeddings: Matrix
    drifts: tuple[int, ...]
    delay: int
    moved: dict[int, set[str]]
    """For each drift the segments or classes of which one has to be named; empty where neither moved."""


@dataclass
class Played:
    """What came of playing a stream under one detector."""

    stream: TextStream
    alerts: list[DriftAlert] = field(default_factory=list)
    blocks: Blocks = field(default_factory=list)
    seconds: float = 0.0
    """CPU time of the detector."""

    def top3(self, max_delay: int) -> list[bool]:
        """For each drift that was detected and moved a segment or class: whether it is among the first three."""
        found = []
        bounds = [*self.stream.drifts[1:], len(self.stream.rows)][: len(self.stream.drifts)]
        for drift, end in zip(self.stream.drifts, bounds, strict=True):
            first = next((one for one in self.alerts if drift <= one.position < min(end, drift + max_delay)), None)
            ranked = first.evidence.get("moved", []) if first else []
            if ranked and self.stream.moved.get(drift):
                names = [one["name"] for one in ranked if one["what"] != "word"]
                found.append(bool(self.stream.moved[drift] & set(names[:3])))
        return found


def text_stream(name: str, seed: int) -> TextStream:
    """A scenario by its name or TOML file, or `SWAP`."""
    if name == SWAP:
        return _swapped(load_scenario("tweets-stationary", seed=seed))
    scenario = load_scenario(name, seed=seed)
    moved: dict[int, set[str]] = {}
    rows = scenario.sequence
    named = {segment for segment, _, _ in scenario.segments}
    for number, drift in enumerate(scenario.drifts):
        end = [*scenario.drifts[1:], len(rows)][number]
        start = [0, *scenario.drifts][number]
        moved[drift] = _moved(rows[start:drift], rows[drift:end])
    if "label-shift" in name:  # its segments are the parts of the stream, which gives the drift away
        rows = tuple(row._replace(segment="") for row in rows)
        moved = {drift: names - named for drift, names in moved.items()}
    return TextStream(rows, _embedded(rows), scenario.drifts, scenario.label_delay, moved)


def play(stream: TextStream, watch: Any) -> Played:
    """Predict, label late, fit anew after each alert."""
    played = Played(stream)
    head = _fit(stream, range(TRAINED))
    version, offset = 1, 0
    history: list[Outcome] = []
    rounds: deque[int] = deque()
    onset_at = 0.0
    waiting: dict[int, Prediction] = {}
    for tick in range(TRAINED, len(stream.rows) + stream.delay):
        alerts: list[DriftAlert] = []
        if tick < len(stream.rows):
            waiting[tick] = _predict(stream, head, tick, version)
            began = time.process_time()
            alerts += watch.predicted(waiting[tick], stream.embeddings[tick])
            played.seconds += time.process_time() - began
        if tick - stream.delay in waiting:
            prediction = waiting.pop(tick - stream.delay)
            position = prediction.position
            label = Label(
                event_id=prediction.event_id, label=stream.rows[position].label, labelled_at=tick, position=position
            )
            history.append(join_one(prediction, label))
            began = time.process_time()
            alerts += watch.labelled(history[-1], offset)
            played.seconds += time.process_time() - began
            offset += 1
        if alerts:
            played.alerts += alerts
            onset_at, rounds = alerts[-1].onset_at, deque(ROUNDS)
        if rounds:
            fresh = [outcome.position for outcome in history if outcome.occurred_at >= onset_at]
            if len(fresh) >= rounds[0] and len({stream.rows[i].label for i in fresh}) > 1:
                head, version = _fit(stream, fresh), version + 1
                rounds.popleft()
    for block in getattr(watch, "blocks", ()):
        if block.estimate is not None and block.labels:
            played.blocks.append((block, any(d - 250 <= block.start < d + 500 for d in stream.drifts)))
    return played


def _fit(stream: TextStream, positions: Sequence[int]) -> LogisticRegression:
    head = LogisticRegression(C=3.0, max_iter=100, tol=1e-3)
    return head.fit(stream.embeddings[list(positions)], [stream.rows[i].label for i in positions])


def _predict(stream: TextStream, head: LogisticRegression, position: int, version: int) -> Prediction:
    logits = head.decision_function(stream.embeddings[position : position + 1])[0]
    logits = np.array([-logits / 2, logits / 2]) if np.ndim(logits) == 0 else logits
    share = np.exp(logits - logits.max())
    share /= share.sum()
    row = stream.rows[position]
    return Prediction(
        event_id=str(position),
        label=str(head.classes_[share.argmax()]),
        probabilities={str(name): float(p) for name, p in zip(head.classes_, share, strict=True)},
        model_version=str(version),
        route="",
        latency_ms=0.0,
        text=row.text,
        segment=row.segment,
        occurred_at=float(position),
        predicted_at=float(position),
        position=position,
    )


def _embedded(rows: Sequence[Row]) -> Matrix:
    return embed([row.text for row in rows], Settings().model)


def _swapped(scenario: Scenario) -> TextStream:
    counts = {name: sum(row.label == name for row in scenario.sequence) for name in scenario.labels}
    one, other = sorted(counts, key=lambda name: -counts[name])[:2]
    middle = len(scenario) // 2
    turn = {one: other, other: one}
    rows = [
        row._replace(label=turn.get(row.label, row.label)) if i >= middle else row
        for i, row in enumerate(scenario.sequence)
    ]
    return TextStream(rows, _embedded(rows), (middle,), scenario.label_delay, {middle: {one, other}})


def _moved(before: Sequence[Row], after: Sequence[Row]) -> set[str]:
    """The segment and the class whose shares truly moved most."""
    names = set()
    for attribute in ("segment", "label"):
        gaps = {}
        for name in sorted({getattr(row, attribute) for row in [*before, *after]}):
            old, new = (sum(getattr(row, attribute) == name for row in side) / len(side) for side in (before, after))
            gaps[name] = abs(new - old)
        best = max(gaps, key=lambda name: gaps[name])
        if gaps[best] > 0.1:
            names.add(best)
    return names
