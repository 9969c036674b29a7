"""`driftloop audit`: whether every event ended as one prediction or one dead letter, from the topics and the store.

It may run at any time, and beside any fault: what no processor has acknowledged yet is on its way and not lost.
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
from driftloop.core.online_store import MONITOR, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DEAD_LETTERS, EVENTS, LABELS, MODEL_UPDATES, OUTCOMES, PREDICTIONS
from serving.audit.audit_db import AuditDatabase
from serving.audit.topic_reader import Say, TopicSnapshot, digest

CHUNK = 1000
EXPIRING = 60.0
"""Seconds before the store lets go of a prediction in which it is not asked for: the comparison takes a while."""
SHOWN = 5
LINEAGE = ("candidate", "trigger", "dataset_revision", "topic", "first_offset", "last_offset", "digest")
"""What is written on every version that was promoted."""

UNJOINED = "labels JOIN predictions USING (id) LEFT JOIN outcomes USING (id) WHERE outcomes.id IS NULL"

Word = Literal["ALL-RECORDS-DELIVERED", "PROCESSED-LESS", "PROCESSED-MORE"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should not be."""

    kind: Literal["less", "more", "lineage"]
    what: str
    count: int
    first: list[str]
    """The first ids that it is true of."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says."""

    verdict: Word
    counts: dict[str, int]
    """By name: messages, unique keys, and what is still on its way."""
    findings: list[Finding]
    unchecked: list[str]
    """What could not be looked at, and why."""

    @property
    def clean(self) -> bool:
        """Whether everything could be looked at and nothing was found."""
        return not self.findings and not self.unchecked


def audit(settings: Settings, say: Say = lambda line: None) -> Audit:
    """Read the topics of a stream once and compare what they, the store and the registry hold.

    Memory does not grow with the stream: the ledger is a file in the folder for temporary files.

    Raises:
        DriftloopError: no broker answers, or the stream's topics are not there.
    """
    with tempfile.TemporaryDirectory(prefix="driftloop-audit-", dir=settings.work or None) as folder:
        ledger = AuditDatabase(Path(folder))
        try:
            return _Auditor(settings, ledger, say).audit()
        finally:
            ledger.close()


