"""Audit of a stream: every event must end as one prediction or one dead letter, on the topics and in the store.

It may run at any time and during any fault. An event that no processor has acknowledged yet is in flight, not lost.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import ModelUpdate
from driftloop.core.models.registry import Registry
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DEAD_LETTERS, EVENTS, LABELS, MODEL_UPDATES, OUTCOMES, PREDICTIONS
from serving.audit.audit_db import AuditDatabase
from serving.audit.topic_reader import Report, TopicSnapshot, digest

CHUNK = 1000
"""Predictions that are compared with the store at a time."""
EXPIRING = 60.0
"""Predictions that expire within this many seconds are skipped: they could disappear during the comparison."""
SHOWN = 5
"""Most ids of a finding."""
LINEAGE = ("candidate", "trigger", "dataset_revision", "topic", "first_offset", "last_offset", "digest")
"""Tags that every promoted version must have."""

UNJOINED = "labels JOIN predictions USING (id) LEFT JOIN outcomes USING (id) WHERE outcomes.id IS NULL"

Verdict = Literal["ALL-RECORDS-DELIVERED", "PROCESSED-LESS", "PROCESSED-MORE"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A violation."""

    kind: Literal["less", "more", "lineage"]
    what: str
    """Description of the violation."""
    count: int
    """Number of events, messages or versions that violate it."""
    first: list[str]
    """Their first ids."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Result of an audit."""

    verdict: Verdict
    counts: dict[str, int]
    """Messages, unique keys and events in flight, by name."""
    findings: list[Finding]
    unchecked: list[str]
    """Parts that could not be checked, with the reason."""

    @property
    def clean(self) -> bool:
        """Return True if everything was checked and there is no finding."""
        return not self.findings and not self.unchecked


def audit(settings: Settings, report: Report = lambda line: None) -> Audit:
    """Read the topics of a stream once and compare them with the store and the registry.

    Memory does not grow with the stream: the rows are in a temporary file.

    Args:
        settings: Settings of the stream.
        report: Receives lines about the progress.

    Raises:
        DriftloopError: The broker does not answer, or the stream has no topics.
    """
    with tempfile.TemporaryDirectory(prefix="driftloop-audit-", dir=settings.scratch_dir or None) as folder:
        database = AuditDatabase(Path(folder))
        try:
            return _Auditor(settings, database, report).audit()
        finally:
            database.close()


