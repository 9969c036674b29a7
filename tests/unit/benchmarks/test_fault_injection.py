"""Fault injection: every change and every point names code that exists, and a wrong name is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.harness import fault_injection
from benchmarks.harness.fault_injection import Point, arm, patch

ROOT = Path(__file__).parents[3]
APPLY_ALL = """
import sys
from pathlib import Path
from benchmarks.harness.fault_injection import CHANGES, POINTS, arm
CHANGES["clock-steps"]()  # the first: the others import kafka-python
for name, change in CHANGES.items():
    if name != "clock-steps":
        change()
points = [(name, point) for role in POINTS.values() for name, point in role.items()]
for name, point in points:
    arm(name, point, Path("no-plan"))
print(len(CHANGES), len(points))
"""


def test_patch_of_a_missing_name_is_an_error() -> None:
    owner = SimpleNamespace(present=1)
    patch(owner, "present", 2)
    assert owner.present == 2
    with pytest.raises(AttributeError, match="no attribute 'absent' to replace"):
        patch(owner, "absent", 2)
    assert not hasattr(owner, "absent")


def test_change_with_renamed_target_raises_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_processors.runtime.offsets import OffsetTracker

    monkeypatch.delattr(OffsetTracker, "check")
    with pytest.raises(AttributeError, match="'check'"):
        fault_injection.no_positions()


def test_clock_fault_refuses_imported_kafka_client() -> None:
    import kafka.record.default_records  # noqa: F401 - what the fault looks for

    with pytest.raises(RuntimeError, match="kafka-python is imported already"):
        fault_injection.clock_steps()


@pytest.mark.parametrize("function", ["producers.sender:Sender.absent", "producers.sender:Absent.event"])
def test_a_point_without_a_function_is_an_error(function: str, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="bsent"):
        arm("sending", Point(function), tmp_path / "plan")


def test_every_change_and_every_point_finds_its_target(tmp_path: Path) -> None:
    env = {**os.environ, "FAULTY_SKIP": str(tmp_path / "skip"), "FAULTY_CLOCK": str(tmp_path / "clock")}
    (tmp_path / "clock").write_text("0")
    done = subprocess.run([sys.executable, "-c", APPLY_ALL], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    points = sum(map(len, fault_injection.POINTS.values()))
    assert done.stdout.split() == [str(len(fault_injection.CHANGES)), str(points)]
