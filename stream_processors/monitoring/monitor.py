"""Monitor: joins predictions with late labels, writes outcomes, and raises drift alerts."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import msgspec
from kafka import TopicPartition
from prometheus_client import Counter, Gauge

from driftloop.core import messages
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.core.models.classifier import Matrix
from driftloop.core.observability import tracing
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, LABELS, OUTCOMES, PREDICTIONS, name
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.join_tracing import PendingTraces
from stream_processors.monitoring.label_join import join
from stream_processors.monitoring.state_recovery import rebuild_detectors, rebuild_joins
from stream_processors.runtime import processor
from stream_processors.runtime.dead_letters import Record, send_dead_letter
from stream_processors.runtime.pipeline import Step
from stream_processors.scoring.prediction_store import PredictionStore

log = logging.getLogger(__name__)

LEVEL = Gauge(
    "driftloop_drift_evidence_ratio", "Evidence of a drift by signal; a sum of 1 raises an alarm.", ["signal"]
)
ESTIMATE = Gauge("driftloop_estimated_accuracy_ratio", "Estimated accuracy of the newest block of predictions.")
ESTIMATE.set(math.nan)  # until the first estimate
JOINED = Counter(
    "driftloop_outcomes",
    "Predictions joined with their labels, by correctness, without the training data of the model.",
    ["version", "correct"],
)

BATCH = 500
"""Maximum number of messages in a batch."""
MAX_DELTAS = 64
"""Number of batches whose observations are appended to the stored ones. After them all kept ones are written again."""
READ_TOPICS = (PREDICTIONS, LABELS)


class State(msgspec.Struct):
    """Stored state of the monitor, which survives a restart."""

    applied: dict[str, int]
    """Next offset by topic and partition that the detectors have not seen."""
    watch: bytes
    """State of the detectors."""
    rows: list[bytes] = []
    """SHA-256 of each part of the observations, which are stored beside the state."""


class Monitor:
    """Handler of batches that hold predictions and labels.

    The state is stored together with the offsets that it has seen. That is done after the outcomes and alerts are on
    the broker, and before the batch is acknowledged. A batch that is read again is skipped up to those offsets, so no
    detector counts an event twice.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._detection = DriftMonitor(settings.monitor.detectors, settings.stream)
        self._applied: dict[str, int] = {}
        # SHA-256 of each stored part of the observations.
        self._row_digests: list[bytes] = []

    def open(self) -> None:
        """Connect, and restore the stored state, or rebuild it from the topics."""
        self._store = OnlineStore(self._settings)
        self._store.check()
        self._outbox = ConfirmedProducer(self._settings)
        self._predictions = PredictionStore(self._settings, self._store)
        self._predictions.detect_flush()
        stored, rows = self._store.state(MONITOR_STATE)
        if stored is None or not self._restore(stored, rows):
            seen = self._seen_offsets()
            rebuild_detectors(self._settings, self._detection, seen, rebuild_joins(self._settings, self._store, seen))
            self._save()

    def _restore(self, stored: bytes, rows: Sequence[bytes]) -> bool:
        """Restore the stored state; return False if it cannot be read.

        An error must not end the monitor here: it would end at every start.
        """
        try:
            state = _unsigned(stored, self._settings.signing_key)
            if state.rows != [_sha256(part) for part in rows]:
                raise ValueError("its observations are not those that it has seen")
            self._detection.restore(state.watch, rows)
        except Exception as error:  # a pickled detector may raise anything
            log.warning("The stored state of the detectors cannot be read (%s).", error)
            self._detection = DriftMonitor(self._settings.monitor.detectors, self._settings.stream)
            return False
        self._applied = state.applied
        return True

    @property
    def steps(self) -> tuple[Step, ...]:
        """A single step, because the detectors need the events in sequence."""
        return (self.handle,)

    def close(self) -> None:
        """Do nothing: `open` does not wait."""

    def handle(self, records: Sequence[Record]) -> int:
        """Join a batch, publish its outcomes and alerts, and store the state; return the number of dead letters.

        A batch holds many messages of one partition in sequence, and then many of the next. Its events are therefore
        sorted by time first.
        """
        if self._predictions.detect_flush():
            rebuild_joins(self._settings, self._store, self._seen_offsets())
        dead = 0
        predictions: dict[str, Prediction] = {}
        labels: dict[str, Label] = {}
        traces = PendingTraces(self._settings, self._store)
        for record in records:
            partition = _partition_key(record.topic, record.partition)
            if record.offset < self._applied.get(partition, 0):
                continue
            self._applied[partition] = record.offset + 1
            dead += not self._decode(record, predictions, labels, traces)
        joined = join(self._store, predictions, labels)
        alerts: list[DriftAlert] = []
        embeddings = self._embeddings(predictions.values())
        for prediction in sorted(predictions.values(), key=attrgetter("occurred_at")):
            alerts += self._detection.predicted(prediction, embeddings.get(prediction.event_id))
        outcomes = sorted(joined.outcomes, key=attrgetter("occurred_at"))
        spans = traces.join(outcomes)
        for outcome in outcomes:
            headers = tracing.inject_headers(spans.get(outcome.event_id))
            self._outbox.put(OUTCOMES.name, outcome.event_id, outcome, headers)
        offsets = self._outbox.flush()[-len(outcomes) :] if outcomes else self._outbox.flush()
        for outcome, offset in zip(outcomes, offsets, strict=False):
            alerts += self._detection.labelled(outcome, offset)
        for alert in alerts:
            self._outbox.put(DRIFT_ALERTS.name, alert.stream, alert)
        self._outbox.flush()
        tracing.finish(spans.values())
        traces.park(joined.parked)
        self._save([outcome.event_id for outcome in outcomes], joined.parked, joined.unparked)
        self._export_metrics(outcomes)
        return dead

    def _export_metrics(self, outcomes: Iterable[Outcome]) -> None:
        """Export the outcomes of a batch and the levels of the detectors as metrics."""
        for outcome in outcomes:
            if not outcome.in_sample:
                JOINED.labels(outcome.model_version, str(outcome.correct).lower()).inc()
        for signal, level in self._detection.levels.items():
            LEVEL.labels(signal).set(level)
        estimates = (block.estimate for block in reversed(self._detection.blocks))  # the last one may still be growing
        newest = next((estimate for estimate in estimates if estimate is not None), None)
        if newest is not None:
            ESTIMATE.set(newest)

    def _save(
        self, joined: Iterable[str] = (), parked: Mapping[str, bytes] | None = None, unparked: Iterable[str] = ()
    ) -> None:
        """Store the state together with the joins that it has seen."""
        anew = not 0 < len(self._row_digests) < MAX_DELTAS
        rows = self._detection.rows(fresh=not anew)
        self._row_digests = [*([] if anew else self._row_digests), _sha256(rows)]
        state = _signed(State(self._applied, self._detection.save(), self._row_digests), self._settings.signing_key)
        self._store.save_join(
            MONITOR_STATE,
            state,
            rows,
            anew=anew,
            counted=self._detection.outcomes,
            joined=joined,
            parked=parked or {},
            unparked=unparked,
        )

    def _seen_offsets(self) -> dict[TopicPartition, int]:
        """Return the next offset by partition that neither this monitor nor the one before it has seen."""
        topics = [name(self._settings, topic) for topic in READ_TOPICS]
        committed = clients.committed_offsets(self._settings, "monitor", topics)
        return {
            tp: max(offset, self._applied.get(_partition_key(tp.topic, tp.partition), 0))
            for tp, offset in committed.items()
        }

    def _embeddings(self, predictions: Iterable[Prediction]) -> dict[str, Matrix]:
        """Return the embeddings by event id, each of shape (d,), without the expired ones; one request per encoder."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for prediction in predictions:
            if prediction.encoder:
                wanted[prediction.encoder].append(prediction.event_id)
        found: dict[str, Matrix] = {}
        for encoder, event_ids in wanted.items():
            rows = zip(event_ids, self._store.embeddings(event_ids, encoder), strict=True)
            found.update((event_id, row) for event_id, row in rows if row is not None)
        return found

    def _decode(
        self, record: Record, predictions: dict[str, Prediction], labels: dict[str, Label], traces: PendingTraces
    ) -> bool:
        """Add a message to the predictions or labels; return False if it became a dead letter."""
        try:
            if record.topic == name(self._settings, LABELS):
                label = messages.decode(Label, record.value or b"")
                labels.setdefault(label.event_id, label)
                traces.take("label", label.event_id, record.headers)
            else:
                prediction = messages.decode(Prediction, record.value or b"")
                predictions.setdefault(prediction.event_id, prediction)
                traces.take("prediction", prediction.event_id, record.headers)
        except ValueError as error:
            send_dead_letter(self._outbox, record, f"not a {record.topic} message: {error}", "monitor")
            return False
        return True


def run(settings: Settings) -> None:
    """Monitor the stream until SIGTERM; see `stream_processors.runtime.processor.run` for its end."""
    options = settings.monitor
    processor.run(
        "monitor",
        settings,
        READ_TOPICS,
        Monitor(settings),
        member=options.group_instance_id,
        batch=BATCH,
        max_wait=options.max_wait,
    )


def _partition_key(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def _sha256(part: bytes) -> bytes:
    return hashlib.sha256(part).digest()


def _signed(state: State, key: str) -> bytes:
    body = msgspec.msgpack.encode(state)
    return hmac.digest(key.encode(), body, hashlib.sha256) + body


def _unsigned(stored: bytes, key: str) -> State:
    """Return the state, or raise `ValueError` if the signature is wrong: a pickle of untrusted bytes is never read."""
    signature, body = stored[:32], stored[32:]
    if not hmac.compare_digest(signature, hmac.digest(key.encode(), body, hashlib.sha256)):
        raise ValueError("it is not signed with this DRIFTLOOP_SIGNING_KEY")
    return msgspec.msgpack.decode(body, type=State)
