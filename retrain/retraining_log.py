"""Log of retrainings: the topic `retraining`, and the metrics about it."""

from __future__ import annotations

import logging
import time
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Kind, Retraining
from driftloop.core.observability import logs
from driftloop.core.settings import Settings
from driftloop.core.topics import RETRAINING

log = logging.getLogger(__name__)

STEPS = Counter("driftloop_retraining_steps", "State changes of retrainings.", ["state", "candidate"])
STEPS.labels("queued", "")  # a series that exists at zero shows its first increase
SECONDS = Histogram(
    "driftloop_retraining_seconds",
    "Seconds from the queueing of a retraining to its end. The end is promoted, kept (the champion) or failed.",
    ["kind", "end"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
OLDEST = Gauge(
    "driftloop_oldest_retraining_timestamp_seconds",
    "Unix time at which the oldest retraining under way was queued; 0 if none is under way.",
)
_queued_at: dict[str, float] = {}  # by run id, when each retraining under way was queued, in Unix seconds


class RetrainingLog:
    """Publishes the state changes of one retraining on the topic `retraining`.

    Args:
        settings: Settings with the stream.
        outbox: Producer of the messages.
        run_id: Id of the retraining.
        trigger: Alert id, or `bootstrap`, `manual` or `probation`.
        position: Stream position of the newest labelled event; -1 if there is none.
        kind: `search` or `refresh`.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: ConfirmedProducer,
        run_id: str,
        trigger: str,
        position: int,
        kind: Kind = "search",
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._run_id = run_id
        self._trigger = trigger
        self._position = position
        self._kind = kind
        self._started = time.time()
        self._promoted = False

    def write(self, state: Any, reason: str, **details: Any) -> None:
        """Publish a state change.

        Args:
            state: State of the retraining.
            reason: Reason of the change, one sentence.
            details: Further fields of `driftloop.core.messages.Retraining`.
        """
        details.setdefault("seconds", round(time.time() - self._started, 3))
        message = Retraining(
            run_id=self._run_id,
            stream=self._settings.stream,
            state=state,
            trigger=self._trigger,
            reason=reason,
            at=time.time(),
            position=self._position,
            kind=self._kind,
            **details,
        )
        self._outbox.put(RETRAINING.name, self._settings.stream, message)
        self._outbox.flush()
        with logs.log_context(run=self._run_id):
            log.info("%s: %s", state, reason)
        self._count(message)

    def fail(self, error: Exception) -> str:
        """Publish that the retraining has failed, and return the reason."""
        with logs.log_context(run=self._run_id):
            log.error("the retraining failed", exc_info=error)
        reason = str(error)[:500]
        self.write("failed", reason)
        return reason

    def _count(self, message: Retraining) -> None:
        """Update the metrics."""
        STEPS.labels(message.state, message.candidate).inc()
        self._promoted |= message.state == "promoted"
        if message.is_final:
            end = "promoted" if self._promoted else "kept" if message.state == "finished" else "failed"
            SECONDS.labels(self._kind, end).observe(message.seconds)
            _queued_at.pop(self._run_id, None)
        else:
            _queued_at.setdefault(self._run_id, self._started)
        OLDEST.set(min(_queued_at.values(), default=0))
