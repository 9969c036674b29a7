"""Draft of a bundle: collects its parts and signs them once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from driftloop.core.files import link_or_copy
from driftloop.core.models.bundle_classifier import BundleClassifier
from driftloop.core.models.encoder import Encoder, OnnxEncoder, Quantisation, encoder_files
from driftloop.core.models.first_stage import FirstStage
from driftloop.core.models.guest import guest_files, guest_folder, load_guest
from driftloop.core.models.head import load_head
from driftloop.core.models.manifest import (
    ENCODER,
    FIRST,
    HEAD,
    MIXTURE,
    Canary,
    CascadeCalibration,
    Lineage,
    Manifest,
    file_digest,
    read_manifest,
    write_signed_manifest,
)
from driftloop.core.models.mixture_head import AnyHead, MixtureHead, load_mixture_head

CANARY_TEXTS = ("the flight was delayed again", "what a wonderful day!", "", "ok — 100% 😀")


class BundleDraft:
    """A bundle whose parts may still change.

    Files are written into the folder as they are set. The manifest is kept in memory and written by `sign`, so the
    folder does not pass `verify_bundle` between a changed file and `sign`.

    Args:
        folder: Folder of the bundle, with the files that ``manifest`` names.
        manifest: Manifest to start from. Use `create` or `open`.
        changed: `True` if the manifest in the folder differs from it.
    """

    def __init__(self, folder: Path, manifest: Manifest, changed: bool) -> None:
        self.folder = folder
        self._manifest = manifest
        self._changed = changed

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        encoder: OnnxEncoder,
        head: AnyHead | None,
        labels: Sequence[str],
        lineage: Lineage,
        canary_texts: Sequence[str] = CANARY_TEXTS,
    ) -> BundleDraft:
        """Write the files of a new bundle.

        Args:
            folder: Folder to create.
            encoder: Encoder. Its files are hard-linked if the file system allows it.
            head: Head on its embeddings; `None` if the encoder's graph has logits.
            labels: The k classes, in the order of the columns of the probabilities.
            lineage: Origin of the model.
            canary_texts: Texts whose predictions are checked when the bundle is loaded.

        Returns:
            The draft, to be signed.
        """
        (folder / ENCODER).mkdir(parents=True)
        files = _link_encoder(encoder, folder)
        if head is not None:
            name = MIXTURE if isinstance(head, MixtureHead) else HEAD
            head.save(folder / name)
            files[name] = file_digest(folder / name)
        guests = head.guests if isinstance(head, MixtureHead) else ()
        saved = [guest.save(folder / guest_folder(at)) for at, guest in enumerate(guests)]
        files |= {name: file_digest(folder / name) for name in guest_files(saved)}
        manifest = Manifest(
            created_at=time.time(),
            labels=list(labels),
            head="logits" if head is None else "mixture" if isinstance(head, MixtureHead) else "skops",
            experts=list(head.mixture.names) if isinstance(head, MixtureHead) else [],
            guests=saved,
            lineage=lineage,
            canary=_canary(encoder, head, labels, canary_texts),
            files=files,
            **_encoder_fields(encoder),
        )
        return cls(folder, manifest, changed=True)

    @classmethod
    def open(cls, folder: Path) -> BundleDraft:
        """Return a draft of a signed bundle that this process has written or verified before.

        Raises:
            BundleError: The manifest does not fit this version.
        """
        return cls(folder, read_manifest(folder), changed=False)

    @property
    def manifest(self) -> Manifest:
        """The manifest as `sign` will write it."""
        return self._manifest

    def set_encoder(self, encoder: OnnxEncoder) -> None:
        """Replace the encoder, and predict the canary texts anew."""
        shutil.rmtree(self.folder / ENCODER)
        (self.folder / ENCODER).mkdir()
        draft = self._manifest
        others = {name: digest for name, digest in draft.files.items() if not name.startswith(f"{ENCODER}/")}
        head = read_head(self.folder, draft, encoder)
        self._change(
            created_at=time.time(),
            canary=_canary(encoder, head, draft.labels, draft.canary.texts),
            files=_link_encoder(encoder, self.folder) | others,
            **_encoder_fields(encoder),
        )

    def set_quantisation(self, quantisation: Quantisation) -> None:
        """Record the comparison of the encoder in int8 with the one in full precision."""
        self._change(quantisation=quantisation)

    def set_first_stage(self, stage: FirstStage, calibration: CascadeCalibration) -> None:
        """Make the model a cascade.

        Args:
            stage: First stage.
            calibration: Its effect on held-out rows.
        """
        stage.save(self.folder / FIRST)
        files = self._manifest.files | {FIRST: file_digest(self.folder / FIRST)}
        self._change(cascade=calibration, files=files)

    def sign(self, key: str) -> Manifest:
        """Write the manifest and its signature, unless nothing has changed, and return the manifest."""
        if self._changed:
            write_signed_manifest(self.folder, self._manifest, key)
            self._changed = False
        return self._manifest

    def _change(self, **fields: Any) -> None:
        self._manifest = replace(self._manifest, **fields)
        self._changed = True


def read_head(folder: Path, manifest: Manifest, encoder: Encoder) -> AnyHead | None:
    """Read the head of a bundle whose files were verified; `None` if the encoder's graph has logits.

    Args:
        folder: Folder of the bundle.
        manifest: Its manifest.
        encoder: Its encoder.

    Raises:
        ValueError: The file is damaged, or does not fit the manifest.
    """
    if manifest.head == "skops":
        return load_head(folder / HEAD)
    if manifest.head == "mixture":
        described = enumerate(manifest.guests)
        guests = [load_guest(folder / guest_folder(at), info, encoder.threads) for at, info in described]
        return load_mixture_head(
            folder / MIXTURE, manifest.experts, manifest.labels, encoder.dimension, encoder.tokenise, guests
        )
    return None


def _link_encoder(encoder: OnnxEncoder, folder: Path) -> dict[str, str]:
    """Link the encoder's files into a bundle, and return their digests by path, sorted."""
    names = sorted(encoder_files(encoder.folder))
    for name in names:
        link_or_copy(encoder.folder / name, folder / ENCODER / name)
    return {f"{ENCODER}/{name}": file_digest(folder / ENCODER / name) for name in names}


def _encoder_fields(encoder: OnnxEncoder) -> dict[str, Any]:
    return {
        "encoder_digest": encoder.files_digest,
        "dimension": encoder.dimension,
        "max_tokens": encoder.max_tokens,
        "quantisation": encoder.quantisation,
    }


def _canary(encoder: OnnxEncoder, head: AnyHead | None, labels: Sequence[str], texts: Sequence[str]) -> Canary:
    predictions = BundleClassifier(encoder, head, labels).predict(list(texts))
    return Canary(texts=list(texts), probabilities=predictions.probabilities.round(6).tolist())
