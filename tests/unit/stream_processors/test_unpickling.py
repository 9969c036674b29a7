"""Unpickling: detectors that the version before has stored find the evidence that it would have found."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest

from stream_processors.drift import unpickling
from stream_processors.drift.drift_monitor import DriftMonitor
from stream_processors.drift.stored_state import Saved
from tests.recorded.detectors import NEXT, RECORDED, SPECS, STORED, watch


def recorded(name: str) -> bytes:
    return gzip.decompress((RECORDED / name).read_bytes())


def restored() -> DriftMonitor:
    """Return a monitor with the recorded state; skip if the state belongs to another version on purpose."""
    state = recorded("state.msgpack.gz")
    if not msgspec.msgpack.decode(state, type=Saved).readable:
        pytest.skip("detectors of that version begin anew: see `MADE_BY`")
    monitor = DriftMonitor(SPECS, "recorded")
    monitor.restore(state, [recorded("rows.msgpack.gz")])
    return monitor


def flat(found: list[dict[str, Any]]) -> list[float]:
    return [value for one in found for levels in one["levels"].values() for _, value in sorted(levels.items())]


EXPECTED = [json.loads(line) for line in recorded("next.jsonl.gz").splitlines()]


def test_restored_detectors_reproduce_recorded_evidence() -> None:
    found = watch(restored(), range(STORED, STORED + NEXT))
    assert [one["alerts"] for one in found] == [one["alerts"] for one in EXPECTED]
    assert len({alert[1] for one in EXPECTED for alert in one["alerts"]}) >= 4, "too few of the detectors alarmed"
    # The last digits of a logarithm or a matrix product depend on the processor.
    assert flat(found) == pytest.approx(flat(EXPECTED), rel=1e-9)


def test_control_detectors_that_begin_anew_find_other_evidence() -> None:
    monitor = DriftMonitor(SPECS, "recorded")
    found = watch(monitor, range(STORED, STORED + NEXT))
    assert [one["alerts"] for one in found] != [one["alerts"] for one in EXPECTED]
    assert flat(found) != pytest.approx(flat(EXPECTED), rel=1e-9)


@pytest.mark.parametrize(
    ("table", "missing"), [("MOVED", "No module named 'stream_processors.drift.fusion'"), ("RENAMED", "Fusion")]
)
def test_control_missing_name_table_makes_state_unreadable(
    table: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickling, table, {})
    with pytest.raises((ModuleNotFoundError, AttributeError), match=missing):
        restored()


def test_class_names_of_other_packages_stay_unchanged() -> None:
    """A custom class may have the name that one of ours had."""
    body = b"ccollections\nOrderedDict\n."
    assert unpickling.load_pickle(body).__name__ == "OrderedDict"
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        unpickling.load_pickle(b"celsewhere.fusion\nFusion\n.")
