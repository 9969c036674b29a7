"""Trainer of the mixture: runs beside the worker's loop, and hands over each expert that has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from threadpoolctl import threadpool_limits

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.classifier import Matrix
from driftloop.core.models.mixture import LinearWeights
from driftloop.core.models.mixture_head import MixtureHead
from retrain.labels.running_trust import RunningTrust
from retrain.mixture.learner import ONLINE, Fit, MixtureLearner, make_rows


class MixtureTrainer:
    """Learns from the labels and alerts of one stream. Experts are refitted in one thread of its own.

    Args:
        learner: The mixture.
        head: Head with the same mixture, for the words of a text.
        embed: Returns the embeddings of n outcomes, shape (n, d).
        publish: Called with the name of each expert that has changed.
    """

    def __init__(
        self,
        learner: MixtureLearner,
        head: MixtureHead,
        embed: Callable[[Sequence[Outcome]], Matrix],
        publish: Callable[[str], None],
    ) -> None:
        self.learner = learner
        self._head = head
        self._embed = embed
        self._publish = publish
        self._trust = RunningTrust()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mixture")
        self._running: dict[str, Future[LinearWeights]] = {}

    def advance(self, outcomes: Sequence[Outcome], alerts: Sequence[DriftAlert]) -> None:
        """Learn from new labels, take over finished refits and start those that are due.

        The online expert is published once for all labels, because weights change with each of them.

        Args:
            outcomes: Labelled events since the previous call, in the order of their labels.
            alerts: Newest alerts of the stream; known ones change nothing.
        """
        drifted = [self.learner.notice_drift(alert.onset_at) for alert in alerts]
        if outcomes:
            self._learn(outcomes)
        if outcomes or any(drifted):
            self._publish(ONLINE)
        self._collect()
        for fit in self.learner.due():
            self._running[fit.expert] = self._pool.submit(_run, fit)

    def close(self) -> None:
        """End the refits that have not begun, and wait for the one under way."""
        self._pool.shutdown(cancel_futures=True)

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        features = self._head.features([outcome.text for outcome in outcomes], self._embed(outcomes))
        labels = [outcome.label for outcome in outcomes]
        times = [outcome.occurred_at for outcome in outcomes]
        for row in make_rows(features, labels, times, [self._trust.weigh(outcome) for outcome in outcomes]):
            self.learner.learn(row)

    def _collect(self) -> None:
        for expert in [name for name, future in self._running.items() if future.done()]:
            self.learner.install(expert, self._running.pop(expert).result())
            self._publish(expert)


def _run(fit: Fit) -> LinearWeights:
    with threadpool_limits(1):  # the other cores are the scorer's
        return fit.run()
