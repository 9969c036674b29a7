"""Memory and CPU time of this process and its descendants, and its start time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import psutil


class Usage:
    """Resource usage of this process and its descendants.

    The CPU time of a process includes the children that it has waited for, as the operating system counts it
    (times(2)). A child that lived between two measurements is therefore included.
    """

    def __init__(self) -> None:
        self.memory_mb = 0.0
        """Resident memory at the last measurement, in MiB. Shared pages count in each process."""
        self._total = 0.0
        self._known: dict[tuple[str, int], float] = {}

    def measure(self, roles: Mapping[str, int]) -> None:
        """Measure. ``roles`` maps names to the process ids of children; a child's descendants count under its name."""
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
        """Return the CPU seconds by name. ``rest`` is the name for this process and all others without a name."""
        found: dict[str, float] = {}
        for (name, _), used in self._known.items():
            found[name] = found.get(name, 0.0) + used
        return {**found, rest: max(self._total - sum(found.values()), 0.0)}


def process_start_time() -> float:
    """Return the start time of this process in Unix seconds, to about 10 ms.

    Linux counts the start from the boot and reports the boot in whole seconds (proc(5)), so the sum in psutil can be a
    second early. macOS reports the time itself.
    """
    created = float(psutil.Process().create_time())
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return created
    age: float = time.clock_gettime(time.CLOCK_BOOTTIME) - (created - psutil.boot_time())
    return time.time() - age
