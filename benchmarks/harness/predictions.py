"""Predictions of benchmarks without a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from driftloop.core.messages import Prediction
from producers.scenarios.row import Row


def make_prediction(
    row: Row, position: int, classes: Sequence[str], probabilities: NDArray[Any], **fields: Any
) -> Prediction:
    """Return the prediction of an event. Its time is its position.

    Args:
        row: The event.
        position: Its position in the stream.
        classes: The k classes of the model.
        probabilities: Their probabilities, shape (k,).
        **fields: Further fields of the prediction: `event_id` and `model_version` at least.
    """
    return Prediction(
        label=str(classes[int(probabilities.argmax())]),
        probabilities={str(name): float(p) for name, p in zip(classes, probabilities, strict=True)},
        route="",
        latency_ms=0.0,
        text=row.text,
        segment=row.segment,
        occurred_at=float(position),
        predicted_at=float(position),
        position=position,
        **fields,
    )
