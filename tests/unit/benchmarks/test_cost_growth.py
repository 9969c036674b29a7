"""Cost growth and backpressure: throughput by tenths, and the plots."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.performance.cost_growth import Point, draw
from benchmarks.resilience.backpressure import _tenths


def test_throughput_is_measured_per_tenth_of_stream() -> None:
    steady = [(second, 100 * second) for second in range(101)]
    assert _tenths([(float(at), count) for at, count in steady], 10_000) == [100.0] * 10
    slower = [*((float(at), 100 * at) for at in range(51)), *((50.0 + 2 * at, 5000 + 100 * at) for at in range(1, 51))]
    assert _tenths(slower, 10_000) == [100.0] * 5 + [50.0] * 5


def test_first_tenth_excludes_count_before_first_sample() -> None:
    assert _tenths([(10.0 + at, 1000 + 90 * at) for at in range(101)], 10_000) == pytest.approx([90.0] * 10)


def test_plot_shows_every_dimension_and_role(tmp_path: Path) -> None:
    points = [
        Point(what=what, value=value, role=role, ms=0.1 * value, lowest=0.0, highest=1.0)
        for what, role in (("classes", "scorer"), ("classes", "monitor"), ("words", "scorer"))
        for value in (2, 8)
    ]
    draw(points, tmp_path / "one" / "growth.svg")
    drawn = (tmp_path / "one" / "growth.svg").read_text()
    assert all(word in drawn for word in ("classes", "words", "scorer", "monitor", "ms of a core"))
    draw(points, tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_text() == drawn, "the same points give the same file"
