"""Manifest of a bundle: its lineage, its canary, the digest of every file, and its signature."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.models.encoder import Quantisation
from driftloop.core.models.guest import GuestInfo

MANIFEST, SIGNATURE, HEAD, ENCODER = "manifest.json", "manifest.sig", "head.skops", "encoder"
FIRST, MIXTURE = "first.safetensors", "mixture.safetensors"


class BundleError(DriftloopError):
    """A bundle must not be loaded: it is unsigned, altered or incomplete, or its canary predictions differ."""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Origin of a model."""

    candidate: str
    trigger: str = "bootstrap"
    dataset_revision: str = ""
    topic: str = ""
    first_offset: int = -1
    last_offset: int = -1
    """First and last offset of the training window, both inclusive."""
    rows: int = 0
    trained_until: float = 0.0
    """`occurred_at` of the newest event that the model was trained on."""
    parent_version: str = ""
    parameters: dict[str, Any] = {}


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """Texts and the probabilities that the model gave them when the bundle was written, shape (n, k)."""

    texts: Annotated[list[Annotated[str, msgspec.Meta(max_length=10_000)]], msgspec.Meta(max_length=100)]
    probabilities: Annotated[list[list[float]], msgspec.Meta(max_length=100)]


class CascadeCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """Effect of a first stage on held-out rows; see `retrain.promotion.first_stage.calibrate`."""

    share: float
    """Share of the rows that the first stage answered."""
    loss: float
    """Accuracy of the encoder alone minus that of the cascade."""
    loss_high: float
    """Upper confidence bound of the loss."""
    disagreement: float
    """Share of the first stage's answers that differ from the encoder's."""
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Table of contents of a bundle."""

    format: Literal[1] = 1
    created_at: float
    labels: list[str]
    head: Literal["skops", "logits", "mixture"]
    """Kind of the head: a scikit-learn estimator, the logits of the encoder's graph, or a mixture of experts."""
    experts: list[Annotated[str, msgspec.Meta(max_length=100)]] = []
    """Names of the experts of a mixture; empty without one."""
    guests: Annotated[list[GuestInfo], msgspec.Meta(max_length=10)] = []
    """Guests among the experts, each in the folder `guest-N`."""
    encoder_digest: str
    dimension: int
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    lineage: Lineage
    canary: Canary
    cascade: CascadeCalibration | None = None
    quantisation: Quantisation | None = None
    """Comparison of the encoder in int8 with the one in full precision; `None` if it was not measured."""
    files: dict[str, str]
    """SHA-256 of every other file, by its path in the bundle."""


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of ``folder`` without a check of its signature.

    Use it only for a bundle that this process has written or verified before.

    Raises:
        BundleError: The manifest does not fit this version.
    """
    return _decode((folder / MANIFEST).read_bytes(), folder)


def read_signed_manifest(folder: Path, key: str) -> Manifest:
    """Return the manifest of ``folder`` after a check of its signature.

    Args:
        folder: Folder of the bundle.
        key: Signing key.

    Raises:
        BundleError: A file is missing, the signature is not by this key, or the manifest does not fit this version.
    """
    try:
        body = (folder / MANIFEST).read_bytes()
        signature = (folder / SIGNATURE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle at {folder} is incomplete ({error}): register the model again.") from error
    if not hmac.compare_digest(signature, sign(body, key)):
        raise BundleError(
            f"The bundle at {folder} is not signed with this key: it was altered, or DRIFTLOOP_SIGNING_KEY differs "
            "from the key that it was written with."
        )
    return _decode(body, folder)


def write_signed_manifest(folder: Path, manifest: Manifest, key: str) -> None:
    """Write `manifest.json` and `manifest.sig` into ``folder``.

    Args:
        folder: Folder of the bundle, which holds all files of the manifest.
        manifest: Manifest with the digests of these files.
        key: Signing key.
    """
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(body)
    (folder / SIGNATURE).write_text(sign(body, key), encoding="ascii")


def manifest_digest(folder: Path) -> str:
    """Return the SHA-256 of the manifest: the model's identity, carried by `model-updates`."""
    return file_digest(folder / MANIFEST)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sign(body: bytes, key: str) -> str:
    """Return the HMAC-SHA256 of ``body`` in hexadecimal.

    Args:
        body: Bytes to sign.
        key: Signing key.
    """
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _decode(body: bytes, folder: Path) -> Manifest:
    try:
        return msgspec.json.decode(body, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The manifest of {folder} does not fit this version of driftloop: {error}.") from error
