"""Faults happen to a running loop, one after the other; after each, the ledger says what was lost or doubled.

    python -m benchmarks.resilience.fault_matrix                          # every victim, moment and action: about an hour
    python -m benchmarks.resilience.fault_matrix --sample 10 --seed 3     # ten of them, drawn by the seed
    python -m benchmarks.resilience.fault_matrix --only scorer/idle/kill Kafka/idle/kill --runs 10

Victims are the scorer, the monitor, the retrainer, the producer, MLflow, Valkey and Kafka. Moments are points in the
work of the scorer, or of the victim itself where it has such: see `MOMENTS`. Recovery is the time from the fault to the
next prediction; where what is frozen holds the others up, it holds the freezing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.harness.cli import save_json
from benchmarks.harness.fault_injection import ACTIONS
from benchmarks.harness.loop_under_load import LoopUnderLoad, WaitTimeout
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack

PROCESSES = ("scorer", "monitor", "retrainer", "producer")
SERVICES = {"MLflow": "mlflow", "Valkey": "valkey", "Kafka": "kafka"}
AT_ONCE = 8
"""Faults that happen to one loop."""
SECOND = "second scorer"
"""Comes so that there is a rebalance, and goes."""
MOMENTS = {
    "idle": {},
    "mid-batch": {"scorer": "in-the-model", "monitor": "joined", "retrainer": "decided", "producer": "sending"},
    "sent": {"scorer": "sent", "monitor": "sent", "retrainer": "registered", "producer": "sent"},
    "acknowledged": {"scorer": "acknowledged", "monitor": "saved", "retrainer": "alias-moved"},
    "rebalance": {"scorer": "rebalance"},
    "swap": {"scorer": "model-loaded", "retrainer": "announced"},
}
"""By moment, at which point of whose work the victim is struck; others than those named, at the scorer's."""


class Fault(msgspec.Struct, frozen=True):
    """What happens, to whom, and when."""

    victim: str
    moment: str
    action: str

    @property
    def name(self) -> str:
        """As it is given on the command line."""
        return f"{self.victim}/{self.moment}/{self.action}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a fault."""

    fault: Fault
    recovery: float | None
    """Seconds from the fault until a reader of the topic sees the next prediction; a look takes some 0.3 s."""
    events: int
    """On the topic so far."""
    findings: list[str]
    """What the ledger has to complain of; nothing is what it should be."""


FAULTS = [
    Fault(victim, moment, action)
    for victim in (*PROCESSES, *SERVICES)
    for moment in MOMENTS
    for action in ACTIONS
]  # fmt: skip


