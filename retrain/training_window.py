"""What a retraining learns from: the labelled events around an alert, and the slice kept aside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from driftloop.core.models.classifier import Matrix

if TYPE_CHECKING:
    from driftloop.core.messages import Outcome
    from driftloop.core.models.encoder import Encoder
    from driftloop.core.online_store import OnlineStore

MIN_HOLDOUT = 30
MAX_HOLDOUT = 600
BEFORE_STEP = 5
MAX_BEFORE = 200
"""Of the rows before the drift, one in so many, and no more than so many, are kept aside."""
ROW_FIELDS = ("segments", "annotators", "weights", "gate_weights")


@dataclass(frozen=True)
class TrainingWindow:
    """n labelled events in the order of their arrival, oldest first."""

    event_ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    embeddings: Matrix
    """Shape (n, d), of the encoder in ``encoder``."""
    encoder: Path
    """Folder with the exported encoder that made the embeddings."""
    onset: int
    """Index of the first row that is believed to lie after the drift; 0 when no drift is known."""
    first_offset: int = -1
    last_offset: int = -1
    """Offsets in `outcomes` (for the first champion, in `labels`), both inclusive."""
    segments: tuple[str, ...] = ()
    """Shape (n,) or empty: the part of the stream that each event comes from."""
    annotators: tuple[str, ...] = ()
    """Shape (n,) or empty: who gave each label."""
    weights: tuple[float, ...] = ()
    """Shape (n,) or empty for ones: how far each label is trusted where a model learns from it."""
    gate_weights: tuple[float, ...] = ()
    """Shape (n,) or empty for ones: how far each label is trusted where models are compared."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def take(self, rows: Sequence[int] | slice, onset: int | None = None) -> TrainingWindow:
        """The rows given by a slice or a list of indices, in that order."""
        index = np.arange(len(self))[rows]
        return TrainingWindow(
            event_ids=tuple(self.event_ids[i] for i in index),
            texts=tuple(self.texts[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            embeddings=self.embeddings[index],
            encoder=self.encoder,
            onset=self.onset if onset is None else onset,
            first_offset=self.first_offset,
            last_offset=self.last_offset,
            **{name: tuple(part[i] for i in index) if (part := getattr(self, name)) else () for name in ROW_FIELDS},
        )

    def hold_out(self, share: float) -> tuple[TrainingWindow, TrainingWindow, TrainingWindow]:
        """Rows to learn from, and two slices that no candidate learns from before it is judged on them.

        The first is the newest ``share`` of the rows since the onset; the second, from before the drift, is every
        fifth of the newest older rows, and empty where no drift is known.
        """
        since = len(self) - self.onset
        kept = min(max(int(since * share), MIN_HOLDOUT), MAX_HOLDOUT, len(self) // 2)
        cut = len(self) - kept
        onset = min(self.onset, cut)
        before = np.arange(onset)[::-BEFORE_STEP][:MAX_BEFORE][::-1]
        train = np.setdiff1d(np.arange(cut), before)
        return (
            self.take(train.tolist(), onset - len(before)),
            self.take(slice(cut, None), 0),
            self.take(before.tolist(), 0),
        )

    def save(self, folder: Path) -> None:
        """Write the window into ``folder``, for a child process."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "embeddings.npy", self.embeddings)
        rest = {
            "event_ids": self.event_ids,
            "texts": self.texts,
            "labels": self.labels,
            "encoder": str(self.encoder),
            "onset": self.onset,
            "first_offset": self.first_offset,
            "last_offset": self.last_offset,
            **{name: getattr(self, name) for name in ROW_FIELDS},
        }
        (folder / "window.json").write_text(json.dumps(rest), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TrainingWindow:
        """Read what `save` wrote."""
        rest = json.loads((folder / "window.json").read_text(encoding="utf-8"))
        for name in ("event_ids", "texts", "labels", *ROW_FIELDS):
            rest[name] = tuple(rest[name])
        return cls(**{**rest, "encoder": Path(rest["encoder"])}, embeddings=np.load(folder / "embeddings.npy"))


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
