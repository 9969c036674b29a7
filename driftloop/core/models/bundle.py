"""A bundle: one model as a signed folder that anyone with the key can verify, load and trust.

manifest.json      labels, encoder, head, lineage, canary, and the SHA-256 of every other file
manifest.sig       HMAC-SHA256 of manifest.json with the signing key
encoder/           model.onnx, tokenizer.json; weights.safetensors, network.json, where it was made for a GPU too
head.skops         absent where the graph has logits of its own
first.safetensors  the first stage, where the model is a cascade

Nothing else may lie in it, signed or not: a key can be stolen, and whoever has it must not thereby run code where
models are loaded. So there are five formats, none of which can name code, and each is checked before it is opened.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from driftloop.core.errors import DriftloopError
from driftloop.core.models.classifier import Matrix, Predictions, softmax
from driftloop.core.models.encoder import (
    MODEL,
    NETWORK,
    TOKENIZER,
    WEIGHTS,
    Encoder,
    OnnxEncoder,
    PendingEmbeddings,
    Quantisation,
    files_of,
)
from driftloop.core.models.first_stage import FirstStage, load_first_stage
from driftloop.core.models.head import Head, load_head
from driftloop.core.models.torch_encoder import TorchEncoder
from driftloop.core.terminal_text import escape_control_chars

MANIFEST, SIGNATURE, HEAD, ENCODER = "manifest.json", "manifest.sig", "head.skops", "encoder"
FIRST = "first.safetensors"
CANARY_TOLERANCE = 0.1
"""Largest difference of a probability between the machine that wrote a bundle and the one that loads it."""
CANARY_TEXTS = ("the flight was delayed again", "what a wonderful day!", "", "ok — 100% 😀")


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model comes from."""

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
    """Texts and what the model said about them when the bundle was written, shape (n, k)."""

    texts: Annotated[list[Annotated[str, msgspec.Meta(max_length=10_000)]], msgspec.Meta(max_length=100)]
    probabilities: Annotated[list[list[float]], msgspec.Meta(max_length=100)]


class Cascaded(msgspec.Struct, frozen=True, kw_only=True):
    """What the first stage of a cascade was worth on held-out rows; see `retrain.promotion.first_stage.calibrate`."""

    share: float
    """Of the rows, that it answered."""
    loss: float
    """Accuracy of the encoder alone minus that of the cascade."""
    loss_high: float
    """What the loss stays below beyond chance."""
    disagreement: float
    """Share of what it answered that the encoder answers differently."""
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The table of contents of a bundle."""

    format: Literal[1] = 1
    created_at: float
    labels: list[str]
    head: Literal["skops", "logits"]
    encoder_digest: str
    dimension: int
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    lineage: Lineage
    canary: Canary
    cascade: Cascaded | None = None
    quantisation: Quantisation | None = None
    """How the encoder in int8 compares with the one in full precision; None where that was not measured."""
    files: dict[str, str]


class BundleError(DriftloopError):
    """A bundle that must not be loaded: unsigned, altered, incomplete, or wrong on its canary texts."""


class BundleClassifier:
    """The `Classifier` that a bundle holds."""

    def __init__(self, encoder: Encoder, head: Head | None, labels: Sequence[str], version: str = "") -> None:
        self.encoder = encoder
        self.head = head
        self._labels = tuple(labels)
        self._version = version
        self.trained_until = 0.0
        """`occurred_at` of the newest event that the model was trained on."""
        self.made_at = 0.0
        """When its bundle was written, in seconds since 1970."""
        self.first: FirstStage | None = None
        self.cascade: Cascaded | None = None
        """What the first stage was worth when it was calibrated; None with it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of the probabilities."""
        return self._labels

    @property
    def version(self) -> str:
        """The registered version, empty before registration."""
        return self._version

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Embeddings of shape (n, d), all of the same length."""
        return self.encoder.embed(texts)

    def predict(
        self, texts: Sequence[str], embeddings: Matrix | None = None, encoding: PendingEmbeddings | None = None
    ) -> Predictions:
        """Classify n texts; see `driftloop.core.models.classifier.Classifier.predict`.

        ``encoding`` is what `Encoder.begin` has returned for their tokens.
        """
        started = time.perf_counter()
        if embeddings is not None and len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        if self.head is None:
            embeddings, logits = encoding.result() if encoding else self.encoder.run(texts)
            nothing = np.zeros((len(texts), len(self._labels)), dtype=np.float32)
            probabilities = nothing if logits is None else softmax(logits)
        else:
            if embeddings is None:
                embeddings = encoding.result()[0] if encoding else self.encoder.embed(texts)
            probabilities = (
                self.head.predict_proba(texts, embeddings)
                if texts
                else np.zeros((0, len(self._labels)), dtype=np.float32)
            )
        return Predictions(
            classes=self._labels,
            probabilities=probabilities,
            embeddings=embeddings,
            route="encoder+head" if self.head else "encoder",
            cost_ms=(time.perf_counter() - started) * 1000,
        )


