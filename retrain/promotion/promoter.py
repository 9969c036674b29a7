"""Promotion of a model: first MLflow's alias `champion`, then a message on `model-updates` that the scorer follows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import ModelUpdate
from driftloop.core.models.bundle import Lineage, verify_bundle
from driftloop.core.models.registry import CandidateRecord, Registry
from driftloop.core.settings import Settings
from driftloop.core.topics import MODEL_UPDATES, name

Action = Literal["promote", "rollback"]
LONGEST = 5000
"""Characters of a tag that every MLflow store accepts."""


class Promoter:
    """Registers, promotes, rejects and restores the models of one stream.

    Args:
        settings: Settings with the stream and the addresses of Kafka and MLflow.
        outbox: Producer for `model-updates`.
        lease: Leader lease of the retrainer, which is checked before each promotion. `None` for a manual action: it
            uses the fencing token of the newest update.
    """

    def __init__(self, settings: Settings, outbox: ConfirmedProducer, lease: LeaderLease | None = None) -> None:
        self.settings = settings
        self.registry = Registry(settings)
        self._outbox = outbox
        self._lease = lease

    def register(
        self, name: str, bundle: Path, lineage: Lineage, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> str:
        """Register a bundle with its lineage.

        Args:
            name: Name of the candidate that made the model.
            bundle: Folder of the signed bundle.
            lineage: Lineage in its manifest.
            metrics: Metrics of the MLflow run, by name.
            tags: Further tags of the version; they override those from the lineage.

        Returns:
            The number of the new version.
        """
        lineage_tags = {
            "candidate": name,
            "stream": self.settings.stream,
            "trigger": lineage.trigger,
            "dataset_revision": lineage.dataset_revision,
            "topic": lineage.topic,
            "first_offset": str(lineage.first_offset),
            "last_offset": str(lineage.last_offset),
            "parent_version": lineage.parent_version,
        }
        parameters: dict[str, Any] = {"candidate": name, "rows": lineage.rows, **lineage.parameters}
        return self.registry.register(CandidateRecord(name, bundle, metrics, parameters, {**lineage_tags, **tags}))

    def promote(self, version: str, reason: str, trigger: str, action: Action = "promote") -> None:
        """Make a version the champion: move MLflow's alias, announce it on `model-updates`, tag the version.

        Args:
            version: Registered version.
            reason: Reason, one sentence.
            trigger: Alert id, or `bootstrap` or `manual`.
            action: Action of the message on `model-updates`.

        Raises:
            DriftloopError: The lease may be lost, so another retrainer may be at work.
        """
        if self._lease is not None:
            self._lease.check()
        self.registry.set_champion(version)
        self._announce(version, reason, trigger, action)
        self.registry.set_verdict(version, "promoted", reason)

    def reject(self, version: str, reason: str) -> None:
        """Mark a version as rejected.

        Args:
            version: Registered version; it stays in the registry.
            reason: Reason, one sentence.
        """
        self.registry.set_verdict(version, "rejected", reason)

    def mark_pending(self, version: str, reason: str) -> None:
        """Mark a version as waiting for a manual approval.

        Args:
            version: Registered version.
            reason: Reason of the gate, one sentence.
        """
        self.registry.set_verdict(version, "waiting", reason)

    def restore(self, version: str, reason: str, action: Action, trigger: str) -> str:
        """Make the model of an earlier version the champion again, under a new version number.

        The number must be new: the monitor takes a number smaller than the champion's for a late message of a replaced
        model. The bundle is the same, byte for byte. The new version keeps lineage and metrics, and its tag `restores`
        names the version that the bundle was first registered as.

        Args:
            version: Version to restore.
            reason: Reason, one sentence.
            action: `rollback` also gives the replaced champion the verdict `rolled-back`.
            trigger: Trigger of the new version.

        Returns:
            The number of the new version.

        Raises:
            DriftloopError: There is no such version, it cannot be fetched, or its model is the champion.
            BundleError: The bundle was altered, or is not signed with this stream's key.
        """
        versions = {str(one.version): one for one in self.registry.versions()}
        old, champion = find_version(versions, version), versions.get(self.registry.champion() or "")
        if champion is not None and champion.tags.get("digest") == old.tags.get("digest"):
            raise DriftloopError(
                f"Version {version} holds the same model as the champion, version {champion.version}: "
                "nothing was changed."
            )
        original = old.tags.get("restores", version)
        with tempfile.TemporaryDirectory(prefix="driftloop-restore-", dir=self.settings.scratch_dir or None) as folder:
            bundle = self.registry.download(version, Path(folder))
            lineage = verify_bundle(bundle, self.settings.signing_key).lineage
            metrics = self.registry.client.get_run(old.run_id).data.metrics
            kept = {key: text for key, text in old.tags.items() if key not in ("digest", "verdict")}
            tags = {**kept, "trigger": trigger, "restores": original, "reason": reason[:LONGEST]}
            restored = self.register(lineage.candidate, bundle, lineage, metrics, tags)
        if action == "rollback" and champion is not None:
            self.registry.set_verdict(str(champion.version), "rolled-back", reason)
        self.promote(restored, f"version {restored} is version {original} again: {reason}", trigger, action)
        return restored

    def finish_interrupted_promotion(self) -> None:
        """Announce and tag MLflow's champion if a worker ended in the middle of its promotion."""
        version = self.registry.champion()
        if version is None:
            return
        tags = self.registry.tags(version)
        reason = tags.get("reason", "")
        last = self.newest_update()
        if last is None or last.version != version:
            self._announce(version, reason, tags.get("trigger", ""))
        if tags.get("verdict") != "promoted":
            self.registry.set_verdict(version, "promoted", reason)

    def newest_update(self) -> ModelUpdate | None:
        """Return the update that is in force: the last one of the newest leader. `None` before the first."""
        updates = clients.read_all(self.settings, name(self.settings, MODEL_UPDATES), ModelUpdate)
        fence = FencingFilter()
        admitted = [update for update in updates if update.stream == self.settings.stream and fence.admits(update)]
        return admitted[-1] if admitted else None

    def newest_fence(self) -> int:
        """Return the fencing token of the update that is in force; `0` before the first."""
        last = self.newest_update()
        return 0 if last is None else last.fence

    def _announce(self, version: str, reason: str, trigger: str, action: Action = "promote") -> None:
        update = ModelUpdate(
            stream=self.settings.stream,
            version=version,
            digest=self.registry.tags(version)["digest"],
            action=action,
            reason=reason,
            trigger=trigger,
            published_at=time.time(),
            fence=self.newest_fence() if self._lease is None else self._lease.fence,
        )
        # Compaction keeps the last message under each key: with the token in the key, a late update of a former
        # leader does not replace this one.
        self._outbox.put(MODEL_UPDATES.name, f"{self.settings.stream}/{update.fence}", update)
        self._outbox.flush()


def find_version(versions: Mapping[str, Any], version: str) -> Any:
    """Return the version as MLflow describes it.

    Args:
        versions: All versions of the stream's model, by number.
        version: Number of the wanted version.

    Raises:
        DriftloopError: There is no such version.
    """
    if version not in versions:
        known = f"there is {', '.join(versions)}" if versions else "none is registered yet"
        raise DriftloopError(f"There is no version {version!r} of this stream's model: {known}.")
    return versions[version]
