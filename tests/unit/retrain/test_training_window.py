"""Training window: rows to learn from, and rows held out."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from retrain.training_window import MAX_BEFORE, MAX_HOLDOUT, MIN_HOLDOUT, TrainingWindow


def window(n: int, onset: int) -> TrainingWindow:
    return TrainingWindow(
        event_ids=tuple(map(str, range(n))),
        texts=tuple(f"text {i}" for i in range(n)),
        labels=tuple("ab"[i % 2] for i in range(n)),
        embeddings=np.arange(n * 3, dtype=np.float32).reshape(n, 3),
        encoder=Path("encoder"),
        onset=onset,
        first_offset=10,
        last_offset=10 + n - 1,
    )


def test_held_out_rows_are_never_trained_on() -> None:
    """Newest rows since the onset and some older ones are held out."""
    train, held, before = window(1000, 600).hold_out(0.2)
    assert held.event_ids == tuple(map(str, range(920, 1000)))
    assert before.event_ids == tuple(map(str, range(4, 600, 5)))
    parts = [set(part.event_ids) for part in (train, held, before)]
    assert set.union(*parts) == set(map(str, range(1000))) and sum(map(len, parts)) == 1000
    assert train.event_ids[train.onset] == "600", "the onset moves with the rows"
    assert (held.embeddings == window(1000, 600).embeddings[920:]).all()


def test_held_out_slices_have_minimum_and_maximum_size() -> None:
    assert len(window(1000, 950).hold_out(0.2)[1]) == MIN_HOLDOUT
    assert len(window(9000, 0).hold_out(0.2)[1]) == MAX_HOLDOUT
    assert len(window(9000, 8000).hold_out(0.2)[2]) == MAX_BEFORE
    assert len(window(9000, 0).hold_out(0.2)[2]) == 0, "no drift is known: nothing is from before it"
    train, held, before = window(20, 15).hold_out(0.2)
    assert (len(train), len(held), len(before)) == (8, 10, 2) and train.onset == 8


def test_row_attributes_follow_selected_rows() -> None:
    one = replace(window(50, 20), segments=tuple("xy" * 25), weights=tuple(i / 50 for i in range(50)))
    part = one.take([3, 7])
    assert (part.segments, part.weights, part.annotators) == (("y", "y"), (0.06, 0.14), ())


def test_saved_window_loads_unchanged(tmp_path: Path) -> None:
    one = replace(window(50, 20), annotators=tuple("ab" * 25))
    one.save(tmp_path / "w")
    other = TrainingWindow.load(tmp_path / "w")
    assert (other.embeddings == one.embeddings).all()
    assert (other.annotators, other.weights) == (one.annotators, ())
    assert (other.texts, other.labels, other.event_ids) == (one.texts, one.labels, one.event_ids)
    assert (other.onset, other.encoder, other.first_offset, other.last_offset) == (20, Path("encoder"), 10, 59)
