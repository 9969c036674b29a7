"""From outcomes to a window: the newest labelled events with the embeddings that the scorer stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftloop.core.messages import Outcome
from driftloop.core.models.encoder import Encoder
from driftloop.core.online_store import OnlineStore
from retrain.training_window import TrainingWindow


def build_window(
    outcomes: Sequence[Outcome],
    offsets: tuple[int, int],
    onset_at: float,
    store: OnlineStore,
    encoder: Encoder,
    *,
    keep: bool = False,
) -> TrainingWindow:
    """The outcomes as a window, in the order in which the events occurred.

    ``offsets`` are the first and last offset of the outcomes, both inclusive. Embeddings come from the store where
    it has them for this encoder; the others are computed, and with ``keep`` stored for the next window.
    """
    rows = sorted(outcomes, key=lambda outcome: outcome.occurred_at)
    stored = store.embeddings([row.event_id for row in rows], encoder.digest)
    missing = [i for i, vector in enumerate(stored) if vector is None or len(vector) != encoder.dimension]
    if missing:
        # As the store gives them back: a window is the same whether its embeddings come from there or not.
        computed = encoder.embed([rows[i].text for i in missing]).astype(np.float16).astype(np.float32)
        for i, vector in zip(missing, computed, strict=True):
            stored[i] = vector
        if keep:
            store.put_embeddings({rows[i].event_id: stored[i] for i in missing}, encoder.digest)
    onset = sum(row.occurred_at < onset_at for row in rows)
    return TrainingWindow(
        event_ids=tuple(row.event_id for row in rows),
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows),
        embeddings=np.stack([vector for vector in stored if vector is not None]),
        encoder=encoder.folder,
        onset=0 if onset == len(rows) else onset,
        first_offset=offsets[0],
        last_offset=offsets[1],
        segments=tuple(row.segment for row in rows),
        annotators=tuple(row.annotator for row in rows),
    )
