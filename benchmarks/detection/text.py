"""Text streams of the detection benchmark, with a head fitted on the first events and after each alert."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.detection.corpora import LIMIT, corpus_scenario
from benchmarks.detection.results import Blocks
from benchmarks.harness.cached_embeddings import embed
from benchmarks.harness.predictions import make_prediction
from driftloop.core.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import Injection, Row, load_scenario
from stream_processors.monitoring.label_join import outcome as join_one

TRAINED = 500
"""Events of the first head."""
ROUNDS = (90, 400)
"""Labelled events since the onset after which the head is fitted anew, like the rounds of the on-drift policy."""
STATIONARY = "tweets-stationary"
TEXT_SCENARIOS = (
    "tweets",
    "tweets-gradual",
    "tweets-recurring",
    "tweets-label-shift",
    "tweets-prior",
    "tweets-swap",
    "tweets-relabel",
    "tweets-topic",
    "tweets-vocabulary",
    "tweets-noise",
    "tweets-typos",
)
KINDS = {"prior": "label", "label-swap": "concept"}
"""Kind of injection to kind of drift. All others change the texts and are covariate."""


@dataclass
class TextStream:
    """Texts in order, with their embeddings and true drifts."""

    rows: Sequence[Row]
    embeddings: Matrix
    """Shape (n, d)."""
    drifts: tuple[int, ...]
    delay: int
    """Events between an event and its label."""
    moved: dict[int, Moved]
    """Changes of each drift. The end of an injection reverses its onset."""
    event_ids: Sequence[str]
    """Different for each seed. They break ties, so equal ones would make the seeds dependent."""


@dataclass(frozen=True)
class Moved:
    """True changes of a drift. An alert must have one of the names among its first three."""

    classes_and_segments: frozenset[str]
    words: frozenset[str]
    kind: str
    """Kind of drift: label, concept or covariate."""

    @classmethod
    def of(cls, injection: Injection) -> Moved:
        """Return the changes of an injection. Of a prior shift only the class with the largest change counts."""
        classes = injection.classes[:1] if injection.kind == "prior" else injection.classes
        return cls(
            frozenset([*classes, *injection.segments]),
            frozenset([*injection.words, *injection.replacements]),
            KINDS.get(injection.kind, "covariate"),
        )


@dataclass
class Played:
    """Outcome of a stream under one detector."""

    stream: TextStream
    alerts: list[DriftAlert] = field(default_factory=list)
    blocks: Blocks = field(default_factory=list)
    seconds: float = 0.0
    """CPU time of the detector."""

    def explained(self, max_delay: int) -> tuple[list[bool], list[bool]]:
        """Score the explanation of each detected drift.

        Words count if the injection changed no class or segment. Without words either, only the kind counts.

        Returns:
            For each detected drift, True if a true change is among the first three of its sort, and True if the kind
            is correct.
        """
        top, kinds = [], []
        bounds = [*self.stream.drifts[1:], len(self.stream.rows)][: len(self.stream.drifts)]
        for drift, end in zip(self.stream.drifts, bounds, strict=True):
            first = next((one for one in self.alerts if drift <= one.position < min(end, drift + max_delay)), None)
            if first is None or drift not in self.stream.moved or "moved" not in first.evidence:
                continue
            moved = self.stream.moved[drift]
            kinds.append(first.kind == moved.kind)
            sought = moved.classes_and_segments or moved.words
            ranked = first.evidence.get("moved", [])
            names = [one["name"] for one in ranked if (one["what"] == "word") == (not moved.classes_and_segments)]
            if sought:
                top.append(bool(sought & set(names[:3])))
        return top, kinds


def text_stream(name: str, seed: int) -> TextStream:
    """Load a text stream and embed its texts.

    Args:
        name: A built-in scenario, a TOML file, or ``corpus/drift`` (`benchmarks.detection.corpora`).
        seed: Seed of the scenario.
    """
    corpus = "/" in name and not name.endswith(".toml")
    scenario = corpus_scenario(name, seed) if corpus else load_scenario(name, seed=seed)
    rows = scenario.sequence[:LIMIT] if corpus else scenario.sequence
    if "label-shift" in name:  # its segments are the parts of the stream, which would give the drift away
        rows = tuple(row._replace(segment="") for row in rows)
    moved = {}
    for one in scenario.injected:
        moved[one.onset] = Moved.of(one)
        if one.end is not None:
            moved[one.end] = Moved.of(one)
    embeddings = embed([row.text for row in rows], Settings().model)
    return TextStream(rows, embeddings, scenario.drifts, scenario.label_delay, moved, scenario.event_ids)


def play(stream: TextStream, watch: Any, fits: bool = True) -> Played:
    """Predict and label a stream under one detector.

    Args:
        stream: The stream.
        watch: A detector of `benchmarks.detection.synthetic.make_watch`.
        fits: Fit the head anew after each alert.
    """
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
            history.append(_join(stream, waiting.pop(tick - stream.delay), tick))
            began = time.process_time()
            alerts += watch.labelled(history[-1], offset)
            played.seconds += time.process_time() - began
            offset += 1
        if alerts:
            played.alerts += alerts
            onset_at, rounds = alerts[-1].onset_at, deque(ROUNDS if fits else ())
        if rounds:
            fresh = [outcome.position for outcome in history if outcome.occurred_at >= onset_at]
            if len(fresh) >= rounds[0] and len({stream.rows[i].label for i in fresh}) > 1:
                head, version = _fit(stream, fresh), version + 1
                rounds.popleft()
    played.blocks += _blocks(stream, watch)
    return played


def _join(stream: TextStream, prediction: Prediction, tick: int) -> Outcome:
    position = prediction.position
    label = Label(event_id=prediction.event_id, label=stream.rows[position].label, labelled_at=tick, position=position)
    return join_one(prediction, label)


def _blocks(stream: TextStream, watch: Any) -> Blocks:
    """Return the detector's blocks with an estimate and labels, and True for each near a drift."""
    return [
        (block, any(drift - 250 <= block.start < drift + 500 for drift in stream.drifts))
        for block in getattr(watch, "blocks", ())
        if block.estimate is not None and block.labels
    ]


def _fit(stream: TextStream, positions: Sequence[int]) -> LogisticRegression:
    head = LogisticRegression(C=3.0, max_iter=100, tol=1e-3)
    return head.fit(stream.embeddings[list(positions)], [stream.rows[i].label for i in positions])


def _predict(stream: TextStream, head: LogisticRegression, position: int, version: int) -> Prediction:
    logits = head.decision_function(stream.embeddings[position : position + 1])[0]
    logits = np.array([-logits / 2, logits / 2]) if np.ndim(logits) == 0 else logits
    share = np.exp(logits - logits.max())
    share /= share.sum()
    row, event_id = stream.rows[position], stream.event_ids[position]
    return make_prediction(row, position, head.classes_, share, event_id=event_id, model_version=str(version))
