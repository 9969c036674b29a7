"""CPU time and memory of processes, counted with all that they started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from driftloop.cli import run_directory
from driftloop.cli.simulation.session import record_session
from driftloop.cli.simulation.simulation import Report
from driftloop.core.processes.resource_usage import Usage

BURN = """
import os, subprocess, sys
def work(): sum(i * i for i in range(1_500_000))
work()
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(sum(os.times()[:4]), flush=True)
sys.stdin.read()
"""
GRANDCHILD = "sum(i * i for i in range(3_000_000))"


@contextmanager
def burning(*arguments: str) -> Iterator[tuple[int, float]]:
    """A process that has worked and now waits, and the CPU seconds that it has counted for itself and its children."""
    command = [sys.executable, "-c", BURN, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.pid, float(child.stdout.readline())
        finally:
            child.kill()


def test_child_cpu_time_includes_ended_grandchildren() -> None:
    usage = Usage()
    with burning(GRANDCHILD) as (pid, counted), burning() as (other, little):
        usage.measure({"score": pid, "monitor": other})
        used = usage.cpu_seconds("rest")
        assert usage.memory_mb > psutil.Process(pid).memory_info().rss / 2**20
    assert counted <= used["score"] <= counted + 0.5
    assert little <= used["monitor"] <= little + 0.5
    assert set(used) == {"score", "monitor", "rest"} and used["rest"] >= 0.0


def test_restarted_child_adds_to_earlier_cpu_time() -> None:
    usage = Usage()
    with burning() as (pid, first):
        usage.measure({"score": pid})
    usage.measure({})
    with burning() as (pid, second):
        usage.measure({"score": pid})
    assert usage.cpu_seconds("rest")["score"] >= first + second


def test_ended_child_cpu_time_is_counted_once() -> None:
    """The operating system then adds its time to that of the process that waited for it, which is this one."""
    usage = Usage()
    usage.measure({})
    before = usage.cpu_seconds("rest")["rest"]
    with burning() as (pid, counted):
        usage.measure({"score": pid})
    usage.measure({})
    used = usage.cpu_seconds("rest")
    # Other tests may have left a child of this process running, such as multiprocessing's fork server.
    me = psutil.Process()
    everything = sum(sum(one.cpu_times()[:4]) for one in (me, *me.children(recursive=True)))
    assert used["score"] >= counted
    assert before <= used["rest"] and used["score"] + used["rest"] <= everything + 0.05


def test_a_resumed_run_adds_up_its_sessions(tmp_path: Path) -> None:
    record = run_directory.Record(scenario="tweets", cpu_seconds={"score": 2.0, "kafka": 1.0})
    report = Report(
        seconds=1.0,
        first_prediction_seconds=None,
        first_promotion_seconds=None,
        peak_memory_mb=1.0,
        cpu_seconds={"score": 3.0, "monitor": 0.5},
        restarts={},
        interrupted=False,
        missing="",
    )
    added = record_session(tmp_path, record, report)
    assert added.cpu_seconds == {"score": 5.0, "kafka": 1.0, "monitor": 0.5}


def test_process_start_time_is_accurate() -> None:
    code = (
        "import time; time.sleep(0.3); from driftloop.core.processes import resource_usage; "
        "print(resource_usage.process_start_time())"
    )
    before = time.time()
    started = float(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    assert before - 0.05 < started < before + 0.3  # by the boot's time in whole seconds it would be anywhere before
