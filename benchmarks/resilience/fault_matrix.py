"""Fault matrix: faults in a running loop, one after the other, with an audit after each.

    python -m benchmarks.resilience.fault_matrix                          # every victim, moment and action: an hour
    python -m benchmarks.resilience.fault_matrix --sample 10 --seed 3     # ten of them, drawn by the seed
    python -m benchmarks.resilience.fault_matrix --only scorer/idle/kill Kafka/idle/kill --runs 10

Victims are the scorer, the monitor, the retrainer, the producer, MLflow, Valkey and Kafka. Moments are points in the
work of the scorer, or of the victim itself if it has such a point: see `MOMENTS`. Recovery is the time from the fault
to the next prediction. If a frozen victim blocks the others, it includes the time of the freeze.
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
FAULTS_PER_LOOP = 8
"""Faults in one loop. The audit reads all of its messages."""
SECOND = "second scorer"
"""Scorer that is started to cause a rebalance, and removed."""
MOMENTS = {
    "idle": {},
    "mid-batch": {"scorer": "in-the-model", "monitor": "joined", "retrainer": "decided", "producer": "sending"},
    "sent": {"scorer": "sent", "monitor": "sent", "retrainer": "registered", "producer": "sent"},
    "acknowledged": {"scorer": "acknowledged", "monitor": "saved", "retrainer": "alias-moved"},
    "rebalance": {"scorer": "rebalance"},
    "swap": {"scorer": "model-loaded", "retrainer": "announced"},
    "update": {"scorer": "updated", "retrainer": "learnt"},
}
"""Points of each moment by the victim. The other victims have that of the scorer."""


class Fault(msgspec.Struct, frozen=True):
    """A fault of a victim at a moment."""

    victim: str
    moment: str
    action: str

    @property
    def name(self) -> str:
        """Name on the command line."""
        return f"{self.victim}/{self.moment}/{self.action}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a fault."""

    fault: Fault
    recovery: float | None
    """Seconds from the fault until a consumer reads the next prediction, to about 0.3 s. None without recovery."""
    events: int
    """Events on the topic so far."""
    findings: list[str]
    """Messages that were lost, duplicated or stalled. Empty if all is correct."""


FAULTS = [
    Fault(victim, moment, action)
    for victim in (*PROCESSES, *SERVICES)
    for moment in MOMENTS
    for action in ACTIONS
]  # fmt: skip


def main() -> int:
    """Print a table, and write its rows as JSON. Return 1 if a message was lost or duplicated, or nothing recovered."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resilience.fault_matrix", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="faults as victim/moment/action")
    parser.add_argument("--sample", type=int, metavar="N", help="number of faults, drawn by the seed")
    parser.add_argument("--seed", type=int, default=7, help="seed of the order and the sample (default: 7)")
    parser.add_argument("--runs", type=int, default=1, help="repetitions of each fault (default: 1)")
    parser.add_argument("--freeze", type=float, default=30.0, help="seconds that a process is frozen (default: 30)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(
            f"unknown fault {', '.join(sorted(unknown))}: give victim/moment/action. Victims are "
            f"{', '.join((*PROCESSES, *SERVICES))}, moments {', '.join(MOMENTS)}, actions {', '.join(ACTIONS)}."
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
    """Inject faults one after the other, in a new loop every `FAULTS_PER_LOOP`.

    Args:
        folder: Folder for the stack, logs and bundles.
        faults: Faults to inject.
        freeze: Seconds that a process is frozen.
    """
    rows: list[Row] = []
    with EmbeddedStack(folder / "stack") as stack:
        for first in range(0, len(faults), FAULTS_PER_LOOP):
            settings = stack.settings(Settings(stream=f"faults-{first}", topic_prefix=f"faults-{first}."))
            (folder / str(first)).mkdir()
            with LoopUnderLoad(stack, settings, folder / str(first)) as running:
                for fault in faults[first : first + FAULTS_PER_LOOP]:
                    rows.append(inject_fault(running, fault, freeze))
                    findings = "; ".join(rows[-1].findings) or "no message lost or duplicated"
                    recovery = "no recovery" if rows[-1].recovery is None else f"recovery in {rows[-1].recovery:.1f} s"
                    print(f"{len(rows)}/{len(faults)} {fault.name}: {recovery}; {findings}", file=sys.stderr)
    return rows


def inject_fault(running: LoopUnderLoad, fault: Fault, freeze: float = 30.0) -> Row:
    """Inject one fault, wait for the next prediction, and audit.

    Args:
        running: A running loop.
        fault: The fault.
        freeze: Seconds that a process is frozen.
    """
    name = SERVICES.get(fault.victim, fault.victim)
    try:
        # A process that ends repeatedly is restarted after longer and longer delays, and without a warm standby.
        running.until(f"recovery of {name} from the last fault", lambda: running.has_recovered(name))
        moment = _trigger(running, fault, name)
        with _resumed_after(running.pid(name), freeze) if fault.action == "freeze" else nullcontext():
            running.until("the next prediction", lambda: running.predicted_after(moment))
            recovery = time.time() - moment
        if SECOND in running.children:
            running.stop(SECOND)
        report = running.pause_and_audit()
        findings = [f"{one.count} {one.what} (first: {', '.join(one.first)})" for one in report.findings]
        findings += [f"not checked: {reason}" for reason in report.unchecked]
        if running.unlearnt:
            findings.append(f"{running.unlearnt} labels are unknown to the mixture")
        if report.counts["waiting"] or report.counts["labels_waiting"]:
            findings.append(f"stalled: {report.counts}")
        sent, missing, doubled = running.count_sent()
        findings += [f"{missing} events were never sent"] * bool(missing)
        findings += [f"{doubled} events were sent twice"] * bool(doubled)
        return Row(fault=fault, recovery=recovery, events=sent, findings=findings)
    except WaitTimeout as error:
        return Row(fault=fault, recovery=None, events=0, findings=[str(error)])


def _trigger(running: LoopUnderLoad, fault: Fault, name: str) -> float:
    """Bring the loop to the moment of the fault. Return the Unix time at which it happened."""
    points = MOMENTS[fault.moment]
    if fault.moment == "idle":
        running.pause_and_audit()
        running.signal(name, ACTIONS[fault.action])
        return time.time()
    watched = fault.victim if fault.victim in points else "scorer"
    if fault.moment == "rebalance":
        running.plan_fault(watched, points[watched], fault.action, name)
        running.start(SECOND, "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="second")
    elif fault.moment == "swap" or (watched == "retrainer" and fault.moment != "update"):
        running.plan_fault(watched, points[watched], fault.action, name)
        wrong = watched == "retrainer"  # the worse model makes the retrainer act
        running.begin_promotion(flipped=wrong, mixture=not wrong)
    else:
        running.plan_fault(watched, points[watched], fault.action, name)
    running.until(f"{fault.name}", lambda: running.fault_has_happened(watched))
    return time.time()


@contextmanager
def _resumed_after(pid: int, seconds: float) -> Iterator[None]:
    """Resume a frozen process after ``seconds``. The context ends no earlier."""
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGCONT))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def show(rows: Sequence[Row]) -> None:
    """Print a line for each victim and moment, and the recovery times by victim and action."""
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
        print(f"{victim:<10} {action:<8} {len(found_times):>4} {median(found_times):>7.1f} {max(found_times):>7.1f}")


def _seconds(times: Sequence[float]) -> str:
    return f"{median(times):.1f} s" if times else "–"


if __name__ == "__main__":
    sys.exit(main())
