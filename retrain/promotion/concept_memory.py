"""Concept memory: champions of earlier concepts, compared on a new drift before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from driftloop.core.models.classifier import Predictions
from retrain.evaluation.gate import Verdict, judge
from retrain.evaluation.paired_slice import brier, slice_of
from retrain.training_window import TrainingWindow


def last_of_each(promoted: Sequence[tuple[str, str]], most: int) -> list[str]:
    """Return the last model of each concept, oldest first.

    Args:
        promoted: Pairs of (model, trigger that it was trained for), oldest first. The last pair is the champion's, and
            its concept is left out.
        most: Maximum number of models; the newest are kept.
    """
    newest = {trigger: model for model, trigger in promoted}
    if promoted:
        newest.pop(promoted[-1][1])
    return list(newest.values())[max(len(newest) - most, 0) :]


def recall(
    rows: TrainingWindow, champion: Predictions, archived: Mapping[str, Predictions], **judging: Any
) -> tuple[str, Verdict] | None:
    """Find the archived model that fits the rows since the drift best, by Brier score, and judge it.

    Args:
        rows: Rows that none of the models has learnt.
        champion: The champion's predictions for them.
        archived: Predictions of each archived model for them, by its name.
        judging: Keyword arguments of `retrain.evaluation.gate.judge`.

    Returns:
        Name and verdict of that model; `None` without an archived model.
    """
    if not archived:
        return None
    best = min(archived, key=lambda name: float(np.mean(brier(rows.labels, archived[name]))))
    return best, judge(slice_of(rows, champion, archived[best]), **judging)
