"""Loading of a stream's models: the champion, the archived champions and bundles that are not registered yet."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from driftloop.core.errors import DriftloopError
from driftloop.core.models.bundle import BundleClassifier, load_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.registry import Registry
from driftloop.core.settings import Settings
from retrain.promotion.concept_memory import last_of_each


class Origin(NamedTuple):
    """Origin of a registered version."""

    trigger: str
    """Trigger of its retraining."""
    candidate: str
    """Candidate that made it; `archive` for a restored version."""


class ModelLoader:
    """Loads and caches the models of one stream.

    Args:
        settings: Settings with the signing key and the size of the concept memory.
        registry: Registry of the stream.
        encoder: Loaded encoder, which all models with its digest share.
        folder: Folder for downloaded bundles.
    """

    def __init__(self, settings: Settings, registry: Registry, encoder: OnnxEncoder, folder: Path) -> None:
        self._settings = settings
        self._registry = registry
        self._encoder = encoder
        self._folder = folder
        self._champion: BundleClassifier | None = None
        self._archive: dict[str, BundleClassifier] = {}

    def champion(self) -> BundleClassifier:
        """Return the registry's champion, loaded.

        Raises:
            DriftloopError: The registry has no champion.
        """
        version = self._registry.champion()
        if version is None:
            raise DriftloopError("The registry has no champion any more: set MLflow's alias `champion` to a version.")
        if self._champion is None or self._champion.version != version:
            self._champion = self._load_version(version)
        return self._champion

    def archived(self) -> dict[str, BundleClassifier]:
        """Return the last model of each concept before the champion's, by version.

        A model with another encoder is left out, since its embeddings are not stored.
        """
        promoted = [one for one in self._registry.versions() if one.tags.get("verdict") == "promoted"]
        pairs = [(str(one.version), one.tags.get("trigger", "")) for one in promoted]
        wanted = last_of_each(pairs, self._settings.retrain.concept_memory)
        self._archive = {version: self._archive.get(version) or self._load_version(version) for version in wanted}
        digest = self._encoder.digest
        return {
            version: model
            for version, model in self._archive.items()
            if model.head is not None and model.encoder.digest == digest
        }

    def load(self, bundle: Path) -> BundleClassifier:
        """Return the model of a bundle that is not registered yet, verified."""
        return load_bundle(bundle, self._settings.signing_key, threads=1, encoder=self._encoder)

    def origin(self, version: str) -> Origin:
        """Return the trigger and the candidate of a registered version."""
        tags = self._registry.tags(version)
        return Origin(tags.get("trigger", ""), "archive" if "restores" in tags else tags.get("candidate", ""))

    def _load_version(self, version: str) -> BundleClassifier:
        bundle = self._registry.download(version, self._folder)
        return load_bundle(bundle, self._settings.signing_key, version=version, threads=1, encoder=self._encoder)
