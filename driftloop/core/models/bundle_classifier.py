"""Classifier that a bundle holds: an encoder, a head and, for a cascade, a first stage."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np

from driftloop.core.models.classifier import Matrix, Predictions, softmax
from driftloop.core.models.encoder import Encoder, PendingEmbeddings
from driftloop.core.models.first_stage import FirstStage
from driftloop.core.models.manifest import CascadeCalibration, Lineage
from driftloop.core.models.mixture import Mixture
from driftloop.core.models.mixture_head import AnyHead, MixtureHead


class BundleClassifier:
    """The `Classifier` that a bundle holds.

    Args:
        encoder: Encoder of the texts.
        head: Head on the embeddings; `None` if the encoder's graph has logits.
        labels: The k classes, in the order of the columns of the probabilities.
        version: Registered version; empty before registration.
    """

    def __init__(self, encoder: Encoder, head: AnyHead | None, labels: Sequence[str], version: str = "") -> None:
        self.encoder = encoder
        self.head = head
        self._labels = tuple(labels)
        self._version = version
        self.lineage: Lineage | None = None
        """Origin of the model; `None` before its bundle is written."""
        self.trained_until = 0.0
        """`occurred_at` of the newest event that the model was trained on."""
        self.made_at = 0.0
        """Time at which its bundle was written, in Unix seconds."""
        self.first_stage: FirstStage | None = None
        """First stage of a cascade; `None` if the model is not one."""
        self.cascade: CascadeCalibration | None = None
        """Calibration of the first stage; `None` without one."""
        self.revision = 0
        """Number of the newest update in the head. 0: the version as it was registered."""
        self._registered: Mixture | None = None

    def with_mixture(self, mixture: Mixture, revision: int) -> BundleClassifier:
        """Return the same version after updates of its mixture. This one stays as it is.

        Args:
            mixture: The mixture after the updates.
            revision: Number of the newest of them.

        Raises:
            ValueError: The head is not a mixture.
        """
        if not isinstance(self.head, MixtureHead):
            raise ValueError(f"version {self.version} is not a mixture")
        changed = copy.copy(self)
        changed.head = MixtureHead(mixture, self.head.feature_map, self.head.tokenise, self.head.guests)
        changed.revision = revision
        changed._registered = self._registered or self.head.mixture
        changed._labels = mixture.classes
        if len(mixture.classes) > len(self._labels):
            changed.first_stage = None  # it does not know the new class
        return changed

    @property
    def labels(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of the probabilities."""
        return self._labels

    @property
    def version(self) -> str:
        """Registered version; empty before registration."""
        return self._version

    @property
    def passes(self) -> int:
        """Number of networks that read each text beside the encoder."""
        return sum(guest.costs_a_pass for guest in self.head.guests) if isinstance(self.head, MixtureHead) else 0

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings of shape (n, d)."""
        return self.encoder.embed(texts)

    def predict(
        self, texts: Sequence[str], embeddings: Matrix | None = None, encoding: PendingEmbeddings | None = None
    ) -> Predictions:
        """Classify n texts.

        Args:
            texts: The texts.
            embeddings: Their embeddings of shape (n, d), if known. They spare the encoder unless the graph has logits.
            encoding: Result of `Encoder.begin` for their tokens, if it was started before.

        Raises:
            ValueError: ``embeddings`` has another number of rows than ``texts``.
        """
        started = time.perf_counter()
        reference = None
        if embeddings is not None and len(embeddings) != len(texts):
            raise ValueError(f"{len(embeddings)} embeddings for {len(texts)} texts")
        if self.head is None:
            embeddings, logits = encoding.result() if encoding else self.encoder.run(texts)
            probabilities = self._zeros(len(texts)) if logits is None else softmax(logits)
        else:
            if embeddings is None:
                embeddings = encoding.result()[0] if encoding else self.encoder.embed(texts)
            if not texts:
                probabilities = self._zeros(0)
            elif self._registered is not None and isinstance(self.head, MixtureHead):
                features = self.head.features(texts, embeddings)
                probabilities = self.head.mixture.predict_proba(features)
                known = self._registered.predict_proba(features)
                reference = np.pad(known, ((0, 0), (0, len(self._labels) - known.shape[1])))
            else:
                probabilities = self.head.predict_proba(texts, embeddings)
        return Predictions(
            classes=self._labels,
            probabilities=probabilities,
            embeddings=embeddings,
            route="encoder+head" if self.head else "encoder",
            cost_ms=(time.perf_counter() - started) * 1000,
            reference=reference,
        )

    def _zeros(self, rows: int) -> Matrix:
        return np.zeros((rows, len(self._labels)), dtype=np.float32)
