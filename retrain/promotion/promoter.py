"""Where a model is promoted: MLflow's alias first, then the word on `model-updates` that the scorer follows."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prometheus_client import Counter, Gauge, Histogram

from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Kind, ModelUpdate, Retraining
from driftloop.core.models.bundle import Lineage
from driftloop.core.models.registry import CandidateRecord, Registry
from driftloop.core.observability import logs
from driftloop.core.settings import Settings
from driftloop.core.topics import MODEL_UPDATES, RETRAINING, name

log = logging.getLogger(__name__)


class Promotions:
    """Registers candidates and announces the ones that win."""

    def __init__(self, settings: Settings, outbox: ConfirmedProducer, office: LeaderLease | None = None) -> None:
        self.settings = settings
        self._office = office
        self._outbox = outbox
        self.registry = Registry(settings)

    def register(
        self, name: str, bundle: Path, lineage: Lineage, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> str:
        """Register a bundle with all that is known about it, and return its version."""
        everything = {
            "candidate": name,
            "stream": self.settings.stream,
            "trigger": lineage.trigger,
            "dataset_revision": lineage.dataset_revision,
            "topic": lineage.topic,
            "first_offset": str(lineage.first_offset),
            "last_offset": str(lineage.last_offset),
            "parent_version": lineage.parent_version,
            **tags,
        }
        parameters: dict[str, Any] = {"candidate": name, "rows": lineage.rows, **lineage.parameters}
        return self.registry.register(CandidateRecord(name, bundle, metrics, parameters, everything))

    def promote(
        self, version: str, reason: str, trigger: str, action: Literal["promote", "rollback"] = "promote"
    ) -> None:
        """Make ``version`` the champion, for MLflow, for the stream, and in words on the version."""
        if self._office is not None:
            self._office.check()
        self.registry.promote(version)
        self._announce(version, reason, trigger, action)
        self.registry.set_verdict(version, "promoted", reason)

    def finish_promotion(self) -> None:
        """Do what is left to do for MLflow's champion where a worker ended in the middle of promoting it."""
        version = self.registry.champion()
        if version is None:
            return
        tags = self.registry.tags(version)
        reason = tags.get("reason", "")
        last = self.announced()
        if last is None or last.version != version:
            self._announce(version, reason, tags.get("trigger", ""))
        if tags.get("verdict") != "promoted":
            self.registry.set_verdict(version, "promoted", reason)

    def announced(self) -> ModelUpdate | None:
        """The update that counts: the last of the last retrainer that took office."""
        found = clients.read_all(self.settings, name(self.settings, MODEL_UPDATES), ModelUpdate)
        fence = FencingFilter()
        mine = [update for update in found if update.stream == self.settings.stream and fence.admits(update)]
        return mine[-1] if mine else None

    def _announce(
        self, version: str, reason: str, trigger: str, action: Literal["promote", "rollback"] = "promote"
    ) -> None:
        update = ModelUpdate(
            stream=self.settings.stream,
            version=version,
            digest=self.registry.tags(version)["digest"],
            action=action,
            reason=reason,
            trigger=trigger,
            published_at=time.time(),
            fence=self.newest_fence() if self._office is None else self._office.fence,
        )
        # The topic keeps the last message under each key: one of a predecessor must not take the place of ours.
        self._outbox.put(MODEL_UPDATES.name, f"{self.settings.stream}/{update.fence}", update)
        self._outbox.flush()

    def newest_fence(self) -> int:
        """The token of the update that counts, 0 where there is none."""
        last = self.announced()
        return 0 if last is None else last.fence


STEPS = Counter("driftloop_retraining_steps", "State changes of retrainings.", ["state", "candidate"])
STEPS.labels("queued", "")  # what begins at zero is seen to rise from it
SECONDS = Histogram(
    "driftloop_retraining_seconds",
    "Time that a retraining takes, from its queueing to its end; the end is promoted, kept (the champion) or failed.",
    ["kind", "end"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
OLDEST = Gauge(
    "driftloop_oldest_retraining_timestamp_seconds",
    "When the oldest retraining under way began; 0: none is.",
)
_under_way: dict[str, float] = {}
"""By run id, when each retraining under way was queued, in Unix seconds."""


class RetrainingLog:
    """The state changes of one retraining on the topic `retraining`."""

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
        """Publish a state change; ``details`` are fields of `driftloop.core.messages.Retraining`."""
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

    def _count(self, message: Retraining) -> None:
        """A state change, as metrics."""
        STEPS.labels(message.state, message.candidate).inc()
        self._promoted |= message.state == "promoted"
        if message.ends:
            end = "promoted" if self._promoted else "kept" if message.state == "finished" else "failed"
            SECONDS.labels(self._kind, end).observe(message.seconds)
            _under_way.pop(self._run_id, None)
        else:
            _under_way.setdefault(self._run_id, self._started)
        OLDEST.set(min(_under_way.values(), default=0))

    def fail(self, error: Exception) -> str:
        """Write that the retraining has failed; returns the words."""
        with logs.log_context(run=self._run_id):
            log.error("the retraining failed", exc_info=error)
        words = str(error)[:500]
        self.write("failed", words)
        return words