class _Auditor:
    def __init__(self, settings: Settings, ledger: AuditDatabase, say: Say) -> None:
        self._settings = settings
        self._ledger = ledger
        self._say = say
        self._findings: list[Finding] = []
        self._unchecked: list[str] = []

    def audit(self) -> Audit:
        """Read, compare, and say."""
        books = TopicSnapshot(self._settings, self._ledger, self._say)
        counted = self._counted()
        books.read()
        for topic, count in books.vanished.items():
            self._add("less", f"messages of {topic} were acknowledged and the broker no longer has them", count, [])
        self._compare_events(books.whole)
        self._compare_joins(books.whole)
        self._compare_detectors(counted)
        self._compare_store()
        self._compare_versions(books.versions)
        kinds = {finding.kind for finding in self._findings}
        verdict: Word = (
            "PROCESSED-LESS" if "less" in kinds else "PROCESSED-MORE" if "more" in kinds else "ALL-RECORDS-DELIVERED"
        )
        return Audit(
            verdict=verdict, counts=self._counts(books.messages), findings=self._findings, unchecked=self._unchecked
        )

    def _compare_events(self, whole: dict[str, bool]) -> None:
        open_ = "entries LEFT JOIN predictions USING (id) WHERE predictions.id IS NULL AND dead = 0"
        self._find("less", "events have neither a prediction nor a dead letter", f"{open_} AND NOT entries.pending")
        both = "entries JOIN predictions USING (id) WHERE dead = records"
        self._find("more", "events have a prediction and are a dead letter", both)
        self._find("more", "events have predictions that differ", "predictions WHERE others > 0")
        if whole[EVENTS.name]:
            orphans = "predictions LEFT JOIN entries USING (id) WHERE entries.id IS NULL"
            self._find("more", "predictions are of no event", orphans)
        lost = "unread LEFT JOIN dead USING (topic, part, at) WHERE dead.at IS NULL AND NOT unread.pending"
        self._find("less", "undecodable messages have no dead letter", lost, "topic || ' ' || part || ':' || at")

    def _compare_joins(self, whole: dict[str, bool]) -> None:
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

    def _compare_detectors(self, counted: int | None) -> None:
        """The detectors count an outcome once; what they counted is stored together with the offsets they have seen."""
        outcomes = self._ledger.count("outcomes")
        on_its_way = self._ledger.count("predictions WHERE pending") + self._ledger.count("labels WHERE pending")
        if counted is None:
            if outcomes and not on_its_way and not self._unchecked and self._counted() is None:
                self._add(
                    "less", "outcomes are unknown to the detectors, whose state is not in the store", outcomes, []
                )
            return
        if counted > outcomes:
            self._add(
                "more", "outcomes were counted by the detectors beyond those that there are", counted - outcomes, []
            )
        if counted < outcomes and not on_its_way and self._counted() == counted:
            self._add("less", "outcomes were never counted by the detectors", outcomes - counted, [])

    def _compare_store(self) -> None:
        missing: list[str] = []
        differs: list[str] = []
        lost = wrong = 0
        try:
            store = OnlineStore(self._settings)
            store.check()
            kept_since = time.time() - self._settings.keep_hours * 3600 + EXPIRING
            for part in self._ledger.said(kept_since, CHUNK):
                held = store.predictions([event_id for event_id, _ in part])
                gone = [event_id for (event_id, _), body in zip(part, held, strict=True) if body is None]
                other = [i for (i, said), body in zip(part, held, strict=True) if body and digest(body) != said]
                lost, wrong = lost + len(gone), wrong + len(other)
                missing, differs = (missing + gone)[:SHOWN], (differs + other)[:SHOWN]
        except DriftloopError as error:
            self._unchecked.append(f"the store: {error}")
        if lost:
            self._add("less", "predictions are on the topic and not in the store", lost, missing)
        if wrong:
            self._add("more", "predictions differ between the topic and the store", wrong, differs)

    def _compare_versions(self, named: set[str]) -> None:
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
        bare = sorted(v for v in promoted & set(registered) if any(tag not in registered[v] for tag in LINEAGE))
        if bare:
            self._add("lineage", "model versions have no lineage", len(bare), bare)

    def _counted(self) -> int | None:
        try:
            store = OnlineStore(self._settings)
            store.check()
            return store.counted(MONITOR)
        except DriftloopError as error:
            self._unchecked.append(f"the detectors: {error}")
            return None

    def _find(self, kind: Literal["less", "more"], what: str, rows: str, column: str = "id") -> None:
        count = self._ledger.count(rows)
        if count:
            self._add(kind, what, count, self._ledger.first(SHOWN, column, rows))

    def _add(self, kind: Literal["less", "more", "lineage"], what: str, count: int, first: list[str]) -> None:
        self._findings.append(Finding(kind=kind, what=what, count=count, first=first[:SHOWN]))

    def _counts(self, messages: dict[str, int]) -> dict[str, int]:
        ask = self._ledger
        waiting = (
            "entries LEFT JOIN predictions USING (id) WHERE predictions.id IS NULL AND dead = 0 AND entries.pending"
        )
        return {
            "events": ask.count("entries"),
            "predictions": ask.count("predictions"),
            "dead_letters": ask.count("entries WHERE dead > 0"),
            "waiting": ask.count(waiting),
            "labels": ask.count("labels"),
            "labels_waiting": ask.count(f"{UNJOINED} AND (labels.pending OR predictions.pending)"),
            "outcomes": ask.count("outcomes"),
            "event_messages": messages[EVENTS.name],
            "prediction_messages": messages[PREDICTIONS.name],
            "outcome_messages": messages[OUTCOMES.name],
            "dead_letter_messages": messages[DEAD_LETTERS.name],
        }
