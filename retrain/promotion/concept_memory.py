"""Concept memory: champions of concepts seen before, tried on a new drift before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from driftloop.core.models.classifier import Predictions
from retrain.evaluation.gate import Verdict, judge
from retrain.evaluation.paired_slice import brier, slice_of
from retrain.training_window import TrainingWindow


def last_of_each(promoted: Sequence[tuple[str, str]], most: int) -> list[str]:
    """The models worth keeping of ``promoted``, pairs of (model, what it was trained for), oldest first.

    The last model of each concept, the newest ``most`` of them; the last pair, which is the champion's, is left out.
    """
    newest = {trigger: model for model, trigger in promoted}
    if promoted:
        newest.pop(promoted[-1][1])
    return list(newest.values())[max(len(newest) - most, 0) :]


def recall(
    rows: TrainingWindow, champion: Predictions, archived: Mapping[str, Predictions], **judging: Any
) -> tuple[str, Verdict] | None:
    """Which archived model fits the ``rows`` since the drift best (by Brier score), and what the gate says of it.

    None of the models has seen the rows. ``judging`` goes to `retrain.evaluation.gate.judge`. None without any model.
    """
    if not archived:
        return None
    best = min(archived, key=lambda name: float(np.mean(brier(rows.labels, archived[name]))))
    return best, judge(slice_of(rows, champion, archived[best]), **judging)
