"""Predictions of models for the same events, and the gate's verdict on them."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Outcome
from driftloop.core.models import sample_texts
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Matrix, Predictions
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from retrain.evaluation.gate import Verdict, judge
from retrain.evaluation.guards import Latency
from retrain.evaluation.paired_slice import slice_of
from retrain.promotion.concept_memory import recall
from retrain.training_window import TrainingWindow, build_window, stored_embeddings

TIMED = 16
"""Texts on which a model's latency is measured."""


class Evaluator:
    """Compares models under the gate's settings.

    Args:
        settings: Settings with the gate's limits.
        encoder: Loaded encoder, whose embeddings are stored.
        store: Store of the embeddings.
    """

    def __init__(self, settings: Settings, encoder: OnnxEncoder, store: OnlineStore) -> None:
        self._chosen = settings.retrain
        self._encoder = encoder
        self._store = store
        self._judging: dict[str, Any] = {
            "limits": self._chosen.gate,
            "confidence": self._chosen.confidence,
            "seed": self._chosen.seed,
        }

    def predict(self, model: BundleClassifier, rows: TrainingWindow) -> Predictions:
        """Return a model's predictions, from the rows' embeddings if the model shares the encoder.

        Args:
            model: The model.
            rows: The rows.
        """
        return model.predict(rows.texts, rows.embeddings if self._shares_encoder(model) else None)

    def predict_outcomes(self, model: BundleClassifier, outcomes: Sequence[Outcome]) -> Predictions:
        """Return a model's predictions for labelled events, in their order.

        Args:
            model: The model.
            outcomes: The labelled events. Their stored embeddings are used if the model shares the encoder.
        """
        texts = [outcome.text for outcome in outcomes]
        if not self._shares_encoder(model):
            return model.predict(texts)
        return model.predict(texts, stored_embeddings(outcomes, self._store, self._encoder))

    def embeddings(self, outcomes: Sequence[Outcome]) -> Matrix:
        """Return the embeddings of n labelled events, shape (n, d), in their order."""
        return stored_embeddings(outcomes, self._store, self._encoder, keep=True)

    def window(self, outcomes: Sequence[Outcome]) -> TrainingWindow:
        """Return labelled events as rows, in the order in which they occurred."""
        return build_window(outcomes, (-1, -1), 0.0, self._store, self._encoder)

    def verdict(
        self,
        rows: TrainingWindow,
        champion: BundleClassifier,
        challenger: BundleClassifier,
        *,
        before: TrainingWindow | None = None,
        refresh: bool = False,
        predictions: tuple[Predictions, Predictions] | None = None,
    ) -> Verdict:
        """Return the gate's verdict on a challenger.

        Args:
            rows: Rows that neither model has learnt.
            champion: The champion.
            challenger: The challenger.
            before: Such rows from before the drift; `None` if none were held out.
            refresh: `True` if the champion is an earlier model of the same candidate and drift.
            predictions: Predictions of champion and challenger for ``rows``, if known.
        """
        old, new = predictions or (self.predict(champion, rows), self.predict(challenger, rows))
        return judge(
            slice_of(rows, old, new),
            before=self._slice(before, champion, challenger),
            regression=self._slice(self._regression, champion, challenger),
            latency=self._latency(rows, champion, challenger),
            refresh=refresh,
            **self._judging,
        )

    def recall(
        self, rows: TrainingWindow, champion: BundleClassifier, archived: dict[str, BundleClassifier]
    ) -> tuple[str, Verdict] | None:
        """Find the archived model that fits the rows best; see `retrain.promotion.concept_memory.recall`.

        Args:
            rows: Rows since the drift.
            champion: The champion.
            archived: Archived models, by version.
        """
        predictions = {name: self.predict(model, rows) for name, model in archived.items()}
        return recall(rows, self.predict(champion, rows), predictions, **self._judging)

    def _shares_encoder(self, model: BundleClassifier) -> bool:
        return model.head is not None and model.encoder.digest == self._encoder.digest

    def _slice(self, rows: TrainingWindow | None, champion: BundleClassifier, challenger: BundleClassifier) -> Any:
        if rows is None or not len(rows):
            return None
        return slice_of(rows, self.predict(champion, rows), self.predict(challenger, rows))

    def _latency(self, rows: TrainingWindow, champion: BundleClassifier, challenger: BundleClassifier) -> Latency:
        timed = rows.take(slice(0, TIMED))
        spared = all(self._shares_encoder(model) and not model.passes for model in (champion, challenger))
        embeddings = timed.embeddings if spared else None

        def milliseconds(model: BundleClassifier) -> float:
            began = time.perf_counter()
            model.predict(timed.texts, embeddings)
            return (time.perf_counter() - began) * 1000 / len(timed)

        # The better of two: the first may find a cold cache.
        found = [min(milliseconds(model), milliseconds(model)) for model in (champion, challenger)]
        return Latency(*(one + self._encoder_milliseconds if spared else one for one in found))

    @cached_property
    def _encoder_milliseconds(self) -> float:
        """Milliseconds of the encoder per text. Heads on known embeddings are compared with it included."""
        texts = sample_texts.sentences(TIMED)[0]

        def milliseconds() -> float:
            began = time.perf_counter()
            self._encoder.embed(texts)
            return (time.perf_counter() - began) * 1000 / TIMED

        return min(milliseconds(), milliseconds())

    @cached_property
    def _regression(self) -> TrainingWindow | None:
        if not self._chosen.regression:
            return None
        path = Path(self._chosen.regression)
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                rows = [(row["text"], row["label"]) for row in csv.DictReader(handle)]
        except (OSError, KeyError, ValueError) as error:
            raise DriftloopError(
                f"The regression set {path} cannot be used ({error}): give a CSV file with the columns text and label "
                "in DRIFTLOOP_RETRAIN__REGRESSION."
            ) from error
        if not rows:
            raise DriftloopError(
                f"The regression set {path} is empty: give at least one row, or unset DRIFTLOOP_RETRAIN__REGRESSION."
            )
        texts, labels = zip(*rows, strict=True)
        ids = tuple(map(str, range(len(rows))))
        return TrainingWindow(ids, texts, labels, self._encoder.embed(texts), self._encoder.folder, 0)
