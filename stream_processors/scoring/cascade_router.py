"""Which stage of a cascade answers an event, and when the first one keeps silent.

The first stage answers under load alone, unless the settings say otherwise: while there is time for all events, the
encoder has them, and its embeddings are there for whoever retrains. Some of the events that the first stage is sure of
are put to the encoder all the same, chosen by their ids and so whatever their text: the encoder's answer counts, says
whether the two still agree, and is a fair sample for whoever watches embeddings and confidence.
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
from driftloop.core.models.first_stage import FIRST, SECOND

log = logging.getLogger(__name__)

EVERY = 20
"""One in so many events is put to the encoder in any case."""
NEWEST = 200
"""Events of those, which the first stage was sure of, that its agreement is judged by."""
LEAST = 40
"""With fewer nothing is said."""
SPREADS = 3.0
"""Standard deviations by which it may disagree more often than when it was calibrated."""
BUSY = 0.5
"""Part of its time that the encoder would be at work if it had all events, from which on there is load."""
MEMORY = 5.0
"""Seconds over which that is judged."""

ROUTES = Counter("driftloop_routes", "Predictions by which stage made them.", ["route"])


class Answer(NamedTuple):
    """What is said of one event."""

    probabilities: Matrix
    """Shape (k,)."""
    embedding: Matrix | None
    """Shape (d,); None where the encoder was not asked."""
    route: str


@dataclass(frozen=True)
class PendingAnswers:
    """Texts of which the first stage has answered what it may, and the encoder is at the rest."""

    texts: Sequence[str]
    rows: list[int]
    """Those that the encoder is at."""
    encoding: PendingEmbeddings
    first: Matrix | None
    """The first stage's probabilities, shape (n, k); None where it was not asked."""
    sample: set[int]
    """Rows that the encoder is asked for whatever the first stage says."""
    sure: list[int]
    """Those of them that it was sure of."""
    began: float


class CascadeRouter:
    """Answers with the champion, by its first stage where that may; `begin` and `finish` may have a thread each."""

    def __init__(
        self, mode: Literal["auto", "always", "never"], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._mode = mode
        self._load = EncoderLoad(clock)
        self._clock = clock
        self._version = ""
        self._agreed: deque[bool] = deque(maxlen=NEWEST)
        self._silent = False
        """Whether this version's first stage has come to differ from its encoder."""

    def begin(
        self, model: BundleClassifier, event_ids: Sequence[str], texts: Sequence[str], *, full: bool, drifting: bool
    ) -> PendingAnswers:
        """Ask for n texts.

        ``full``: as many were waiting as are taken at once; ``drifting``: the model is older than the newest alert.
        """
        if model.version != self._version:
            self._version, self._silent = model.version, False
            self._agreed.clear()
        self._load.came(len(texts))
        tokens = model.encoder.tokenise(texts)
        first, sure, rows = None, set[int](), list(range(len(texts)))
        sample = set(rows)
        wanted = self._mode == "always" or (self._mode == "auto" and (full or self._load.share > BUSY))
        if wanted and not drifting and not self._silent and model.first is not None:
            first = model.first.predict_proba(tokens)
            sure = set(np.flatnonzero(model.first.sure(first)).tolist())
            sample = {row for row, one in enumerate(event_ids) if zlib.crc32(one.encode()) % EVERY == 0}
            rows = [row for row in rows if row in sample or row not in sure]
        encoding = model.encoder.begin([tokens[row] for row in rows])
        return PendingAnswers(texts, rows, encoding, first, sample, sorted(sample & sure), self._clock())

    def finish(self, model: BundleClassifier, asked: PendingAnswers) -> list[Answer]:
        """The answers; raises what the model does."""
        first = () if asked.first is None else asked.first
        answers = {row: Answer(said, None, FIRST) for row, said in enumerate(first)}
        if asked.rows:
            said = model.predict([asked.texts[row] for row in asked.rows], encoding=asked.encoding)
            self._load.encoded(len(asked.rows), asked.began)
            for row, shares, embedding in zip(asked.rows, said.probabilities, said.embeddings, strict=True):
                answers[row] = Answer(shares, embedding, said.route if row in asked.sample else SECOND)
        self._compare(model, [first[row].argmax() == answers[row].probabilities.argmax() for row in asked.sure])
        for answer in answers.values():
            ROUTES.labels(answer.route).inc()
        return [answers[row] for row in range(len(asked.texts))]

    def _compare(self, model: BundleClassifier, agreed: Sequence[bool]) -> None:
        """Silence the first stage where it disagrees with the encoder more than it did, beyond chance."""
        worth = model.cascade
        if worth is None or not agreed or model.version != self._version:
            return
        self._agreed.extend(agreed)
        n = len(self._agreed)
        if n < LEAST or self._silent:
            return
        # What it was when it was calibrated, at worst.
        share = worth.disagreement + 2 * _spread(worth.disagreement, max(1, round(worth.share * worth.rows))) + 0.01
        found = 1 - sum(self._agreed) / n
        if found > share + SPREADS * _spread(share, n):
            self._silent = True
            log.warning(
                "the first stage of version %s has come to disagree with its encoder, on %.0f%% of %d events: it is "
                "left out until the next model",
                *(model.version, 100 * found, n),
            )


class EncoderLoad:
    """How much of its time the encoder would need for all events that come."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[tuple[float, int]] = deque()
        self._cost = 0.0
        """Seconds that an event keeps the encoder, with those beside it."""
        self._free = 0.0
        """When the encoder was done with what it had."""

    def came(self, events: int) -> None:
        """So many events have come."""
        now = self._clock()
        self._events.append((now, events))
        while self._events[0][0] < now - MEMORY:
            self._events.popleft()

    def encoded(self, events: int, began: float) -> None:
        """The encoder is done with so many, which it was given at ``began``."""
        now = self._clock()
        cost = (now - max(began, self._free)) / events
        self._free = now
        weight = min(1.0, events / 200)
        self._cost = cost if not self._cost else (1 - weight) * self._cost + weight * cost

    @property
    def share(self) -> float:
        """1: it would just keep up."""
        if len(self._events) < 2:
            return 0.0
        seconds = self._events[-1][0] - self._events[0][0]
        events = sum(count for _, count in self._events) - self._events[0][1]
        return events / max(seconds, 0.1) * self._cost


def _spread(share: float, n: int) -> float:
    """Standard deviation of a share among n."""
    return float((share * (1 - share) / n) ** 0.5)