def main() -> int:
    """Print a table, and write its rows as JSON; 1 where anything was lost or doubled, or did not come back."""
    parser = argparse.ArgumentParser(prog="benchmarks.resilience.fault_matrix", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", help="faults as victim/moment/action")
    parser.add_argument("--sample", type=int, help="how many faults, drawn by the seed")
    parser.add_argument("--seed", type=int, default=7, help="of the order and the sample")
    parser.add_argument("--runs", type=int, default=1, help="how often each fault happens")
    parser.add_argument("--freeze", type=float, default=30.0, help="seconds that a frozen process is frozen")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    strange = set(options.only or ()) - {fault.name for fault in FAULTS}
    if strange:
        parser.error(
            f"there is no fault {', '.join(sorted(strange))}: a victim is {', '.join((*PROCESSES, *SERVICES))}"
        )
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only] * options.runs
    random.Random(options.seed).shuffle(faults)
    faults = faults[: options.sample]
    print(f"{len(faults)} faults, seed {options.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="driftloop-faults-") as folder:
        rows = run_faults(Path(folder), faults, options.freeze)
    show(rows)
    save_json(options.out, rows)
    return int(any(row.findings for row in rows))


def run_faults(folder: Path, faults: Sequence[Fault], freeze: float) -> list[Row]:
    """Let the faults happen one after the other; a new loop every `AT_ONCE`, for the ledger reads all of it."""
    rows: list[Row] = []
    with EmbeddedStack(folder / "stack") as stack:
        for first in range(0, len(faults), AT_ONCE):
            settings = stack.settings(Settings(stream=f"faults-{first}", topic_prefix=f"faults-{first}."))
            (folder / str(first)).mkdir()
            with LoopUnderLoad(stack, settings, folder / str(first)) as running:
                for fault in faults[first : first + AT_ONCE]:
                    rows.append(inject_fault(running, fault, freeze))
                    words = "; ".join(rows[-1].findings) or "nothing lost, nothing doubled"
                    after = "" if rows[-1].recovery is None else f" after {rows[-1].recovery:.1f} s"
                    print(f"{len(rows)}/{len(faults)} {fault.name}: next prediction{after}; {words}", file=sys.stderr)
    return rows


def inject_fault(running: LoopUnderLoad, fault: Fault, freeze: float = 30.0) -> Row:
    """Let one fault happen, wait until predictions come again, and ask the ledger."""
    name = SERVICES.get(fault.victim, fault.victim)
    try:
        # One that ends again and again is started again later and later, and has no spare.
        running.until(f"a {name} that is over the last fault", lambda: running.has_recovered(name))
        moment = _happen(running, fault, name)
        with _thawing(running.pid(name), freeze) if fault.action == "freeze" else nullcontext():
            running.until("the next prediction", lambda: running.predicted_after(moment))
            recovery = time.time() - moment
        if SECOND in running.children:
            running.stop(SECOND)
        said = running.pause_and_audit()
        findings = [f"{one.count} {one.what} (first: {', '.join(one.first)})" for one in said.findings]
        findings += [f"not looked at: {reason}" for reason in said.unchecked]
        if said.counts["waiting"] or said.counts["labels_waiting"]:
            findings.append(f"stalled: {said.counts}")
        sent, missing, doubled = running.count_sent()
        findings += [f"{missing} events were never sent"] * bool(missing)
        findings += [f"{doubled} events were sent twice"] * bool(doubled)
        return Row(fault=fault, recovery=recovery, events=sent, findings=findings)
    except WaitTimeout as error:
        return Row(fault=fault, recovery=None, events=0, findings=[str(error)])


def _happen(running: LoopUnderLoad, fault: Fault, name: str) -> float:
    """Bring the loop to the moment; returns when the fault happened, in Unix time."""
    points = MOMENTS[fault.moment]
    if fault.moment == "idle":
        running.pause_and_audit()
        running.signal(name, ACTIONS[fault.action])
        return time.time()
    watched = fault.victim if fault.victim in points else "scorer"
    if fault.moment == "rebalance":
        running.plan_fault(watched, points[watched], fault.action, name)
        running.start(SECOND, "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="second")
    elif fault.moment == "swap" or watched == "retrainer":
        running.plan_fault(watched, points[watched], fault.action, name)
        running.harness.promote(flipped=watched == "retrainer")  # the worse model makes the retrainer act
    else:
        running.plan_fault(watched, points[watched], fault.action, name)
    running.until(f"{fault.name}", lambda: running.fault_has_happened(watched))
    return time.time()


@contextmanager
def _thawing(pid: int, seconds: float) -> Iterator[None]:
    """Let a frozen process go on after ``seconds``; over when it does."""
    thaw = threading.Timer(seconds, os.kill, (pid, signal.SIGCONT))
    thaw.start()
    try:
        yield
    finally:
        thaw.join()


def show(rows: Sequence[Row]) -> None:
    """A line for each victim and moment, and the recovery times by victim and action."""
    print(f"{'victim':<10} {'moment':<13} " + " ".join(f"{action:>8}" for action in ACTIONS) + "  findings")
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.fault.victim, row.fault.moment][row.fault.action].append(row)
    for (victim, moment), by_action in sorted(cells.items()):
        times = [_seconds([r.recovery for r in by_action[action] if r.recovery is not None]) for action in ACTIONS]
        found = sum(len(row.findings) for column in by_action.values() for row in column)
        print(f"{victim:<10} {moment:<13} " + " ".join(f"{text:>8}" for text in times) + f"  {found}")
    print(f"\n{'victim':<10} {'action':<8} {'runs':>4} {'p50, s':>7} {'max, s':>7}")
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.recovery is not None:
            groups[row.fault.victim, row.fault.action].append(row.recovery)
    for (victim, action), found_times in sorted(groups.items()):
        middle, most = median(found_times), max(found_times)
        print(f"{victim:<10} {action:<8} {len(found_times):>4} {middle:>7.1f} {most:>7.1f}")


def _seconds(times: Sequence[float]) -> str:
    return f"{median(times):.1f} s" if times else "–"


if __name__ == "__main__":
    sys.exit(main())
