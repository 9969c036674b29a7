"""Local cache of model bundles, so that a scorer can restart faster and without the registry.

The name of a cached bundle is the digest of its manifest, which `model-updates` contains. The cache is not trusted: the
signature and all digests are verified at each load.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from driftloop.core.messages import ModelUpdate
from driftloop.core.models.bundle import BundleClassifier, BundleError, load_bundle, manifest_digest
from driftloop.core.models.encoder import Encoder
from driftloop.core.models.registry import Registry
from driftloop.core.models.sample_texts import sentences
from driftloop.core.models.torch_encoder import TorchEncoder, choose_device
from driftloop.core.settings import Settings, cache_dir

log = logging.getLogger(__name__)

TUNING_TEXTS = 64
"""Number of texts of the benchmark that chooses the encoder threads."""
MAX_BUNDLES = 8
"""Maximum number of cached bundles. The least recently loaded ones are removed."""


class BundleCache:
    """Loader of models by the digest of their manifest, from the cache or the registry.

    Args:
        settings: Registry, signing key, scratch folder and device.

    Raises:
        DriftloopError: `DRIFTLOOP_MODEL__DEVICE` is cuda, and there is no GPU.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        chosen = choose_device(settings.model.device, "DRIFTLOOP_MODEL__DEVICE")
        self._device = None if chosen == "cpu" else chosen
        self._threads = 0  # result of the benchmark with the first encoder; 0 before it
        self._folder = (Path(settings.scratch_dir) if settings.scratch_dir else cache_dir()) / "models"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # a container with a read-only file system
            self._scratch = tempfile.TemporaryDirectory(prefix="driftloop-models-")
            self._folder = Path(self._scratch.name)

    def prepare(self) -> None:
        """Import the registry's library, which takes a second, while a process waits for the first model."""
        import mlflow  # noqa: F401

    def load(self, update: ModelUpdate, encoder: Encoder | None) -> BundleClassifier:
        """Load an announced model; see `fetch`.

        Args:
            update: The announcement.
            encoder: Encoder of the current model, for reuse.
        """
        return self.fetch(update.version, update.digest, encoder)

    def fetch(self, version: str, digest: str, encoder: Encoder | None) -> BundleClassifier:
        """Load a model, verify it and warm it.

        Args:
            version: Version in the registry.
            digest: Digest of the bundle's manifest.
            encoder: Encoder that is reused if the bundle has the same one.

        Raises:
            BundleError: The bundle is invalid.
            DriftloopError: The registry does not answer.
        """
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise BundleError(f"Version {version} was announced without the digest of its manifest.")
        kept = self._folder / digest
        if kept.is_dir():
            try:
                return self._load(kept, version, digest, encoder)
            except BundleError as error:
                log.warning("%s; it is fetched again", error)
                for path in (kept, *self._folder.glob("encoder-*")):  # the files of its encoder may be damaged
                    shutil.rmtree(path, ignore_errors=True)
        fetched = Registry(self._settings).download(version, self._folder, digest)
        try:
            model = self._load(fetched, version, digest, encoder)
        except BundleError:
            shutil.rmtree(fetched, ignore_errors=True)
            raise
        self._evict()
        return model

    def _load(self, bundle: Path, version: str, digest: str, encoder: Encoder | None) -> BundleClassifier:
        if manifest_digest(bundle) != digest:
            raise BundleError(
                f"Version {version} in the registry is not the one that was promoted: its manifest's digest "
                "differs from the one on model-updates; register the model again."
            )
        chosen = self._settings.scorer
        threads = chosen.threads or self._threads
        model = load_bundle(
            bundle,
            self._settings.signing_key,
            version=version,
            threads=threads,
            cache_size=chosen.embedding_cache,
            device=self._device,
            encoder=encoder,
        )
        if self._device is not None and not isinstance(model.encoder, TorchEncoder):
            log.warning(
                "version %s was made without weights for a GPU, and its encoder runs on the CPU: set "
                "DRIFTLOOP_MODEL__DEVICE for `driftloop retrain` too, and retrain",
                version,
            )
        if not threads and (speeds := model.encoder.tune(sentences(TUNING_TEXTS)[0])):
            found = ", ".join(f"{number}: {speed:.0f}" for number, speed in speeds.items())
            self._threads = model.encoder.threads
            log.info("encoder with %d threads (texts/s of each number tried: %s)", model.encoder.threads, found)
        with suppress(OSError):
            bundle.touch()
        return model

    def _evict(self) -> None:
        """Remove the oldest bundles and unfinished downloads. Another process may do the same."""
        with suppress(OSError):
            newest = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            bundles = [path for path in newest if len(path.name) == 64][MAX_BUNDLES:]
            encoders = [path for path in newest if path.name.startswith("encoder-")][MAX_BUNDLES:]
            cut_off = [path for path in newest if path.name.startswith("tmp") and _age(path) > 3600]
            for path in (*bundles, *encoders, *cut_off):
                shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    """Return the seconds since the last change."""
    return time.time() - path.stat().st_mtime
