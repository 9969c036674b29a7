"""Training window: the labelled events that a retraining learns from, and the slices that it holds out."""

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
"""Smallest and largest number of the newest rows that are held out."""
BEFORE_STEP = 5
MAX_BEFORE = 200
"""One in `BEFORE_STEP` of the rows before the drift is held out, at most `MAX_BEFORE` of them."""
ROW_FIELDS = ("segments", "annotators", "weights", "gate_weights", "given")
"""Fields of a window that are empty or have one value per row."""


@dataclass(frozen=True)
class TrainingWindow:
    """n labelled events in the order of occurrence, oldest first."""

    event_ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    embeddings: Matrix
    """Shape (n, d), made by the encoder in ``encoder``."""
    encoder: Path
    """Folder with the exported encoder."""
    onset: int
    """Index of the first row after the drift, as estimated; 0 if no drift is known."""
    first_offset: int = -1
    last_offset: int = -1
    """Offsets in `outcomes`, both inclusive; for the first champion, in `labels`."""
    segments: tuple[str, ...] = ()
    """Shape (n,) or empty: the part of the stream that each event comes from."""
    annotators: tuple[str, ...] = ()
    """Shape (n,) or empty: the annotator of each label."""
    weights: tuple[float, ...] = ()
    """Shape (n,) or empty for ones: trust in each label for training."""
    gate_weights: tuple[float, ...] = ()
    """Shape (n,) or empty for ones: trust in each label for the comparison of models."""
    given: tuple[float, ...] = ()
    """Shape (n,) or empty: probability that a mixture gave to each label before it learnt it. -1: it had learnt it."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def take(self, rows: Sequence[int] | slice, onset: int | None = None) -> TrainingWindow:
        """Return a window of some of the rows.

        Args:
            rows: Slice or indices of the rows, in the order of the new window.
            onset: Onset in the new window. `None` keeps the number of this one.
        """
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
        """Return the rows to learn from, and two slices that no candidate learns before it is judged on them.

        The first slice is the newest ``share`` of the rows since the onset. The second slice is one in `BEFORE_STEP` of
        the rows before the drift; it is empty if no drift is known.
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
        """Write the window into a folder, for a child process."""
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
        """Read the window that `save` wrote."""
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
    """Return labelled events as a window, in the order of occurrence.

    The store provides the embeddings of this encoder that it holds; the others are computed.

    Args:
        outcomes: Labelled events.
        offsets: First and last offset of the outcomes, both inclusive.
        onset_at: `occurred_at` of the first event after the drift.
        store: Online store with embeddings.
        encoder: Encoder of the embeddings.
        keep: Store the computed embeddings for the next window.
    """
    rows = sorted(outcomes, key=lambda outcome: outcome.occurred_at)
    onset = sum(row.occurred_at < onset_at for row in rows)
    return TrainingWindow(
        event_ids=tuple(row.event_id for row in rows),
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows),
        embeddings=stored_embeddings(rows, store, encoder, keep=keep),
        encoder=encoder.folder,
        onset=0 if onset == len(rows) else onset,
        first_offset=offsets[0],
        last_offset=offsets[1],
        segments=tuple(row.segment for row in rows),
        annotators=tuple(row.annotator for row in rows),
    )


def probabilities_given(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """Return the probability that a mixture gave to each label before it learnt it, in the order of occurrence.

    Args:
        outcomes: Labelled events. The result has -1 for those that the first model was trained on.
    """
    rows = sorted(outcomes, key=lambda outcome: outcome.occurred_at)
    return tuple(-1.0 if row.in_sample else row.probabilities.get(row.label, 0.0) for row in rows)


def stored_embeddings(rows: Sequence[Outcome], store: OnlineStore, encoder: Encoder, *, keep: bool = False) -> Matrix:
    """Return the embeddings of n labelled events, shape (n, d), from the store or computed.

    Args:
        rows: The labelled events.
        store: Online store with embeddings.
        encoder: Encoder of the embeddings.
        keep: Store the computed ones.
    """
    vectors = store.embeddings([row.event_id for row in rows], encoder.digest)
    missing = [i for i, vector in enumerate(vectors) if vector is None or len(vector) != encoder.dimension]
    if missing:
        # Rounded as the store returns them, so that a window does not depend on the source of its embeddings.
        computed = encoder.embed([rows[i].text for i in missing]).astype(np.float16).astype(np.float32)
        for i, vector in zip(missing, computed, strict=True):
            vectors[i] = vector
        if keep:
            store.put_embeddings({rows[i].event_id: vectors[i] for i in missing}, encoder.digest)
    return np.stack([vector for vector in vectors if vector is not None])
