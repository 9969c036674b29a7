"""Process sampler: slopes of constant growth, and of memory that is filled once."""

from __future__ import annotations

import pytest

from benchmarks.harness.process_sampler import Sample, Sampler


def test_memory_filled_once_has_no_later_growth() -> None:
    """Growth over the whole run still includes memory that is filled once."""
    sampler = Sampler(dict)
    looks = range(0, 3600, 36)
    sampler.samples = {
        "grows": [Sample(at, at, 100 + at / 60, 10) for at in looks],
        "fills": [Sample(at, at, 100 + min(at, 1200) / 20, 10 + (at > 1800)) for at in looks],
        "seen too shortly": [Sample(at, at, 100.0, 10) for at in range(5)],
    }
    grows, fills = sampler.growth()
    assert (grows.name, grows.samples, grows.mib_per_hour) == ("grows", 100, pytest.approx(60))
    assert grows.later_mib_per_hour == pytest.approx(60) and grows.files_per_hour == 0
    assert fills.mib == 160 and fills.mib_per_hour > 30 and fills.later_mib_per_hour == 0 and fills.files == 11
