"""Bundle: one model as a signed folder that any process with the key can verify, load and trust.

manifest.json      labels, encoder, head, lineage, canary, and the SHA-256 of every other file
manifest.sig       HMAC-SHA256 of manifest.json with the signing key
encoder/           model.onnx, tokenizer.json; for a GPU also weights.safetensors, network.json
head.skops         absent if the encoder's graph has logits
first.safetensors  first stage, if the model is a cascade
mixture.safetensors  experts and weights, in place of head.skops, if the model is a mixture
guest-0/, …        head.skops, or model.onnx and tokenizer.json, of a guest among the experts

A bundle holds no other file, signed or not. A signing key can be stolen, and its thief must not be able to run code
where models are loaded. Therefore a bundle has these formats, none of which can name code, and each file is checked
before it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from driftloop.core.models.bundle_classifier import BundleClassifier
from driftloop.core.models.bundle_draft import CANARY_TEXTS, BundleDraft, read_head
from driftloop.core.models.encoder import MODEL, NETWORK, TOKENIZER, WEIGHTS, Encoder, OnnxEncoder
from driftloop.core.models.first_stage import load_first_stage
from driftloop.core.models.guest import guest_files
from driftloop.core.models.manifest import (
    ENCODER,
    FIRST,
    HEAD,
    MANIFEST,
    MIXTURE,
    SIGNATURE,
    BundleError,
    Canary,
    Lineage,
    Manifest,
    file_digest,
    manifest_digest,
    read_manifest,
    read_signed_manifest,
)
from driftloop.core.models.mixture_head import AnyHead
from driftloop.core.models.torch_encoder import TorchEncoder
from driftloop.core.terminal_text import escape_control_chars

__all__ = [
    "ENCODER",
    "FIRST",
    "HEAD",
    "MANIFEST",
    "MIXTURE",
    "SIGNATURE",
    "BundleClassifier",
    "BundleDraft",
    "BundleError",
    "Canary",
    "Lineage",
    "Manifest",
    "load_bundle",
    "manifest_digest",
    "read_manifest",
    "verify_bundle",
    "write_bundle",
]

CANARY_TOLERANCE = 0.1
"""Largest allowed difference of a probability between the machine that wrote a bundle and the one that loads it."""


def write_bundle(
    folder: Path,
    *,
    encoder: OnnxEncoder,
    head: AnyHead | None,
    labels: Sequence[str],
    lineage: Lineage,
    key: str,
    canary_texts: Sequence[str] = CANARY_TEXTS,
) -> Manifest:
    """Write and sign a bundle.

    Args:
        folder: Folder to create.
        encoder: Encoder. Its files are hard-linked if the file system allows it.
        head: Head on its embeddings; `None` if the encoder's graph has logits.
        labels: The k classes, in the order of the columns of the probabilities.
        lineage: Origin of the model.
        key: Signing key.
        canary_texts: Texts whose predictions are checked when the bundle is loaded.

    Returns:
        The manifest.
    """
    draft = BundleDraft.create(
        folder, encoder=encoder, head=head, labels=labels, lineage=lineage, canary_texts=canary_texts
    )
    return draft.sign(key)


def verify_bundle(folder: Path, key: str) -> Manifest:
    """Check the signature, the set of files and every digest, and return the manifest.

    Args:
        folder: Folder of the bundle.
        key: Signing key.

    Raises:
        BundleError: A check failed. The message is one sentence about the first failure.
    """
    manifest = read_signed_manifest(folder, key)
    allowed = _allowed_files(manifest)
    foreign = sorted(manifest.files.keys() - allowed)
    if foreign:
        raise BundleError(
            f"The manifest of the bundle at {folder} names {escape_control_chars(foreign[0], 80)}, and a bundle is "
            f"made of nothing but {', '.join(sorted(allowed))}: register the model again."
        )
    if any(path.is_symlink() for path in folder.rglob("*")):
        raise BundleError(f"The bundle at {folder} holds a symbolic link: register the model again.")
    missing = sorted(allowed - manifest.files.keys())
    if missing:
        raise BundleError(f"The bundle at {folder} lacks {', '.join(missing)}: register the model again.")
    _check_files(folder, manifest)
    return manifest


def load_bundle(
    folder: Path,
    key: str,
    *,
    version: str = "",
    threads: int = 0,
    cache_size: int = 0,
    device: str | None = None,
    encoder: Encoder | None = None,
) -> BundleClassifier:
    """Verify a bundle, load it and check its canary predictions, which also warms it.

    Args:
        folder: Folder of the bundle.
        key: Signing key.
        version: Registered version; empty before registration.
        threads: Threads of the encoder; see `OnnxEncoder`.
        cache_size: Texts whose embeddings are cached; see `Encoder`.
        device: Torch's name of the device that runs the weights in bf16; `None` for the graph on the CPU. A bundle
            without weights runs on the CPU.
        encoder: Loaded encoder, which is reused if its digest is the bundle's. A new head then loads in milliseconds.

    Raises:
        BundleError: The bundle is altered, or its canary predictions differ from those in its manifest.
    """
    manifest = verify_bundle(folder, key)
    try:
        if encoder is None or encoder.files_digest != manifest.encoder_digest:
            encoder = _load_encoder(folder / ENCODER, manifest, threads, cache_size, device)
        head = read_head(folder, manifest, encoder)
        model = BundleClassifier(encoder, head, manifest.labels, version)
        model.lineage, model.made_at = manifest.lineage, manifest.created_at
        model.trained_until = manifest.lineage.trained_until
        if manifest.cascade is not None:
            model.first_stage = load_first_stage(folder / FIRST, len(manifest.labels))
            model.cascade = manifest.cascade
        probabilities = model.predict(manifest.canary.texts).probabilities
        expected = np.asarray(manifest.canary.probabilities, dtype=np.float32)
    except Exception as error:  # the libraries that read the formats raise types of their own
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(
            f"The bundle at {folder} is not safe to load: {escape_control_chars(why, 300).rstrip('.')}."
        ) from error
    if probabilities.shape != expected.shape or not np.allclose(probabilities, expected, atol=CANARY_TOLERANCE):
        raise BundleError(
            f"The bundle at {folder} answers its canary texts differently here than on the machine that wrote it: "
            "check that onnxruntime and scikit-learn are the locked versions."
        )
    return model


def _load_encoder(folder: Path, manifest: Manifest, threads: int, cache_size: int, device: str | None) -> Encoder:
    if device is not None and f"{ENCODER}/{WEIGHTS}" in manifest.files:
        return TorchEncoder(folder, manifest.max_tokens, device, cache_size)
    return OnnxEncoder(folder, manifest.max_tokens, threads, cache_size)


def _allowed_files(manifest: Manifest) -> set[str]:
    """Return the files that a bundle with this manifest must hold, and the only ones that it may hold."""
    allowed = {f"{ENCODER}/{MODEL}", f"{ENCODER}/{TOKENIZER}"}
    for_torch = {f"{ENCODER}/{WEIGHTS}", f"{ENCODER}/{NETWORK}"}
    if for_torch & manifest.files.keys():
        allowed |= for_torch
    if manifest.head == "skops":
        allowed.add(HEAD)
    if manifest.head == "mixture":
        allowed.add(MIXTURE)
        allowed |= guest_files(manifest.guests)
    if manifest.cascade:
        allowed.add(FIRST)
    return allowed


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise `BundleError` if a file is missing, altered, or not in the manifest."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    present -= {MANIFEST, SIGNATURE}
    for name, digest in manifest.files.items():
        if name not in present or file_digest(folder / name) != digest:
            raise BundleError(f"{name} of the bundle at {folder} is missing or was altered: register the model again.")
    extra = present - manifest.files.keys()
    if extra:
        raise BundleError(f"The bundle at {folder} holds files its manifest does not name: {', '.join(sorted(extra))}.")
