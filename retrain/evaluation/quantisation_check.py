"""Whether a model that is to be promoted bears the eight bits of its encoder, on rows of the stream.

The encoder was compared with itself when it was exported, on made-up texts, and by its embeddings. What counts are the
model's answers to the stream: they are compared at each promotion.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from driftloop.core.models.bundle import HEAD, BundleClassifier, read_manifest, record_quantisation, write_bundle
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import load_head
from driftloop.core.models.onnx_export import FULL
from driftloop.core.settings import Settings
from retrain.training_window import TrainingWindow

ROWS = 100
"""Newest of the held-out rows: in full precision a text takes some 10 ms."""
MIN_ROWS = 50
"""Fewer say nothing."""
LOSS = 0.01
"""Accuracy that eight bits may cost; what is beyond that and beyond chance is too much."""


class Compared(NamedTuple):
    """What came of it."""

    agreement: float
    """Share of the rows to which both give the same label."""
    loss: float
    """Accuracy in full precision minus that in int8."""
    rows: int
    int8: bool
    """Whether the model stays in int8."""

    def words(self) -> str:
        """For the gate's note."""
        becomes = "" if self.int8 else ", so it is promoted in full precision"
        return (
            f"in eight bits it gives {self.agreement:.1%} of {self.rows} held-out events the label that it gives them "
            f"in full precision, accuracy {-self.loss:+.3f}{becomes}"
        )


def compare_precision(
    model: BundleClassifier,
    bundle: Path,
    held: TrainingWindow,
    answers: Callable[[TrainingWindow], Predictions],
    settings: Settings,
) -> Compared | None:
    """Compare, and write it into the manifest in ``bundle``; a model that loses gets the graph in full precision.

    Args:
        model: as it was before it learnt ``held``.
        bundle: of that model, or of the same one fitted on ``held`` too; it is signed anew.
        held: rows that it has not learnt.
        answers: what ``model`` says to rows.

    Returns:
        None where the model is not in int8, or its graph in full precision is not on this machine, or there are fewer
        rows than `MIN_ROWS`. A fine-tuned model was compared when it was made.
    """
    whole, found = model.encoder.folder / FULL, read_manifest(bundle)
    if found.quantisation is None or not found.quantisation.int8 or model.head is None or not whole.is_dir():
        return None
    rows = held.take(slice(-ROWS, None))
    if len(rows) < MIN_ROWS:
        return None
    full = OnnxEncoder(whole, found.max_tokens, threads=1)
    small, large = (
        np.asarray(said.labels) for said in (answers(rows), model.predict(rows.texts, full.embed(rows.texts)))
    )
    truth = np.asarray(rows.labels)
    lost = (large == truth).astype(float) - (small == truth)
    agreement, loss = float((small == large).mean()), float(lost.mean())
    chance = NormalDist().inv_cdf(settings.retrain.confidence) * float(lost.std()) / len(rows) ** 0.5
    stays = not (loss > LOSS and loss > chance)
    if not stays:
        _put(full, bundle, settings.signing_key)
    noted = replace(found.quantisation, int8=stays, agreement=round(agreement, 4), rows=len(rows))
    record_quantisation(bundle, noted, settings.signing_key)
    return Compared(agreement, loss, len(rows), stays)


def _put(encoder: OnnxEncoder, bundle: Path, key: str) -> None:
    """Make the bundle anew with another encoder."""
    found, fresh = read_manifest(bundle), bundle.with_name(f"{bundle.name}-full")
    head = load_head(bundle / HEAD)
    write_bundle(fresh, encoder=encoder, head=head, labels=found.labels, lineage=found.lineage, key=key)
    shutil.rmtree(bundle)
    fresh.rename(bundle)
