"""Dashboard cost: CPU of `driftloop serve` with and without open tabs of the dashboard, on a running loop.

A simulation replays the tweets at a fixed rate. Periods without a tab and periods with some alternate. The browser is a
headless Chromium. Shares are of one core.

    python -m benchmarks.performance.dashboard_cost --tabs 5 --seconds 30 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks.harness.cli import save_json
from driftloop.core.errors import DriftloopError
from driftloop.core.processes.supervisor import LAUNCHER, ManagedProcess
from serving.demo.browser import launch

WARM_UP = 30.0
"""Seconds after the dashboard's first response that are not measured."""
PATIENCE = 180.0
"""Seconds after which waiting for the dashboard fails."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of the server with a number of open tabs."""

    tabs: int
    share: float
    """CPU seconds per second, median of the rounds."""
    shares: list[float]
    """CPU seconds per second of each round."""
    mib: float
    """Resident memory in MiB at the end of the last round."""


def measure(tabs: int, seconds: float, rounds: int, rate: float, folder: Path) -> list[Row]:
    """Measure the server without tabs and with some.

    Args:
        tabs: Number of open tabs.
        seconds: Duration of each period.
        rounds: Number of periods of each kind.
        rate: Events per second.
        folder: Folder for the run and its log.

    Returns:
        A row without tabs, and one with ``tabs``.

    Raises:
        DriftloopError: The simulation has started no dashboard.
    """
    command = [sys.executable, "-m", "driftloop", "simulate", "tweets", "--plain", "--out", str(folder / "run")]
    log = folder / "simulate.log"
    child = ManagedProcess("simulate", [*command, "--rate", str(rate)], env=dict(os.environ), log=log, grace=30.0)
    child.start()
    try:
        address = _address(child, log)
        server = _server(child)
        time.sleep(WARM_UP)
        shares: dict[int, list[float]] = {0: [], tabs: []}
        mib: dict[int, float] = {}
        with sync_playwright() as playwright:
            browser = launch(playwright)
            for number in range(rounds):
                for open_tabs in (0, tabs):
                    shares[open_tabs].append(_share(server, browser, address, open_tabs, seconds))
                    mib[open_tabs] = server.memory_info().rss / 2**20
                sys.stderr.write(f"round {number + 1} of {rounds}\n")
            browser.close()
        return [
            Row(
                tabs=number,
                share=round(median(found), 4),
                shares=[round(one, 4) for one in found],
                mib=round(mib[number]),
            )
            for number, found in shares.items()
        ]
    finally:
        child.stop()


def _address(child: ManagedProcess, log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = re.search(r"The live page is at (\S+)", log.read_text() if log.exists() else "")
        if found:
            return found[1]
        if child.poll() is not None:
            break
        time.sleep(0.2)
    raise DriftloopError(f"The simulation has shown no live page: {child.log_tail()}")


def _server(child: ManagedProcess) -> psutil.Process:
    below = psutil.Process(child.pid).children(recursive=True)
    # The command line of its launcher ends with the same words.
    found = {one.pid: one.cmdline() for one in below}
    (pid,) = (pid for pid, words in found.items() if words[-1:] == ["serve"] and str(LAUNCHER) not in words)
    return psutil.Process(pid)


def _share(server: psutil.Process, browser: Browser, address: str, tabs: int, seconds: float) -> float:
    context = browser.new_context()
    for _ in range(tabs):
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("canvas")
    time.sleep(5)  # the first seconds of a page cost more
    before, began = sum(server.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    share = (sum(server.cpu_times()[:2]) - before) / (time.monotonic() - began)
    context.close()
    time.sleep(5)
    return float(share)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance.dashboard_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--tabs", type=int, default=5, help="number of open tabs (default: 5)")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each period (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="periods of each kind (default: 3)")
    parser.add_argument("--rate", type=float, default=40.0, help="events per second (default: 40)")
    parser.add_argument("--out", "--json", type=Path, metavar="FILE", help="write the rows as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="driftloop-live-page-") as folder:
        rows = measure(options.tabs, options.seconds, options.rounds, options.rate, Path(folder))
    save_json(options.out, rows)
    print("| open tabs | share of a core | each round | MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.tabs} | {row.share:.1%} | {', '.join(f'{one:.1%}' for one in row.shares)} | {row.mib:.0f} |")
    alone, beside = rows
    print(
        f"\n{options.tabs} tabs cost {beside.share - alone.share:.1%} of a core at {options.rate:g} events per second."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
