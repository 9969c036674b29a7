"""Row buffer: the stored deltas restore the rows, and a monitor's state is restored only with its own rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from driftloop.core.settings import Settings
from stream_processors.drift.row_buffer import BufferDelta, RowBuffer
from stream_processors.monitoring.monitor import MAX_DELTAS, Monitor
from tests.unit.stream_processors.test_fused_detector import Stream


@pytest.mark.parametrize("seed", range(20))
def test_stored_deltas_restore_the_buffer(seed: int) -> None:
    rng, kept, stored = random.Random(seed), RowBuffer[int](50), list[BufferDelta[int]]()
    for _ in range(100):
        for _ in range(rng.choice([0, 1, 7, 30, 120])):
            kept.append(rng.randrange(1000))
        if rng.random() < 0.1:
            kept.replace(row for row in list(kept) if row % 2)
        if rng.random() < 0.05:
            kept.replace(())
        stored.append(kept.take_delta())
        again = RowBuffer[int](50)
        for part in stored:
            again.apply(part)
        assert list(again) == list(kept) == kept.all().rows
    assert any(part.complete for part in stored[1:]) and not all(part.complete for part in stored)


class Stored:
    """Part of the online store that holds a monitor's state."""

    def __init__(self) -> None:
        self.saved: bytes | None = None
        self.rows: list[bytes] = []
        self.anew = 0

    def save_join(self, name: str, state: bytes, rows: bytes, *, anew: bool, **_: Any) -> None:
        self.saved, self.rows = state, [*([] if anew else self.rows), rows]
        self.anew += anew


def monitor(store: Stored) -> Monitor:
    made = Monitor(Settings())
    made._store = store  # type: ignore[assignment]
    return made


def fed(store: Stored, batches: int) -> tuple[Monitor, Stream]:
    """Return a monitor that has seen a stream, and stored its state after each ten events."""
    made, stream = monitor(store), Stream()
    stream.watch = made._detection
    for _ in range(batches):
        stream.play(10)
        made._save()
    return made, stream


def test_monitor_state_is_restored_with_row_deltas() -> None:
    """Process stores all rows at its start, and again from time to time."""
    store = Stored()
    made, _ = fed(store, MAX_DELTAS + 10)
    assert store.anew == 2 and len(store.rows) == 10, "from time to time all is stored anew"
    other = monitor(store)
    assert store.saved is not None and other._restore(store.saved, store.rows)
    assert other._detection.rows() == made._detection.rows() and other._detection.levels == made._detection.levels
    other._save()
    assert store.anew == 3 and len(store.rows) == 1, "a process stores all at its beginning"


@pytest.mark.parametrize("harm", ["lost", "added", "swapped", "altered"])
def test_state_with_wrong_rows_is_not_restored(harm: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Stored()
    fed(store, 8)
    rows = list(store.rows)
    match harm:
        case "lost":
            del rows[3]
        case "added":
            rows.append(rows[-1])
        case "swapped":
            rows[3], rows[4] = rows[4], rows[3]
        case "altered":
            rows[3] = rows[3].replace(b"word", b"w0rd", 1)
    assert rows != store.rows
    other = monitor(store)
    assert store.saved is not None and not other._restore(store.saved, rows)
    assert "its observations are not those that it has seen" in caplog.text
    assert other._detection.outcomes == 0, "it begins anew"
