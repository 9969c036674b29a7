"""Router of a cascade: decides which stage answers an event, and when the first stage is switched off.

Unless the settings say otherwise, the first stage answers under load alone. Without load the encoder gets all events,
and its embeddings are available for retraining. A sample of the events that the first stage is sure of goes to the
encoder as well. It is chosen by event id, so it does not depend on the text. For these events the encoder's answer
counts. It shows if the two stages still agree, and it is a fair sample for the signals on embeddings and confidence.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from prometheus_client import Counter

from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.encoder import PendingEmbeddings
from driftloop.core.models.first_stage import FIRST_ROUTE, SECOND_ROUTE

log = logging.getLogger(__name__)

SAMPLE_EVERY = 20
"""One event in this many goes to the encoder in any case."""
AGREEMENT_WINDOW = 200
"""Newest sampled events, of which the first stage was sure, that its agreement is judged by."""
MIN_SAMPLE = 40
"""Sampled events without which the agreement is not judged."""
SPREADS = 3.0
"""Standard deviations by which the first stage may disagree more often than at its calibration."""
BUSY = 0.5
"""Share of its time that the encoder would need for all events, above which there is load."""
LOAD_SECONDS = 5.0
"""Seconds over which the load is measured."""

ROUTES = Counter("driftloop_routes", "Predictions by the stage that made them.", ["route"])


class Answer(NamedTuple):
    """Answer of the model to one event."""

    probabilities: Matrix
    """Shape (k,)."""
    embedding: Matrix | None
    """Shape (d,); `None` if the encoder was not asked."""
    route: str
    reference: Matrix | None = None
    """Probabilities of the version as it was registered, shape (k,). `None` if it has not changed since."""


@dataclass(frozen=True)
class PendingAnswers:
    """Answers of the first stage to n texts, and the texts that the encoder is still working on."""

    texts: Sequence[str]
    rows: list[int]
    """Rows that the encoder is working on."""
    encoding: PendingEmbeddings
    first: Matrix | None
    """Probabilities of the first stage, shape (n, k); `None` if it was not asked."""
    sample: set[int]
    """Rows that go to the encoder regardless of the first stage."""
    sure: list[int]
    """Rows of the sample that the first stage was sure of."""
    started: float


class CascadeRouter:
    """Answers of the champion, by its first stage where that is allowed.

    `begin` and `finish` may run in one thread each.

    Args:
        mode: Setting `cascade` of the scorer.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self, mode: Literal["auto", "always", "never"], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._mode = mode
        self._load = EncoderLoad(clock)
        self._clock = clock
        self._version = ""
        self._agreed: deque[bool] = deque(maxlen=AGREEMENT_WINDOW)
        # True once the first stage of this version has come to differ from its encoder.
        self._first_stage_off = False

    def begin(
        self, model: BundleClassifier, event_ids: Sequence[str], texts: Sequence[str], *, full: bool, drifting: bool
    ) -> PendingAnswers:
        """Ask the model for its answers to n texts.

        Args:
            model: Champion.
            event_ids: Ids of the n events.
            texts: Texts of the n events.
            full: True if the batch is full, which means load.
            drifting: True if the model is older than the newest drift alert.
        """
        if model.version != self._version:
            self._version, self._first_stage_off = model.version, False
            self._agreed.clear()
        self._load.add_arrivals(len(texts))
        tokens = model.encoder.tokenise(texts)
        first, sure, rows = None, set[int](), list(range(len(texts)))
        sample = set(rows)
        wanted = self._mode == "always" or (self._mode == "auto" and (full or self._load.share > BUSY))
        if wanted and not drifting and not self._first_stage_off and model.first_stage is not None:
            first = model.first_stage.predict_proba(tokens)
            sure = set(np.flatnonzero(model.first_stage.is_sure(first)).tolist())
            sample = {row for row, one in enumerate(event_ids) if zlib.crc32(one.encode()) % SAMPLE_EVERY == 0}
            rows = [row for row in rows if row in sample or row not in sure]
        encoding = model.encoder.begin([tokens[row] for row in rows])
        return PendingAnswers(texts, rows, encoding, first, sample, sorted(sample & sure), self._clock())

    def finish(self, model: BundleClassifier, pending: PendingAnswers) -> list[Answer]:
        """Return the answers in the order of the texts, and compare the two stages. Raises what the model raises.

        Args:
            model: Champion that `begin` was called with.
            pending: Result of `begin`.
        """
        first = () if pending.first is None else pending.first
        answers = {row: Answer(probabilities, None, FIRST_ROUTE) for row, probabilities in enumerate(first)}
        if pending.rows:
            result = model.predict([pending.texts[row] for row in pending.rows], encoding=pending.encoding)
            self._load.add_encoded(len(pending.rows), pending.started)
            for at, row in enumerate(pending.rows):
                route = result.route if row in pending.sample else SECOND_ROUTE
                reference = None if result.reference is None else result.reference[at]
                answers[row] = Answer(result.probabilities[at], result.embeddings[at], route, reference)
        self._compare(model, [first[row].argmax() == answers[row].probabilities.argmax() for row in pending.sure])
        for answer in answers.values():
            ROUTES.labels(answer.route).inc()
        return [answers[row] for row in range(len(pending.texts))]

    def _compare(self, model: BundleClassifier, agreed: Sequence[bool]) -> None:
        """Switch the first stage off if it disagrees with the encoder more than at its calibration, beyond chance."""
        calibration = model.cascade
        if calibration is None or not agreed or model.version != self._version:
            return
        self._agreed.extend(agreed)
        n = len(self._agreed)
        if n < MIN_SAMPLE or self._first_stage_off:
            return
        # Upper bound of the disagreement at the calibration.
        rows = max(1, round(calibration.share * calibration.rows))
        share = calibration.disagreement + 2 * _spread(calibration.disagreement, rows) + 0.01
        found = 1 - sum(self._agreed) / n
        if found > share + SPREADS * _spread(share, n):
            self._first_stage_off = True
            log.warning(
                "the first stage of version %s has come to disagree with its encoder, on %.0f%% of %d events: it is "
                "left out until the next model",
                *(model.version, 100 * found, n),
            )


class EncoderLoad:
    """Share of its time that the encoder would need for all events that come."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[tuple[float, int]] = deque()
        # Seconds of the encoder's time for one event in a batch.
        self._cost = 0.0
        # Time at which the encoder finished its last batch.
        self._free_since = 0.0

    def add_arrivals(self, events: int) -> None:
        """Count N events that have come."""
        now = self._clock()
        self._events.append((now, events))
        while self._events[0][0] < now - LOAD_SECONDS:
            self._events.popleft()

    def add_encoded(self, events: int, started: float) -> None:
        """Measure a batch that the encoder has finished.

        Args:
            events: Number of events in it.
            started: Time at which the encoder got it, by the clock.
        """
        now = self._clock()
        cost = (now - max(started, self._free_since)) / events
        self._free_since = now
        weight = min(1.0, events / 200)
        self._cost = cost if not self._cost else (1 - weight) * self._cost + weight * cost

    @property
    def share(self) -> float:
        """Share of its time; at 1 the encoder would just keep up."""
        if len(self._events) < 2:
            return 0.0
        seconds = self._events[-1][0] - self._events[0][0]
        events = sum(count for _, count in self._events) - self._events[0][1]
        return events / max(seconds, 0.1) * self._cost


def _spread(share: float, n: int) -> float:
    """Return the standard deviation of a share among n."""
    return float((share * (1 - share) / n) ** 0.5)
