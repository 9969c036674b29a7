"""The second Faust app: joins predictions with late labels, writes outcomes, and declares drift."""

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
from driftloop.core.online_store import MONITOR, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DRIFT_ALERTS, LABELS, OUTCOMES, PREDICTIONS, name
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.monitoring.join_tracing import PendingTraces
from stream_processors.monitoring.label_join import join
from stream_processors.monitoring.state_recovery import find_joins, learn_again
from stream_processors.runtime import processor
from stream_processors.runtime.dead_letters import Record, send_dead_letter
from stream_processors.runtime.pipeline import Step
from stream_processors.scoring.prediction_store import PredictionStore

log = logging.getLogger(__name__)

LEVEL = Gauge("driftloop_drift_evidence_ratio", "Evidence of a drift; all signals together alarm at 1.", ["signal"])
ESTIMATE = Gauge("driftloop_estimated_accuracy_ratio", "Accuracy over the newest block, estimated without labels.")
ESTIMATE.set(math.nan)  # until there is one
JOINED = Counter(
    "driftloop_outcomes",
    "Predictions joined with their label, by whether they were right; without those of a model's own training data.",
    ["version", "correct"],
)

BATCH = 500
PARTS = 64
"""Batches whose observations are stored one behind the other; then all that are kept are stored anew."""
READ = (PREDICTIONS, LABELS)


class State(msgspec.Struct):
    """What survives a restart: the watch, and the next offset of every partition that it has not seen."""

    applied: dict[str, int]
    watch: bytes
    rows: list[bytes] = []
    """SHA-256 of each part of the watch's observations, which lie beside this."""


