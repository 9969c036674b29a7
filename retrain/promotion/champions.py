"""The champion of the moment, those before it, and how one replaces another, as the retraining job sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage, load_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from retrain.promotion.concept_memory import last_of_each
from retrain.promotion.manual_actions import restore
from retrain.promotion.promoter import Promotions
from retrain.training_window import TrainingWindow, build_window


@dataclass(frozen=True)
class Known:
    """What the registry says of a version: what it was promoted for, and by which candidate."""

    trigger: str
    candidate: str


@dataclass(frozen=True)
class Replaced:
    """A model that has just been replaced, and the version that did."""

    predecessor: BundleClassifier
    version: str


class Champions:
    """Loads, registers, promotes and restores models of one stream."""

    def __init__(
        self, settings: Settings, promotions: Promotions, encoder: OnnxEncoder, store: OnlineStore, folder: Path
    ) -> None:
        self._settings = settings
        self._promotions = promotions
        self._encoder = encoder
        self._store = store
        self._folder = folder
        self._current: BundleClassifier | None = None
        self._archive: dict[str, BundleClassifier] = {}
        self.replaced: Replaced | None = None
        """The newest replacement by a promotion, for the probation; whoever takes it sets it to None."""

    def current(self) -> BundleClassifier:
        """The registry's champion, loaded.

        Raises:
            DriftloopError: there is none.
        """
        version = self._promotions.registry.champion()
        if version is None:
            raise DriftloopError("The registry has no champion any more: set MLflow's alias `champion` to a version.")
        if self._current is None or self._current.version != version:
            self._current = self._fetch(version)
        return self._current

    def known(self, version: str) -> Known:
        """What a version was promoted for; one that was brought back counts as `archive`."""
        tags = self._promotions.registry.tags(version)
        return Known(tags.get("trigger", ""), "archive" if "restores" in tags else tags.get("candidate", ""))

    def archived(self) -> dict[str, BundleClassifier]:
        """The last model of each concept before the champion's, by version; those with an encoder of their own not."""
        promoted = [v for v in self._promotions.registry.versions() if v.tags.get("verdict") == "promoted"]
        pairs = [(str(v.version), v.tags.get("trigger", "")) for v in promoted]
        wanted = last_of_each(pairs, self._settings.retrain.memory)
        self._archive = {version: self._archive.get(version) or self._fetch(version) for version in wanted}
        same = self._encoder.digest
        return {v: model for v, model in self._archive.items() if model.head and model.encoder.digest == same}

    def load(self, bundle: Path) -> BundleClassifier:
        """A bundle that is not registered yet, verified."""
        return load_bundle(bundle, self._settings.signing_key, threads=1, encoder=self._encoder)

    def window(self, outcomes: Sequence[Outcome]) -> TrainingWindow:
        """The outcomes as a window, in the order of the events."""
        return build_window(outcomes, (-1, -1), 0.0, self._store, self._encoder)

    def register(
        self, name: str, bundle: Path, lineage: Lineage, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> str:
        """Register a bundle; see `Promotions.register`."""
        return self._promotions.register(name, bundle, lineage, metrics, tags)

    def promote(self, version: str, reason: str, trigger: str) -> None:
        """Make ``version`` the champion."""
        predecessor = self.current()
        self._promotions.promote(version, reason, trigger)
        self.replaced = Replaced(predecessor, version)

    def reject(self, version: str, reason: str) -> None:
        """Keep a version with the reason why it was not promoted."""
        self._promotions.registry.reject(version, reason)

    def wait(self, version: str, reason: str) -> None:
        """Keep a winner until a person approves it."""
        self._promotions.registry.mark_pending(version, reason)

    def restore(self, version: str, reason: str, action: Literal["promote", "rollback"], trigger: str) -> str:
        """Bring an earlier version back, as a new one with the same bundle; its number."""
        predecessor = self.current()
        fresh = restore(self._promotions, version, reason, action, trigger)
        self.replaced = Replaced(predecessor, fresh) if action == "promote" else None
        return fresh

    def answers(self, model: BundleClassifier, outcomes: Sequence[Outcome]) -> Any:
        """A model's answers to labelled events, in their order, with the stored embeddings where it can use them."""
        texts = [outcome.text for outcome in outcomes]
        if model.head is None or model.encoder.digest != self._encoder.digest:
            return model.predict(texts)
        window = self.window(outcomes)
        place = {event_id: row for row, event_id in enumerate(window.event_ids)}
        return model.predict(texts, window.embeddings[[place[outcome.event_id] for outcome in outcomes]])

    def _fetch(self, version: str) -> BundleClassifier:
        bundle = self._promotions.registry.download(version, self._folder)
        return load_bundle(bundle, self._settings.signing_key, version=version, threads=1, encoder=self._encoder)
