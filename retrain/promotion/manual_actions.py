"""Manual actions on the models of a stream: approve, reject and roll back.

Each takes the way of an automatic promotion: first MLflow, then `model-updates`, then a message on `retraining` that
names the user and the reason.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command
from driftloop.core.models.bundle import verify_bundle
from driftloop.core.settings import Settings
from retrain.promotion.promoter import Promoter, find_version
from retrain.retraining_log import RetrainingLog

MANUAL = "manual"
"""Trigger of a retraining that a user asked for without an alert."""


def approve(settings: Settings, version: str, by: str, reason: str = "", run_id: str = "") -> str:
    """Promote a version that waits for approval, or one that the gate rejected.

    Args:
        settings: Settings of the stream.
        version: Registered version.
        by: Name of the user.
        reason: Reason; empty for the gate's.
        run_id: Id on `retraining`; empty for a new one.

    Returns:
        A sentence about the outcome.

    Raises:
        DriftloopError: There is no such version, or it neither waits nor was rejected.
    """
    with _manual_action(settings, run_id) as action:
        chosen = action.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict not in ("waiting", "rejected"):
            raise DriftloopError(
                f"Version {version} {_describe(verdict)}, and only one that waits or was rejected can be approved: "
                f"`driftloop rollback {version}` brings a former champion back."
            )
        action.verify(version)
        trigger, champion = chosen.tags.get("trigger", ""), action.promoter.registry.champion()
        note = _note("approved", by, reason or f"the gate's reason was: {chosen.tags.get('reason', 'none')}")
        if champion is not None and int(champion) > int(version):
            number = action.promoter.restore(version, note, "promote", trigger)
            action.promoter.registry.set_verdict(str(chosen.version), "promoted", f"as version {number}: {note}")
        else:
            number = version
            action.promoter.promote(version, note, trigger, "promote")
        action.write("promoted", note, trigger, number, chosen.tags.get("candidate", ""))
    under = "" if number == version else f", as version {number}"
    return f"Version {version} was {note}; it is the champion now{under}."


def reject(settings: Settings, version: str, by: str, reason: str, run_id: str = "") -> str:
    """Reject a version that waits for approval.

    Args:
        settings: Settings of the stream.
        version: Registered version.
        by: Name of the user.
        reason: Reason.
        run_id: Id on `retraining`; empty for a new one.

    Returns:
        A sentence about the outcome.

    Raises:
        DriftloopError: There is no such version, or it does not wait.
    """
    with _manual_action(settings, run_id) as action:
        chosen = action.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict != "waiting":
            raise DriftloopError(f"Version {version} {_describe(verdict)}: only one that waits can be rejected.")
        note = _note("rejected", by, reason)
        action.promoter.reject(version, note)
        action.write("rejected", note, chosen.tags.get("trigger", ""), version, chosen.tags.get("candidate", ""))
    return f"Version {version} was {note}."


def rollback(settings: Settings, version: str, by: str, reason: str = "", run_id: str = "") -> str:
    """Restore a former champion.

    Args:
        settings: Settings of the stream.
        version: Registered version; empty for the champion's predecessor.
        by: Name of the user.
        reason: Reason; empty if none was given.
        run_id: Id on `retraining`; empty for a new one.

    Returns:
        A sentence about the outcome.

    Raises:
        DriftloopError: There is no champion or no such version, it is the champion, or it never was one.
    """
    with _manual_action(settings, run_id) as action:
        champion = action.promoter.registry.champion()
        if champion is None:
            raise DriftloopError("There is no champion yet, and nothing to go back to.")
        version = version or action.predecessor(champion)
        chosen = action.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict not in ("promoted", "rolled-back"):
            raise DriftloopError(
                f"Version {version} {_describe(verdict)} and was never the champion: `driftloop approve {version}` "
                "promotes it."
            )
        trigger = action.find(champion).tags.get("trigger", "")
        note = _note("rolled back", by, reason or "no reason was given")
        number = action.promoter.restore(version, note, "rollback", chosen.tags.get("trigger", ""))
        action.write("rolled-back", note, trigger, number, chosen.tags.get("candidate", ""))
    return f"Version {champion} was {note}; the champion is version {version} again, as version {number}."


def execute_command(settings: Settings, command: Command) -> None:
    """Execute a command from the API, unless it is a retraining; the API reads the outcome from `retraining`.

    Args:
        settings: Settings of the stream.
        command: Command to promote, reject or roll back.

    Raises:
        DriftloopError: The action failed.
    """
    if command.action == "promote":
        approve(settings, command.version, command.by, command.reason, command.command_id)
    elif command.action == "reject":
        reject(settings, command.version, command.by, command.reason or "no reason was given", command.command_id)
    else:
        rollback(settings, command.version, command.by, command.reason, command.command_id)


class _ManualAction:
    """Registry and topics for one manual action."""

    def __init__(self, settings: Settings, outbox: ConfirmedProducer, run_id: str) -> None:
        self._settings = settings
        self._outbox = outbox
        self._run_id = run_id or f"manual-{uuid.uuid4().hex[:8]}"
        self.promoter = Promoter(settings, outbox)
        self._versions = {str(one.version): one for one in self.promoter.registry.versions()}

    def find(self, version: str) -> Any:
        """Return the version as MLflow describes it."""
        return find_version(self._versions, version)

    def verify(self, version: str) -> None:
        """Raise `BundleError` if the bundle of the version must not be loaded."""
        with tempfile.TemporaryDirectory(prefix="driftloop-check-", dir=self._settings.scratch_dir or None) as folder:
            verify_bundle(self.promoter.registry.download(version, Path(folder)), self._settings.signing_key)

    def predecessor(self, champion: str) -> str:
        """Return the version that the champion was compared with."""
        parent = str(self.find(champion).tags.get("parent_version", ""))
        if parent not in self._versions:
            raise DriftloopError(f"Version {champion} has no predecessor: give the version to go back to.")
        return parent

    def write(self, state: str, note: str, trigger: str, version: str, candidate: str) -> None:
        """Write the two messages on `retraining`: the action, and the end of the run.

        Args:
            state: State that the action leads to.
            note: Sentence about the action, the user and the reason.
            trigger: Trigger of the version; empty for `manual`.
            version: Version that was promoted, rejected or restored.
            candidate: Candidate that made it.
        """
        run_log = RetrainingLog(self._settings, self._outbox, self._run_id, trigger or MANUAL, -1)
        run_log.write(state, note, version=version, candidate=candidate)
        run_log.write("finished", note, version=version)


@contextmanager
def _manual_action(settings: Settings, run_id: str) -> Iterator[_ManualAction]:
    outbox = ConfirmedProducer(settings)
    try:
        yield _ManualAction(settings, outbox, run_id)
    finally:
        outbox.close()


def _describe(verdict: str) -> str:
    descriptions = {
        "promoted": "was promoted already",
        "rejected": "was rejected",
        "waiting": "waits for approval",
        "rolled-back": "was rolled back",
    }
    return descriptions.get(verdict, "has no verdict")


def _note(done: str, by: str, reason: str) -> str:
    return f"{done} by {by}: {reason}"
