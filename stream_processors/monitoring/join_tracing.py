"""Trace context of predictions and labels until they are joined, and the span of the join.

A label may find its prediction in the store before the monitor has read the prediction's message. The scorer therefore
stores the trace context beside the prediction, and the monitor stores that of a parked label beside the label. Both
are kept as long as the prediction or the label. A store that was flushed has lost them. What is rebuilt from the topics
is then joined in a new trace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from opentelemetry.trace import Span

from driftloop.core.messages import Outcome
from driftloop.core.observability import tracing
from driftloop.core.observability.tracing import TRACEPARENT, Headers
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import PREDICTIONS, name


class PendingTraces:
    """Trace contexts of one batch; empty if tracing is off."""

    def __init__(self, settings: Settings, store: OnlineStore) -> None:
        self._topic = name(settings, PREDICTIONS)
        self._store = store
        self._headers: dict[str, dict[str, Headers]] = {"prediction": {}, "label": {}}

    def take(self, kind: Literal["prediction", "label"], event_id: str, headers: Headers) -> None:
        """Keep the trace context of a message; the first one for an event counts.

        Args:
            kind: Kind of the message.
            event_id: Id of its event.
            headers: Headers of the message.
        """
        if tracing.enabled():
            self._headers[kind].setdefault(event_id, headers)

    def park(self, event_ids: Collection[str]) -> None:
        """Store the trace contexts of labels whose prediction has not come yet."""
        if not tracing.enabled():
            return
        labels = {event_id: tracing.trace_headers(self._headers["label"].get(event_id, ())) for event_id in event_ids}
        self._store.park_traces({event_id: value for event_id, headers in labels.items() for _, value in headers})

    def join(self, outcomes: Iterable[Outcome]) -> dict[str, Span | None]:
        """Return a span for each outcome, by event id: a child of the prediction's, linked to the label's."""
        event_ids = [outcome.event_id for outcome in outcomes] if tracing.enabled() else []
        predictions, labels = self._contexts("prediction", event_ids), self._contexts("label", event_ids)
        return {
            event_id: tracing.start(
                "join", "consumer", self._topic, event_id, predictions[event_id], linked=labels[event_id]
            )
            for event_id in event_ids
        }

    def _contexts(self, kind: Literal["prediction", "label"], event_ids: list[str]) -> dict[str, Headers]:
        """Return the headers of the messages by event id: those of this batch, and those in the store."""
        batch = self._headers[kind]
        missing = [event_id for event_id in event_ids if event_id not in batch]
        stored = zip(missing, self._store.traces(kind, missing), strict=True)
        return {**batch, **{event_id: [(TRACEPARENT, value)] if value else [] for event_id, value in stored}}
