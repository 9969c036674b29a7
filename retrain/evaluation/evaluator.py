"""What two models say to the same events, and the gate's verdict on it: the one way in which models are compared."""

from __future__ import annotations

import csv
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from driftloop.core.errors import DriftloopError
from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.settings import Settings
from retrain.evaluation.gate import Verdict, judge
from retrain.evaluation.guards import Latency
from retrain.evaluation.paired_slice import slice_of
from retrain.promotion.concept_memory import recall
from retrain.training_window import TrainingWindow

TIMED = 16
"""Texts on which a model's speed is measured."""


class Evaluator:
    """Compares models under the gate's settings."""

    def __init__(self, settings: Settings, encoder: OnnxEncoder) -> None:
        self._chosen = settings.retrain
        self._encoder = encoder
        self._judging: dict[str, Any] = {
            "limits": self._chosen.gate,
            "confidence": self._chosen.confidence,
            "seed": self._chosen.seed,
        }

    def answers(self, model: BundleClassifier, rows: TrainingWindow) -> Predictions:
        """The model's answers to the rows, from their embeddings where they are of its own encoder."""
        return model.predict(rows.texts, rows.embeddings if self._shares_encoder(model) else None)

    def verdict(
        self,
        rows: TrainingWindow,
        champion: BundleClassifier,
        challenger: BundleClassifier,
        *,
        before: TrainingWindow | None = None,
        refresh: bool = False,
        said: tuple[Predictions, Predictions] | None = None,
    ) -> Verdict:
        """The gate's word on ``rows``, which neither has learnt; ``before`` are such rows from before the drift.

        ``said`` are the answers of both, where they are known already.
        """
        old, new = said or (self.answers(champion, rows), self.answers(challenger, rows))
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
        """The archived model that fits the rows best; see `retrain.promotion.concept_memory.recall`."""
        answers = {name: self.answers(model, rows) for name, model in archived.items()}
        return recall(rows, self.answers(champion, rows), answers, **self._judging)

    def _shares_encoder(self, model: BundleClassifier) -> bool:
        return model.head is not None and model.encoder.digest == self._encoder.digest

    def _slice(self, rows: TrainingWindow | None, champion: BundleClassifier, challenger: BundleClassifier) -> Any:
        if rows is None or not len(rows):
            return None
        return slice_of(rows, self.answers(champion, rows), self.answers(challenger, rows))

    def _latency(self, rows: TrainingWindow, champion: BundleClassifier, challenger: BundleClassifier) -> Latency:
        some = rows.take(slice(0, TIMED))
        embeddings = some.embeddings if all(map(self._shares_encoder, (champion, challenger))) else None

        def milliseconds(model: BundleClassifier) -> float:
            began = time.perf_counter()
            model.predict(some.texts, embeddings)
            return (time.perf_counter() - began) * 1000 / len(some)

        # The better of two: the first may find a cold cache.
        return Latency(*(min(milliseconds(model), milliseconds(model)) for model in (champion, challenger)))

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
            raise DriftloopError(f"The regression set {path} is empty: give at least one row, or none at all.")
        texts, labels = zip(*rows, strict=True)
        ids = tuple(map(str, range(len(rows))))
        return TrainingWindow(ids, texts, labels, self._encoder.embed(texts), self._encoder.folder, 0)
