"""Samples of the memory and open files of processes, and their growth per hour."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
import numpy as np
import psutil

MIB = 2**20


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its running descendants."""
    process = psutil.Process(pid)
    return float(sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True))))


class Sample(msgspec.Struct, frozen=True):
    """Memory and open files of a process at one moment."""

    at: float
    """Seconds since the sampler began."""
    age: float
    """Seconds since the process began."""
    mib: float
    """Resident memory in MiB."""
    files: int
    """Number of open file descriptors."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Growth of one process."""

    name: str
    samples: int
    mib: float
    """Resident memory in MiB, median of the last third of the samples."""
    mib_per_hour: float
    """Slope of a straight line through the samples (least squares)."""
    later_mib_per_hour: float
    """Slope through the later half of the samples. Memory that is filled once does not count here."""
    files: int
    """Open file descriptors, median of the last third of the samples."""
    files_per_hour: float
    """Slope of a straight line through the samples."""


class Sampler:
    """Samples processes every few seconds. Use it as a context manager.

    Args:
        pids: Called for each sample, returns the process ids by name.
        every: Seconds between two samples.
        settled: Seconds after a process's start that are not sampled, because it is still loading.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]], every: float = 2.0, settled: float = 20.0) -> None:
        self._pids = pids
        self._every = every
        self._settled = settled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sampler")
        self._began = time.time()
        self.samples: dict[str, list[Sample]] = {}

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self) -> list[Growth]:
        """Return the growth of each process with six samples or more."""
        rows = []
        for name, samples in self.samples.items():
            if len(samples) < 6:
                continue
            last, later = samples[-len(samples) // 3 :], samples[len(samples) // 2 :]
            rows.append(
                Growth(
                    name=name,
                    samples=len(samples),
                    mib=round(float(np.median([one.mib for one in last])), 1),
                    mib_per_hour=round(_slope(samples, [one.mib for one in samples]), 1),
                    later_mib_per_hour=round(_slope(later, [one.mib for one in later]), 1),
                    files=int(np.median([one.files for one in last])),
                    files_per_hour=round(_slope(samples, [float(one.files) for one in samples]), 1),
                )
            )
        return rows

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for name, pid in dict(self._pids()).items():
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    age = time.time() - process.create_time()
                    if age > self._settled:
                        sample = Sample(
                            time.time() - self._began, age, process.memory_info().rss / MIB, process.num_fds()
                        )
                        self.samples.setdefault(name, []).append(sample)


def print_growth(rows: list[Growth]) -> None:
    """Print one line for each process."""
    print(f"{'process':<14} {'samples':>7} {'MiB':>7} {'MiB/h':>9} {'later half':>11} {'files':>6} {'files/h':>9}")
    for row in sorted(rows, key=lambda row: row.name):
        print(
            f"{row.name:<14} {row.samples:>7} {row.mib:>7.0f} {row.mib_per_hour:>9.1f} "
            f"{row.later_mib_per_hour:>11.1f} {row.files:>6} {row.files_per_hour:>9.1f}"
        )


def _slope(samples: list[Sample], values: list[float]) -> float:
    """Return the slope per hour."""
    return float(np.polyfit([one.at / 3600 for one in samples], values, 1)[0])
