"""What people do with the models of a stream: approve, reject, go back; and how an old model comes into office again.

Everything goes the way of an automatic promotion: MLflow first, then `model-updates`, then a line on `retraining` that
says who did it and why.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command
from driftloop.core.models.bundle import verify_bundle
from driftloop.core.settings import Settings
from retrain.promotion.promoter import Promotions, RetrainingLog

Action = Literal["promote", "rollback"]
MANUAL = "manual"
"""Trigger of what no alert led to, but a person."""
LONGEST = 5000
"""Characters of a tag that every MLflow store takes."""


def restore(
    promotions: Promotions, version: str, reason: str, action: Action = "rollback", trigger: str = MANUAL
) -> str:
    """Make the model of an old ``version`` the champion again, under a new version's number, which is returned.

    The monitor takes a smaller number than the champion's for a late message of a model that has been replaced, so the
    number has to be new; the bundle is the same, byte for byte. The new version keeps lineage and figures, and its tag
    `restores` names the version that the bundle was first registered as. With ``action`` `rollback` the champion that
    is replaced gets the verdict `rolled-back`.

    Raises:
        DriftloopError: there is no such version, it cannot be fetched, or its model is in office already.
        BundleError: the bundle was altered, or is not signed with this stream's key.
    """
    registry, settings = promotions.registry, promotions.settings
    known = {str(one.version): one for one in registry.versions()}
    old, champion = _of(known, version), known.get(registry.champion() or "")
    if champion is not None and champion.tags.get("digest") == old.tags.get("digest"):
        raise DriftloopError(f"Version {champion.version} is that very model and the champion: nothing was changed.")
    original = old.tags.get("restores", version)
    with tempfile.TemporaryDirectory(prefix="driftloop-restore-", dir=settings.work or None) as folder:
        bundle = registry.download(version, Path(folder))
        lineage = verify_bundle(bundle, settings.signing_key).lineage
        metrics = registry.client.get_run(old.run_id).data.metrics
        kept = {key: text for key, text in old.tags.items() if key not in ("digest", "verdict")}
        tags = {**kept, "trigger": trigger, "restores": original, "reason": reason[:LONGEST]}
        fresh = promotions.register(lineage.candidate, bundle, lineage, metrics, tags)
    if action == "rollback" and champion is not None:
        registry.set_verdict(str(champion.version), "rolled-back", reason)
    promotions.promote(fresh, f"version {fresh} is version {original} again: {reason}", trigger, action)
    return fresh


def approve(settings: Settings, version: str, by: str, reason: str = "", run_id: str = "") -> str:
    """Promote a winner that waits, or a candidate that the gate rejected; returns what was done, as a sentence.

    ``run_id`` is what it goes by on `retraining`; empty: a new one.

    Raises:
        DriftloopError: there is no such version, or it neither waits nor was rejected.
    """
    with _desk(settings, run_id) as desk:
        chosen = desk.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict not in ("waiting", "rejected"):
            raise DriftloopError(
                f"Version {version} {_standing(verdict)}, and only one that waits or was rejected can be approved: "
                f"`driftloop rollback {version}` brings a former champion back."
            )
        desk.check(version)
        trigger, champion = chosen.tags.get("trigger", ""), desk.promotions.registry.champion()
        words = _words("approved", by, reason or f"the gate had said: {chosen.tags.get('reason', 'nothing')}")
        if champion is not None and int(champion) > int(version):
            number = restore(desk.promotions, version, words, "promote", trigger)
            desk.promotions.registry.set_verdict(str(chosen.version), "promoted", f"as version {number}: {words}")
        else:
            number = version
            desk.promotions.promote(version, words, trigger, "promote")
        desk.write("promoted", words, trigger, number, chosen.tags.get("candidate", ""))
    again = "" if number == version else f", as version {number}"
    return f"Version {version} was {words}; it is the champion now{again}."


def reject(settings: Settings, version: str, by: str, reason: str, run_id: str = "") -> str:
    """Turn down a winner that waits for approval; returns what was done, as a sentence. ``run_id``: see `approve`.

    Raises:
        DriftloopError: there is no such version, or it does not wait.
    """
    with _desk(settings, run_id) as desk:
        chosen = desk.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict != "waiting":
            raise DriftloopError(f"Version {version} {_standing(verdict)}: only one that waits can be rejected.")
        words = _words("rejected", by, reason)
        desk.promotions.registry.reject(version, words)
        desk.write("rejected", words, chosen.tags.get("trigger", ""), version, chosen.tags.get("candidate", ""))
    return f"Version {version} was {words}."


def rollback(settings: Settings, version: str, by: str, reason: str = "", run_id: str = "") -> str:
    """Bring ``version`` back, empty for the champion's predecessor; returns what was done, as a sentence.

    ``run_id``: see `approve`.

    Raises:
        DriftloopError: there is no champion or no such version, it is the champion, or it never was one.
    """
    with _desk(settings, run_id) as desk:
        champion = desk.promotions.registry.champion()
        if champion is None:
            raise DriftloopError("There is no champion yet, and nothing to go back to.")
        version = version or desk.predecessor(champion)
        chosen = desk.find(version)
        verdict = chosen.tags.get("verdict", "")
        if verdict not in ("promoted", "rolled-back"):
            raise DriftloopError(
                f"Version {version} {_standing(verdict)} and was never the champion: `driftloop approve {version}` "
                "promotes it."
            )
        trigger = desk.find(champion).tags.get("trigger", "")
        words = _words("rolled back", by, reason or "no reason was given")
        number = restore(desk.promotions, version, words, "rollback", chosen.tags.get("trigger", ""))
        desk.write("rolled-back", words, trigger, number, chosen.tags.get("candidate", ""))
    return f"Version {champion} was {words}; the champion is version {version} again, as version {number}."


class _ManualAction:
    """The registry and the two topics, for one act of a person."""

    def __init__(self, settings: Settings, outbox: ConfirmedProducer, run_id: str) -> None:
        self._settings = settings
        self._outbox = outbox
        self._run_id = run_id or f"manual-{uuid.uuid4().hex[:8]}"
        self.promotions = Promotions(settings, outbox)
        self._known = {str(one.version): one for one in self.promotions.registry.versions()}

    def find(self, version: str) -> Any:
        """The version as MLflow describes it."""
        return _of(self._known, version)

    def check(self, version: str) -> None:
        """Raise `BundleError` where the bundle of the version must not be loaded."""
        with tempfile.TemporaryDirectory(prefix="driftloop-check-", dir=self._settings.work or None) as folder:
            verify_bundle(self.promotions.registry.download(version, Path(folder)), self._settings.signing_key)

    def predecessor(self, champion: str) -> str:
        """The champion that this one was compared with."""
        parent = str(self.find(champion).tags.get("parent_version", ""))
        if parent not in self._known:
            raise DriftloopError(f"Version {champion} has no predecessor: give the version to go back to.")
        return parent

    def write(self, state: str, words: str, trigger: str, version: str, candidate: str) -> None:
        """The two lines on `retraining`: what was done, and that it is over."""
        diary = RetrainingLog(self._settings, self._outbox, self._run_id, trigger or MANUAL, -1)
        diary.write(state, words, version=version, candidate=candidate)
        diary.write("finished", words, version=version)


def execute_command(settings: Settings, command: Command) -> None:
    """Do what a person asked for by the API, which takes the answer from `retraining`; not for a retraining.

    Raises:
        DriftloopError: it cannot be done.
    """
    if command.action == "promote":
        approve(settings, command.version, command.by, command.reason, command.command_id)
    elif command.action == "reject":
        reject(settings, command.version, command.by, command.reason or "no reason was given", command.command_id)
    else:
        rollback(settings, command.version, command.by, command.reason, command.command_id)


@contextmanager
def _desk(settings: Settings, run_id: str) -> Iterator[_ManualAction]:
    outbox = ConfirmedProducer(settings)
    try:
        yield _ManualAction(settings, outbox, run_id)
    finally:
        outbox.close()


def _of(known: dict[str, Any], version: str) -> Any:
    if version not in known:
        there = f"there is {', '.join(known)}" if known else "none is registered yet"
        raise DriftloopError(f"There is no version {version!r} of this stream's model: {there}.")
    return known[version]


def _standing(verdict: str) -> str:
    words = {
        "promoted": "was promoted already",
        "rejected": "was rejected",
        "waiting": "waits for approval",
        "rolled-back": "was rolled back",
    }
    return words.get(verdict, "has no verdict")


def _words(done: str, by: str, reason: str) -> str:
    return f"{done} by {by}: {reason}"
