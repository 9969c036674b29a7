"""The window: what is learnt from, what is kept aside."""

from pathlib import Path

import numpy as np

from retrain.window import MAX_HOLDOUT, MIN_HOLDOUT, Window


def window(n: int, onset: int) -> Window:
    return Window(
        event_ids=tuple(map(str, range(n))),
        texts=tuple(f"text {i}" for i in range(n)),
        labels=tuple("ab"[i % 2] for i in range(n)),
        embeddings=np.arange(n * 3, dtype=np.float32).reshape(n, 3),
        encoder=Path("encoder"),
        onset=onset,
        first_offset=10,
        last_offset=10 + n - 1,
    )


def test_the_newest_rows_since_the_onset_are_held_out_and_never_learnt() -> None:
    train, held = window(1000, 600).hold_out(0.2)
    assert held.event_ids == tuple(map(str, range(920, 1000))) and train.event_ids == tuple(map(str, range(920)))
    assert train.onset == 600 and not set(train.event_ids) & set(held.event_ids)
    assert (held.embeddings == window(1000, 600).embeddings[920:]).all()


def test_the_slice_is_neither_too_small_to_judge_by_nor_needlessly_large() -> None:
    assert len(window(1000, 950).hold_out(0.2)[1]) == MIN_HOLDOUT
    assert len(window(9000, 0).hold_out(0.2)[1]) == MAX_HOLDOUT
    train, held = window(20, 15).hold_out(0.2)
    assert (len(train), len(held)) == (10, 10) and train.onset == 10


def test_a_window_survives_the_way_to_a_child_process(tmp_path: Path) -> None:
    one = window(50, 20)
    one.save(tmp_path / "w")
    other = Window.load(tmp_path / "w")
    assert (other.embeddings == one.embeddings).all()
    assert (other.texts, other.labels, other.event_ids) == (one.texts, one.labels, one.event_ids)
    assert (other.onset, other.encoder, other.first_offset, other.last_offset) == (20, Path("encoder"), 10, 59)
