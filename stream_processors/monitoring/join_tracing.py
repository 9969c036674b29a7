"""The traces of predictions and labels that wait for each other, and the span of their meeting.

A label may find its prediction in the store before the monitor has read the prediction's own message: so what the
prediction's message came with is kept beside it by the scorer, who stores it, and a parked label's beside the label by
the monitor, who parks it; both for as long as what they belong to. A store that was emptied has forgotten them: what it
is told again from the topics is then joined in a trace of its own.
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
    """The traces of one batch; empty where traces are off."""

    def __init__(self, settings: Settings, store: OnlineStore) -> None:
        self._topic = name(settings, PREDICTIONS)
        self._store = store
        self._came: dict[str, dict[str, Headers]] = {"prediction": {}, "label": {}}

    def take(self, kind: Literal["prediction", "label"], event_id: str, headers: Headers) -> None:
        """A message of the batch; the first one for an event counts."""
        if tracing.enabled():
            self._came[kind].setdefault(event_id, headers)

    def park(self, event_ids: Collection[str]) -> None:
        """Keep the traces of labels whose prediction is not there yet."""
        if not tracing.enabled():
            return
        came = {event_id: tracing.trace_headers(self._came["label"].get(event_id, ())) for event_id in event_ids}
        self._store.park_traces({event_id: value for event_id, headers in came.items() for _, value in headers})

    def join(self, outcomes: Iterable[Outcome]) -> dict[str, Span | None]:
        """A span for each outcome, by event id: a child of the prediction's, linked to the label's."""
        event_ids = [outcome.event_id for outcome in outcomes] if tracing.enabled() else []
        predictions, labels = self._of("prediction", event_ids), self._of("label", event_ids)
        return {
            event_id: tracing.start(
                "join", "consumer", self._topic, event_id, predictions[event_id], linked=labels[event_id]
            )
            for event_id in event_ids
        }

    def _of(self, kind: Literal["prediction", "label"], event_ids: list[str]) -> dict[str, Headers]:
        """What the messages came with: those of this batch, and those that the store keeps."""
        came = self._came[kind]
        kept = [event_id for event_id in event_ids if event_id not in came]
        found = zip(kept, self._store.traces(kind, kept), strict=True)
        return {**came, **{event_id: [(TRACEPARENT, value)] if value else [] for event_id, value in found}}