class Monitor:
    """Handles batches that hold predictions and labels.

    The state is stored together with the offsets it has seen, after the outcomes and alerts are on the broker and
    before the batch is acknowledged. A batch that is read again is skipped up to those offsets, so no detector
    counts an event twice.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watch = DriftMonitor(settings.monitor.detectors, settings.stream)
        self._applied: dict[str, int] = {}
        self._parts: list[bytes] = []
        """SHA-256 of each part of the observations that is stored."""

    def open(self) -> None:
        """Connect, and take over the stored state."""
        self._store = OnlineStore(self._settings)
        self._store.check()
        self._outbox = ConfirmedProducer(self._settings)
        self._answers = PredictionStore(self._settings, self._store)
        self._answers.detect_flush()
        stored, rows = self._store.state(MONITOR)
        if stored is None or not self._take_over(stored, rows):
            seen = self._seen()
            learn_again(self._settings, self._watch, seen, find_joins(self._settings, self._store, seen))
            self._save()

    def _take_over(self, stored: bytes, rows: Sequence[bytes]) -> bool:
        """Go on from the stored state; False where it cannot be read: a monitor that would not start over it would
        never start again."""
        try:
            state = _unsigned(stored, self._settings.signing_key)
            if state.rows != [_digest(part) for part in rows]:
                raise ValueError("its observations are not those that it has seen")
            self._watch.restore(state.watch, rows)
        except Exception as error:  # what is pickled raises whatever it likes
            log.warning("The stored state of the detectors cannot be read (%s).", error)
            self._watch = DriftMonitor(self._settings.monitor.detectors, self._settings.stream)
            return False
        self._applied = state.applied
        return True

    @property
    def steps(self) -> tuple[Step, ...]:
        """One: the detectors are one sequence."""
        return (self.handle,)

    def close(self) -> None:
        """Nothing is waited for."""

    def handle(self, records: Sequence[Record]) -> int:
        """Join a batch, publish its outcomes and alerts, then store the state; returns the number of dead letters.

        The partitions of a topic come in turns of many messages, so what a batch holds is put into its order first.
        """
        if self._answers.detect_flush():
            find_joins(self._settings, self._store, self._seen())
        dead = 0
        predictions: dict[str, Prediction] = {}
        labels: dict[str, Label] = {}
        waiting = PendingTraces(self._settings, self._store)
        for record in records:
            place = _place(record.topic, record.partition)
            if record.offset < self._applied.get(place, 0):
                continue
            self._applied[place] = record.offset + 1
            dead += not self._decode(record, predictions, labels, waiting)
        joined = join(self._store, predictions, labels)
        alerts: list[DriftAlert] = []
        embeddings = self._embeddings(predictions.values())
        for prediction in sorted(predictions.values(), key=attrgetter("occurred_at")):
            alerts += self._watch.predicted(prediction, embeddings.get(prediction.event_id))
        outcomes = sorted(joined.outcomes, key=attrgetter("occurred_at"))
        spans = waiting.join(outcomes)
        for outcome in outcomes:
            headers = tracing.inject_headers(spans.get(outcome.event_id))
            self._outbox.put(OUTCOMES.name, outcome.event_id, outcome, headers)
        offsets = self._outbox.flush()[-len(outcomes) :] if outcomes else self._outbox.flush()
        for outcome, offset in zip(outcomes, offsets, strict=False):
            alerts += self._watch.labelled(outcome, offset)
        for alert in alerts:
            self._outbox.put(DRIFT_ALERTS.name, alert.stream, alert)
        self._outbox.flush()
        tracing.finish(spans.values())
        waiting.park(joined.parked)
        self._save([outcome.event_id for outcome in outcomes], joined.parked, joined.unparked)
        self._show(outcomes)
        return dead

    def _show(self, outcomes: Iterable[Outcome]) -> None:
        """What came of the batch, and what the detectors make of it, as metrics."""
        for outcome in outcomes:
            if not outcome.in_sample:
                JOINED.labels(outcome.model_version, str(outcome.correct).lower()).inc()
        for signal, level in self._watch.levels.items():
            LEVEL.labels(signal).set(level)
        estimates = (block.estimate for block in reversed(self._watch.blocks))  # the last one may still be growing
        newest = next((estimate for estimate in estimates if estimate is not None), None)
        if newest is not None:
            ESTIMATE.set(newest)

    def _save(
        self, joined: Iterable[str] = (), parked: Mapping[str, bytes] | None = None, unparked: Iterable[str] = ()
    ) -> None:
        """Store the state together with the joins that it has seen."""
        anew = not 0 < len(self._parts) < PARTS
        rows = self._watch.rows(fresh=not anew)
        self._parts = [*([] if anew else self._parts), _digest(rows)]
        state = _signed(State(self._applied, self._watch.save(), self._parts), self._settings.signing_key)
        self._store.save_join(
            MONITOR,
            state,
            rows,
            anew=anew,
            counted=self._watch.outcomes,
            joined=joined,
            parked=parked or {},
            unparked=unparked,
        )

    def _seen(self) -> dict[TopicPartition, int]:
        """By partition, the next offset that this monitor, or the one before it, has not seen."""
        own = [name(self._settings, topic) for topic in READ]
        seen = clients.committed(self._settings, "monitor", own)
        return {tp: max(offset, self._applied.get(_place(tp.topic, tp.partition), 0)) for tp, offset in seen.items()}

    def _embeddings(self, predictions: Iterable[Prediction]) -> dict[str, Matrix]:
        """Embeddings by event id, each of shape (d,), in one request for each encoder; expired ones are left out."""
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
        self, record: Record, predictions: dict[str, Prediction], labels: dict[str, Label], waiting: PendingTraces
    ) -> bool:
        """Take a message where it belongs; False where it is buried."""
        try:
            if record.topic == name(self._settings, LABELS):
                label = messages.decode(Label, record.value or b"")
                labels.setdefault(label.event_id, label)
                waiting.take("label", label.event_id, record.headers)
            else:
                prediction = messages.decode(Prediction, record.value or b"")
                predictions.setdefault(prediction.event_id, prediction)
                waiting.take("prediction", prediction.event_id, record.headers)
        except ValueError as error:
            send_dead_letter(self._outbox, record, f"not a {record.topic} message: {error}", "monitor")
            return False
        return True


def run(settings: Settings) -> None:
    """Watch the stream until SIGTERM; see `stream_processors.runtime.processor.run` for how it ends."""
    chosen = settings.monitor
    processor.run("monitor", settings, READ, Monitor(settings), member=chosen.member, batch=BATCH, within=chosen.within)


def _place(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def _digest(part: bytes) -> bytes:
    return hashlib.sha256(part).digest()


def _signed(state: State, key: str) -> bytes:
    body = msgspec.msgpack.encode(state)
    return hmac.digest(key.encode(), body, hashlib.sha256) + body


def _unsigned(stored: bytes, key: str) -> State:
    """The state; a `ValueError` where the bytes are not ours: detectors are pickled, and no stranger's is ever read."""
    signature, body = stored[:32], stored[32:]
    if not hmac.compare_digest(signature, hmac.digest(key.encode(), body, hashlib.sha256)):
        raise ValueError("it is not signed with this DRIFTLOOP_SIGNING_KEY")
    return msgspec.msgpack.decode(body, type=State)