class _Auditor:
    """Fills the database and queries it for violations."""

    def __init__(self, settings: Settings, database: AuditDatabase, report: Report) -> None:
        self._settings = settings
        self._database = database
        self._report = report
        self._findings: list[Finding] = []
        self._unchecked: list[str] = []

    def audit(self) -> Audit:
        """Read the topics, and return the violations."""
        snapshot = TopicSnapshot(self._settings, self._database, self._report)
        counted = self._count_of_detectors()
        snapshot.read()
        for topic, count in snapshot.vanished.items():
            self._add("less", f"messages of {topic} were acknowledged and the broker no longer has them", count, [])
        self._check_events(snapshot.whole)
        self._check_joins(snapshot.whole)
        self._check_detectors(counted)
        self._check_store()
        self._check_versions(snapshot.versions)
        kinds = {finding.kind for finding in self._findings}
        verdict: Verdict = (
            "PROCESSED-LESS" if "less" in kinds else "PROCESSED-MORE" if "more" in kinds else "ALL-RECORDS-DELIVERED"
        )
        return Audit(
            verdict=verdict, counts=self._counts(snapshot.messages), findings=self._findings, unchecked=self._unchecked
        )

    def _check_events(self, whole: dict[str, bool]) -> None:
        """Check that each event has one prediction or one dead letter."""
        unanswered = "entries LEFT JOIN predictions USING (id) WHERE predictions.id IS NULL AND dead = 0"
        self._find(
            "less", "events have neither a prediction nor a dead letter", f"{unanswered} AND NOT entries.pending"
        )
        both = "entries JOIN predictions USING (id) WHERE dead = records"
        self._find("more", "events have a prediction and are a dead letter", both)
        self._find("more", "events have predictions that differ", "predictions WHERE others > 0")
        if whole[EVENTS.name]:
            orphans = "predictions LEFT JOIN entries USING (id) WHERE entries.id IS NULL"
            self._find("more", "predictions are of no event", orphans)
        unread = "undecodable LEFT JOIN dead USING (topic, part, at) WHERE dead.at IS NULL AND NOT undecodable.pending"
        self._find("less", "undecodable messages have no dead letter", unread, "topic || ' ' || part || ':' || at")

    def _check_joins(self, whole: dict[str, bool]) -> None:
        """Check that each label with a prediction has one outcome."""
        self._find(
            "less",
            "labels met a prediction and have no outcome",
            f"{UNJOINED} AND NOT labels.pending AND NOT predictions.pending",
            "labels.id",
        )
        self._find("more", "events have outcomes that differ", "outcomes WHERE others > 0")
        if whole[LABELS.name] and whole[PREDICTIONS.name]:
            orphans = (
                "outcomes LEFT JOIN labels USING (id) LEFT JOIN predictions USING (id) "
                "WHERE labels.id IS NULL OR predictions.id IS NULL"
            )
            self._find("more", "outcomes lack their label or their prediction", orphans, "outcomes.id")

    def _check_detectors(self, counted: int | None) -> None:
        """Check that the detectors have counted each outcome once. They store their count with their offsets."""
        outcomes = self._database.count("outcomes")
        in_flight = self._database.count("predictions WHERE pending") + self._database.count("labels WHERE pending")
        if counted is None:
            if outcomes and not in_flight and not self._unchecked and self._count_of_detectors() is None:
                self._add(
                    "less", "outcomes are unknown to the detectors, whose state is not in the store", outcomes, []
                )
            return
        if counted > outcomes:
            self._add(
                "more", "outcomes were counted by the detectors beyond those on the topic", counted - outcomes, []
            )
        if counted < outcomes and not in_flight and self._count_of_detectors() == counted:
            self._add("less", "outcomes were never counted by the detectors", outcomes - counted, [])

    def _check_store(self) -> None:
        """Check that the store has each prediction that has not expired, unchanged."""
        missing: list[str] = []
        differs: list[str] = []
        lost = wrong = 0
        try:
            store = OnlineStore(self._settings)
            store.check()
            kept_since = time.time() - self._settings.keep_hours * 3600 + EXPIRING
            for part in self._database.predictions_since(kept_since, CHUNK):
                stored = store.predictions([event_id for event_id, _ in part])
                absent = [event_id for (event_id, _), body in zip(part, stored, strict=True) if body is None]
                other = [i for (i, known), body in zip(part, stored, strict=True) if body and digest(body) != known]
                lost, wrong = lost + len(absent), wrong + len(other)
                missing, differs = (missing + absent)[:SHOWN], (differs + other)[:SHOWN]
        except DriftloopError as error:
            self._unchecked.append(f"the store: {error}")
        if lost:
            self._add("less", "predictions are on the topic and not in the store", lost, missing)
        if wrong:
            self._add("more", "predictions differ between the topic and the store", wrong, differs)

    def _check_versions(self, named: set[str]) -> None:
        """Check that each version that scored or was promoted is registered, with its lineage."""
        try:
            registered = {str(one.version): dict(one.tags) for one in Registry(self._settings).versions()}
        except DriftloopError as error:
            self._unchecked.append(f"the registry: {error}")
            return
        updates = clients.read_all(self._settings, topics.name(self._settings, MODEL_UPDATES), ModelUpdate)
        promoted = {update.version for update in updates if update.stream == self._settings.stream} | named
        unknown = sorted(promoted - set(registered))
        if unknown:
            self._add(
                "lineage", "model versions answered or were promoted and are not registered", len(unknown), unknown
            )
        untagged = sorted(v for v in promoted & set(registered) if any(tag not in registered[v] for tag in LINEAGE))
        if untagged:
            self._add("lineage", "model versions have no lineage", len(untagged), untagged)

    def _count_of_detectors(self) -> int | None:
        """Return the number of outcomes that the detectors have counted; `None` if it is not in the store."""
        try:
            store = OnlineStore(self._settings)
            store.check()
            return store.outcome_count(MONITOR_STATE)
        except DriftloopError as error:
            self._unchecked.append(f"the detectors: {error}")
            return None

    def _find(self, kind: Literal["less", "more"], what: str, rows: str, column: str = "id") -> None:
        """Add a finding if the query finds rows."""
        count = self._database.count(rows)
        if count:
            self._add(kind, what, count, self._database.first_values(SHOWN, column, rows))

    def _add(self, kind: Literal["less", "more", "lineage"], what: str, count: int, first: list[str]) -> None:
        self._findings.append(Finding(kind=kind, what=what, count=count, first=first[:SHOWN]))

    def _counts(self, messages: dict[str, int]) -> dict[str, int]:
        count = self._database.count
        waiting = (
            "entries LEFT JOIN predictions USING (id) WHERE predictions.id IS NULL AND dead = 0 AND entries.pending"
        )
        return {
            "events": count("entries"),
            "predictions": count("predictions"),
            "dead_letters": count("entries WHERE dead > 0"),
            "waiting": count(waiting),
            "labels": count("labels"),
            "labels_waiting": count(f"{UNJOINED} AND (labels.pending OR predictions.pending)"),
            "outcomes": count("outcomes"),
            "event_messages": messages[EVENTS.name],
            "prediction_messages": messages[PREDICTIONS.name],
            "outcome_messages": messages[OUTCOMES.name],
            "dead_letter_messages": messages[DEAD_LETTERS.name],
        }
