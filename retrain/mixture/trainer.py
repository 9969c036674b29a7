"""Trainer of the mixture: runs beside the worker's loop, and hands over each expert that has changed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from threadpoolctl import threadpool_limits

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.mixture import LinearWeights
from driftloop.core.models.mixture_head import MixtureHead
from retrain.labels.running_trust import RunningTrust
from retrain.mixture.expert_history import ExpertHistory
from retrain.mixture.learner import ONLINE, Fit, MixtureLearner, Row, make_rows

BUDGET, PERIOD = 5.0, 10.0
"""Half of a core for refits: at some hundred labels per second they would take a whole one, which the scorer needs."""


class MixtureTrainer:
    """Learns from the labels and alerts of one stream. Experts are refitted in one thread of its own.

    Args:
        learner: The mixture.
        head: Head with the same mixture, for the words of a text and for the guests.
        embed: Returns the embeddings of n outcomes, shape (n, d).
        publish: Called with the name of each expert that has changed.
        clock: Monotonic clock, in seconds.
        budget: Seconds of refits in the newest `PERIOD` seconds after which the next ones wait.
        now: Clock of `Outcome.predicted_at`, in Unix seconds.
    """

    def __init__(
        self,
        learner: MixtureLearner,
        head: MixtureHead,
        embed: Callable[[Sequence[Outcome]], Matrix],
        publish: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        budget: float = BUDGET,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.learner = learner
        self.head = head
        self._embed = embed
        self._publish = publish
        self._trust = RunningTrust()
        self._now = now
        self._history = ExpertHistory()
        self._history.note(learner.online, now())
        # Time at which the newest drift was noticed. What the expert said before tells nothing about the new concept.
        self._noticed_at = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mixture")
        self._running: dict[str, Future[tuple[LinearWeights, float]]] = {}
        self._clock = clock
        self._budget = budget
        # Ends of the newest refits, and the seconds that each took.
        self._spent: deque[tuple[float, float]] = deque()

    @property
    def busy(self) -> bool:
        """Return True if a refit is under way."""
        return bool(self._running)

    def remember(self, outcomes: Sequence[Outcome]) -> None:
        """Take labelled events that the mixture has learnt before.

        Args:
            outcomes: The events, in the order of their labels.
        """
        if outcomes:
            self.learner.remember(self._rows(outcomes, ask_guests=False))

    def advance(self, outcomes: Sequence[Outcome], alerts: Sequence[DriftAlert]) -> None:
        """Learn from new labels, take over finished refits and start those that are due.

        The online expert is published once for all labels, because weights change with each of them. Events that the
        first model was trained on are remembered.

        Args:
            outcomes: Labelled events since the previous call, in the order of their labels.
            alerts: Newest alerts of the stream; known ones change nothing.
        """
        drifted = [self.learner.notice_drift(alert.onset_at) for alert in alerts]
        if any(drifted):
            self._noticed_at = self._now()
        self.remember([outcome for outcome in outcomes if outcome.in_sample])
        new = [outcome for outcome in outcomes if not outcome.in_sample]
        if new:
            for outcome, row in zip(new, self._rows(new, ask_guests=True), strict=True):
                if outcome.predicted_at > self._noticed_at:
                    said = self._history.probability(row.embedding, row.label, outcome.predicted_at)
                    row = replace(row, online=said)
                self.learner.learn(row)
        if new or any(drifted):
            self._publish(ONLINE)
            self._history.note(self.learner.online, self._now())
        self._collect()
        if self._seconds_spent() < self._budget:
            for fit in self.learner.due():
                self._running[fit.expert] = self._pool.submit(_run, fit)

    def wait(self) -> None:
        """Wait until the refits under way are finished, and take them over."""
        wait(self._running.values())
        self._collect()

    def close(self) -> None:
        """End the refits that have not begun, and wait for the one under way."""
        self._pool.shutdown(cancel_futures=True)

    def _rows(self, outcomes: Sequence[Outcome], *, ask_guests: bool) -> list[Row]:
        texts, embeddings = [outcome.text for outcome in outcomes], self._embed(outcomes)
        features = self.head.features(texts, embeddings, ask_guests=ask_guests)
        return make_rows(
            features,
            [outcome.label for outcome in outcomes],
            [outcome.occurred_at for outcome in outcomes],
            [self._trust.weigh(outcome) for outcome in outcomes],
            [outcome.event_id for outcome in outcomes],
        )

    def _collect(self) -> None:
        for expert in [name for name, future in self._running.items() if future.done()]:
            weights, seconds = self._running.pop(expert).result()
            self._spent.append((self._clock(), seconds))
            self.learner.install(expert, weights)
            self._publish(expert)

    def _seconds_spent(self) -> float:
        """Return the seconds that the newest refits took."""
        while self._spent and self._spent[0][0] < self._clock() - PERIOD:
            self._spent.popleft()
        return sum(seconds for _, seconds in self._spent)


def _run(fit: Fit) -> tuple[LinearWeights, float]:
    """Fit an expert, and return it with the seconds that it took."""
    began = time.perf_counter()
    with threadpool_limits(1):  # the other cores are the scorer's
        weights = fit.run()
    return weights, time.perf_counter() - began
