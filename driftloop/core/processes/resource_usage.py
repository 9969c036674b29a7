"""Memory and CPU time of a process and all that it started, and when it was started itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import psutil


class Usage:
    """Looks at this process and everything below it.

    A process's CPU time counts its own and that of the children it has waited for, as the operating system adds it up
    (times(2)), so a child that lived between two looks is not lost.
    """

    def __init__(self) -> None:
        self.memory_mb = 0.0
        """Resident memory at the last look; pages that processes share count in each of them."""
        self._total = 0.0
        self._known: dict[tuple[str, int], float] = {}

    def measure(self, roles: Mapping[str, int]) -> None:
        """Measure; ``roles`` are the process ids of children by name, each of which stands for all below it."""
        me = psutil.Process()
        owners = {pid: name for name, pid in roles.items()}
        seconds: dict[tuple[str, int], float] = {}
        total = memory = 0.0
        for process in (me, *me.children(recursive=True)):  # parents come before their children
            with suppress(psutil.Error), process.oneshot():
                if process.pid not in owners and process.ppid() in owners:
                    owners[process.pid] = owners[process.ppid()]
                used = sum(process.cpu_times()[:4])
                memory += process.memory_info().rss
                total += used
                name = owners.get(process.pid)
                if name is not None:
                    seconds[name, roles[name]] = seconds.get((name, roles[name]), 0.0) + used
        self.memory_mb = memory / 2**20
        self._total = max(self._total, total)
        for key, used in seconds.items():
            self._known[key] = max(self._known.get(key, 0.0), used)

    def cpu_seconds(self, rest: str) -> dict[str, float]:
        """CPU seconds by name so far; what belongs to no name, this process included, under ``rest``."""
        found: dict[str, float] = {}
        for (name, _), used in self._known.items():
            found[name] = found.get(name, 0.0) + used
        return {**found, rest: max(self._total - sum(found.values()), 0.0)}


def process_start_time() -> float:
    """Unix seconds at which this process was started, to some 10 ms.

    Linux counts a process's start from the boot and gives the time of the boot in whole seconds (proc(5)), so that
    psutil's sum of the two may be a second early; macOS has the time itself.
    """
    told = float(psutil.Process().create_time())
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return told
    age: float = time.clock_gettime(time.CLOCK_BOOTTIME) - (told - psutil.boot_time())
    return time.time() - age