def write_bundle(
    folder: Path,
    *,
    encoder: OnnxEncoder,
    head: Head | None,
    labels: Sequence[str],
    lineage: Lineage,
    key: str,
    canary_texts: Sequence[str] = CANARY_TEXTS,
) -> Manifest:
    """Write and sign a bundle into ``folder``, which is created, and return its manifest.

    The encoder's files are hard-linked where the file system allows it. ``head`` is None for a graph with logits.
    """
    (folder / ENCODER).mkdir(parents=True)
    for name in files_of(encoder.folder):
        link(encoder.folder / name, folder / ENCODER / name)
    if head is not None:
        head.save(folder / HEAD)
    said = BundleClassifier(encoder, head, labels).predict(list(canary_texts)).probabilities
    files = {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = Manifest(
        created_at=time.time(),
        labels=list(labels),
        head="logits" if head is None else "skops",
        encoder_digest=encoder.files_digest,
        dimension=encoder.dimension,
        max_tokens=encoder.max_tokens,
        lineage=lineage,
        canary=Canary(texts=list(canary_texts), probabilities=said.round(6).tolist()),
        quantisation=encoder.quantisation,
        files=files,
    )
    _write_signed_manifest(folder, manifest, key)
    return manifest


def record_quantisation(folder: Path, found: Quantisation, key: str) -> None:
    """Write what is known of the encoder's eight bits into the manifest of ``folder``, and sign it anew."""
    _write_signed_manifest(folder, replace(read_manifest(folder), quantisation=found), key)


def add_first_stage(folder: Path, stage: FirstStage, worth: Cascaded, key: str) -> None:
    """Make the model in ``folder`` a cascade, and sign it anew."""
    stage.save(folder / FIRST)
    manifest = read_manifest(folder)
    files = {**manifest.files, FIRST: _sha256(folder / FIRST)}
    _write_signed_manifest(folder, replace(manifest, cascade=worth, files=files), key)


def verify_bundle(folder: Path, key: str) -> Manifest:
    """Check the signature, that there is nothing but what a bundle is made of, and every digest.

    Raises:
        BundleError: with one sentence that says what is wrong.
    """
    try:
        body = (folder / MANIFEST).read_bytes()
        signature = (folder / SIGNATURE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle at {folder} is incomplete ({error}): register the model again.") from error
    if not hmac.compare_digest(signature, _sign(body, key)):
        raise BundleError(
            f"The bundle at {folder} is not signed with this key: it was altered, or DRIFTLOOP_SIGNING_KEY differs "
            "from the one it was written with."
        )
    manifest = _decode(body, folder)
    allowed = {f"{ENCODER}/{MODEL}", f"{ENCODER}/{TOKENIZER}"}
    both = {f"{ENCODER}/{WEIGHTS}", f"{ENCODER}/{NETWORK}"}
    if both & manifest.files.keys():
        allowed |= both
    allowed |= {name for name, there in ((HEAD, manifest.head == "skops"), (FIRST, manifest.cascade)) if there}
    strange = sorted(manifest.files.keys() - allowed)
    if strange:
        raise BundleError(
            f"The bundle at {folder} is to hold {escape_control_chars(strange[0], 80)}, and a bundle is made of nothing but "
            f"{', '.join(sorted(allowed))}: register the model again."
        )
    if any(path.is_symlink() for path in folder.rglob("*")):
        raise BundleError(f"The bundle at {folder} holds a symbolic link: register the model again.")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        MANIFEST,
        SIGNATURE,
    }
    missing = sorted(allowed - manifest.files.keys())
    if missing:
        raise BundleError(f"The bundle at {folder} lacks {', '.join(missing)}: register the model again.")
    for name, digest in manifest.files.items():
        if name not in present or _sha256(folder / name) != digest:
            raise BundleError(f"{name} of the bundle at {folder} is missing or was altered: register the model again.")
    extra = present - manifest.files.keys()
    if extra:
        raise BundleError(f"The bundle at {folder} holds files its manifest does not name: {', '.join(sorted(extra))}.")
    return manifest


def load_bundle(
    folder: Path,
    key: str,
    *,
    version: str = "",
    threads: int = 0,
    remember: int = 0,
    device: str | None = None,
    encoder: Encoder | None = None,
) -> BundleClassifier:
    """Verify a bundle, load it and warm it with its canary texts.

    ``encoder`` is reused where its digest is the bundle's: a new head over the same encoder loads in milliseconds.
    ``threads`` and ``remember`` are for `OnnxEncoder`. ``device`` is torch's name of what runs the weights in bf16
    instead of the graph, where the bundle has them.

    Raises:
        BundleError: the bundle is altered, or answers its canary texts differently than when it was written.
    """
    manifest = verify_bundle(folder, key)
    try:
        if encoder is None or encoder.files_digest != manifest.encoder_digest:
            encoder = _encoder(folder / ENCODER, manifest, threads, remember, device)
        head = load_head(folder / HEAD) if manifest.head == "skops" else None
        model = BundleClassifier(encoder, head, manifest.labels, version)
        model.trained_until, model.made_at = manifest.lineage.trained_until, manifest.created_at
        if manifest.cascade is not None:
            model.first = load_first_stage(folder / FIRST, len(manifest.labels))
            model.cascade = manifest.cascade
        said = model.predict(manifest.canary.texts).probabilities
        expected = np.asarray(manifest.canary.probabilities, dtype=np.float32)
    except Exception as error:  # the libraries that read the formats raise types of their own
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(
            f"The bundle at {folder} is not safe to load: {escape_control_chars(why, 300).rstrip('.')}."
        ) from error
    if said.shape != expected.shape or not np.allclose(said, expected, atol=CANARY_TOLERANCE):
        raise BundleError(
            f"The bundle at {folder} answers its canary texts differently here than where it was written: "
            "check that onnxruntime and scikit-learn are the locked versions."
        )
    return model


def _encoder(folder: Path, manifest: Manifest, threads: int, remember: int, device: str | None) -> Encoder:
    if device is not None and f"{ENCODER}/{WEIGHTS}" in manifest.files:
        return TorchEncoder(folder, manifest.max_tokens, device, remember)
    return OnnxEncoder(folder, manifest.max_tokens, threads, remember)


def read_manifest(folder: Path) -> Manifest:
    """The manifest as it stands: of a bundle that was written or verified here before.

    Raises:
        BundleError: it is not one of this version.
    """
    return _decode((folder / MANIFEST).read_bytes(), folder)


def manifest_digest(folder: Path) -> str:
    """SHA-256 of the manifest: the model's identity, carried by `model-updates`."""
    return _sha256(folder / MANIFEST)


def _decode(body: bytes, folder: Path) -> Manifest:
    try:
        return msgspec.json.decode(body, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The manifest of {folder} does not fit this version of driftloop: {error}.") from error


def link(source: Path | str, target: Path | str) -> None:
    """Make ``target`` the same file as ``source``, or a copy where the file system has no hard links."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_signed_manifest(folder: Path, manifest: Manifest, key: str) -> None:
    """Write the manifest and its signature."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(body)
    (folder / SIGNATURE).write_text(_sign(body, key), encoding="ascii")


def _sign(body: bytes, key: str) -> str:
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
