"""River's streams with one known drift, and the baselines on them: single detectors, a vote, and dummies."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from river.datasets import synth
from sklearn.naive_bayes import GaussianNB

from benchmarks.detection.results import Row, score
from driftloop.core.messages import DriftAlert, Label, Prediction
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.label_join import outcome as join_one

SINGLE = (
    "error:adwin",
    "error:kswin",
    "error:page-hinkley",
    "error:ddm",
    "error:hddm-a",
    "error:hddm-w",
    "error:stepd",
)
THREE = "error:adwin confidence:adwin mix:adwin"
DETECTORS = ("fused", *SINGLE, THREE, "vote", "always", "never")
LENGTH, DRIFT, TRAINED, STEP = 4000, 2500, 500, 20
"""Events of a stream, position of the drift, events of the first model, and labels between two lessons."""
VOTES, VOTE_WITHIN, DUMMY_EVERY = 3, 100, 100
"""Votes for an alarm, events within which they count, and events between two alarms of the dummy."""


class Watch(Protocol):
    """Interface of a `DriftMonitor`, a vote of several, or a dummy."""

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Process a prediction and return the alerts.

        Args:
            prediction: The prediction.
            embedding: Embedding of its text, shape (d,).
        """
        ...

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """Process a labelled prediction and return the alerts.

        Args:
            outcome: The labelled prediction.
            offset: Its offset among all of them.
        """
        ...


class Vote:
    """Vote of the single detectors: an alarm when `VOTES` of them alarm within `VOTE_WITHIN` events."""

    def __init__(self) -> None:
        self._members = [DriftMonitor([text], "vote") for text in SINGLE]
        self._alarms: dict[int, int] = {}

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Return no alert: only labels count.

        Args:
            prediction: Ignored.
            embedding: Ignored.
        """
        return []

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """Return the alert of the detector that completed the votes.

        Args:
            outcome: The labelled prediction.
            offset: Its offset among all of them.
        """
        last: list[DriftAlert] = []
        for number, member in enumerate(self._members):
            found = member.labelled(outcome, offset)
            if found:
                self._alarms[number], last = offset, found
        recent = sum(offset - at < VOTE_WITHIN for at in self._alarms.values())
        if last and recent >= VOTES:
            self._alarms.clear()
            return last[-1:]
        return []


class Dummy:
    """Alarms at regular distances, or never. Every detector must beat it.

    Args:
        every: Labelled events between two alarms. 0 for none.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Return no alert.

        Args:
            prediction: Ignored.
            embedding: Ignored.
        """
        return []

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """Return an alert at regular offsets.

        Args:
            outcome: The labelled prediction.
            offset: Its offset among all of them.
        """
        if not self._every or (offset + 1) % self._every:
            return []
        return [
            DriftAlert(
                alert_id=str(offset),
                stream="dummy",
                detector="always",
                signal="error",
                severity=0.0,
                position=outcome.position,
                onset=outcome.position,
                onset_at=outcome.occurred_at,
                outcome_offset=offset,
                window=1,
                model_version=outcome.model_version,
                detected_at=outcome.occurred_at,
            )
        ]


def make_watch(name: str) -> Watch:
    """Make a detector of `DETECTORS`, or of configuration lines that are separated by spaces."""
    if name == "vote":
        return Vote()
    if name in ("always", "never"):
        return Dummy(DUMMY_EVERY if name == "always" else 0)
    return DriftMonitor(name.split(), "bench")


Item = tuple[dict[Any, Any], Any]
Concept = Callable[[int, int], Iterator[Item]]


def _sea(concept: int, seed: int) -> Iterator[Item]:
    return iter(synth.SEA(variant=(seed + concept) % 4, seed=10 * seed + concept, noise=0.1))


def _agrawal(concept: int, seed: int) -> Iterator[Item]:
    return iter(synth.Agrawal(classification_function=(seed + concept) % 10, seed=10 * seed + concept))


def _led(concept: int, seed: int) -> Iterator[Item]:
    drifting = 7 if concept else 0
    return iter(
        synth.LEDDrift(
            seed=10 * seed + concept, noise_percentage=0.1, irrelevant_features=True, n_drift_features=drifting
        )
    )


STREAMS: dict[str, Concept] = {"SEA": _sea, "Agrawal": _agrawal, "LED": _led}


def synthetic(name: str, seed: int, learns: bool) -> list[tuple[Prediction, Label]]:
    """Make a stream with one abrupt drift at `DRIFT`, predicted by Gaussian naive Bayes, with immediate labels.

    Args:
        name: One of `STREAMS`.
        seed: Seed of the stream.
        learns: Learn from every `STEP` labels after their predictions. Otherwise from the first `TRAINED` events only.

    Returns:
        Prediction and label of each event after the first `TRAINED`.
    """
    make = STREAMS[name]
    items = itertools.chain(itertools.islice(make(0, seed), DRIFT), itertools.islice(make(1, seed), LENGTH - DRIFT))
    drawn = list(items)
    x = np.array([[float(value) for value in row.values()] for row, _ in drawn])
    y = np.array([str(int(label)) for _, label in drawn])
    classes = np.unique(y)
    model = GaussianNB(priors=np.full(len(classes), 1 / len(classes)))  # no class is impossible before it occurs
    model.partial_fit(x[:TRAINED], y[:TRAINED], classes=classes)
    predicted = []
    for start in range(TRAINED, LENGTH, STEP):
        # A model that has learnt is another version, as in the live loop: its old confidences no longer hold.
        version = str(1 + (start - TRAINED) // STEP) if learns else "1"
        span = slice(start, min(start + STEP, LENGTH))
        for i, found in enumerate(model.predict_proba(x[span]), start):
            event_id = f"{seed}-{i}"
            prediction = Prediction(
                event_id=event_id, label=str(classes[found.argmax()]), model_version=version, route="", latency_ms=0.0,
                probabilities=dict(zip(classes.tolist(), found.tolist(), strict=True)), text="",
                occurred_at=float(i), predicted_at=float(i), position=i,
            )  # fmt: skip
            predicted.append((prediction, Label(event_id=event_id, label=str(y[i]), labelled_at=float(i), position=i)))
        if learns:
            model.partial_fit(x[span], y[span])
    return predicted


def measure_synthetic(seeds: Sequence[int], detectors: Sequence[str]) -> Iterator[Row]:
    """Measure detectors on each stream, with a model that learns and with a frozen one.

    Args:
        seeds: Seeds of the streams.
        detectors: Names for `make_watch`.
    """
    for (name, learns), seed in itertools.product(itertools.product(STREAMS, (True, False)), seeds):
        joined = [(prediction, join_one(prediction, label)) for prediction, label in synthetic(name, seed, learns)]
        for detector in detectors:
            watch, alerts = make_watch(detector), []
            began = time.process_time()
            for offset, (prediction, outcome) in enumerate(joined):
                alerts += watch.predicted(prediction)
                alerts += watch.labelled(outcome, offset)
            spent = time.process_time() - began
            stream = f"{name}, {'online' if learns else 'frozen'}"
            yield score("synthetic", stream, seed, detector, alerts, (DRIFT,), LENGTH, TRAINED, spent)
