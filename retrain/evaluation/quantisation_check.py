"""Comparison of a model's encoder in int8 with the one in full precision, on rows of the stream.

The export compares both encoders by their embeddings of made-up texts. The model's labels on the stream count more, so
they are compared at each promotion.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from driftloop.core.models.bundle import BundleClassifier, BundleDraft
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import FULL_PRECISION
from driftloop.core.settings import Settings
from retrain.training_window import TrainingWindow

ROWS = 100
"""Number of held-out rows compared, the newest: in full precision a text takes some 10 ms."""
MIN_ROWS = 50
"""Minimum number of rows for a comparison."""
LOSS = 0.01
"""Accuracy that int8 may cost. A loss above it that is also beyond chance is too much."""


class QuantisationResult(NamedTuple):
    """Outcome of the comparison."""

    agreement: float
    """Share of the rows that get the same label from both."""
    loss: float
    """Accuracy in full precision minus that in int8."""
    rows: int
    int8: bool
    """`True` if the model stays in int8."""


def check_quantisation(
    model: BundleClassifier,
    draft: BundleDraft,
    held: TrainingWindow,
    predict: Callable[[TrainingWindow], Predictions],
    settings: Settings,
) -> QuantisationResult | None:
    """Compare int8 with full precision, and record the outcome in the draft.

    A model that loses too much accuracy gets the encoder in full precision.

    Args:
        model: The model before it learnt ``held``.
        draft: Bundle of that model, or of the same model refitted with ``held``. It is not signed here.
        held: Rows that it has not learnt.
        predict: Returns the predictions of ``model``.
        settings: Settings with the confidence level.

    Returns:
        The outcome. `None` if the model is not in int8, if its encoder in full precision is not on this machine, or if
        there are fewer than `MIN_ROWS` rows. A fine-tuned model was compared when it was made.
    """
    full_folder, quantisation = model.encoder.folder / FULL_PRECISION, draft.manifest.quantisation
    if quantisation is None or not quantisation.int8 or model.head is None or not full_folder.is_dir():
        return None
    rows = held.take(slice(-ROWS, None))
    if len(rows) < MIN_ROWS:
        return None
    full = OnnxEncoder(full_folder, draft.manifest.max_tokens, threads=1)
    small = np.asarray(predict(rows).labels)
    large = np.asarray(model.predict(rows.texts, full.embed(rows.texts)).labels)
    truth = np.asarray(rows.labels)
    lost = (large == truth).astype(float) - (small == truth)
    agreement, loss = float((small == large).mean()), float(lost.mean())
    chance = NormalDist().inv_cdf(settings.retrain.confidence) * float(lost.std()) / len(rows) ** 0.5
    int8 = not (loss > LOSS and loss > chance)
    if not int8:
        draft.set_encoder(full)
    draft.set_quantisation(replace(quantisation, int8=int8, agreement=round(agreement, 4), rows=len(rows)))
    return QuantisationResult(agreement, loss, len(rows), int8)
