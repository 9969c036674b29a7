"""Soak test: random faults every 10 to 20 seconds in a loop under load, with an audit at the end.

    python -m benchmarks.resilience.soak --minutes 30 --seed 7

The seed, which is printed, draws the faults. Processes and services are killed, terminated or frozen for some seconds.
Models are promoted, a scorer is added and removed, malformed messages are sent, the store is flushed. Predictions stay
in the store for three minutes, so that its memory can be constant. The growth of memory and open files is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from benchmarks.harness import process_sampler
from benchmarks.harness.cli import save_json
from benchmarks.harness.fault_injection import ACTIONS
from benchmarks.harness.loop_under_load import LoopUnderLoad, WaitTimeout
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import EVENTS
from driftloop.devstack.stack import SERVICES, EmbeddedStack
from serving.audit.audit import Audit

VICTIMS = ("scorer", "monitor", "retrainer", "producer", *SERVICES)
SECOND = "second scorer"
KEEP_HOURS = 0.05
"""Hours that predictions stay in the store."""
MALFORMED = (b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"event_id": 5}', b'{"event_id": "\\ud800"}', b"x" * 70_000)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the soak test."""

    seed: int
    seconds: float
    faults: dict[str, int]
    """Number of occurrences of each fault."""
    audit: Audit
    unlearnt: int
    """Labels that the champion's mixture has not learnt."""
    never_sent: int
    """Missing positions between the events on the topic."""
    stalled: str
    """Error of the last prediction that did not arrive. Empty if it arrived."""
    growth: list[process_sampler.Growth]

    @property
    def clean(self) -> bool:
        """True if every message was processed exactly once."""
        counts = self.audit.counts
        processed = counts["waiting"] == counts["labels_waiting"] == 0
        return self.audit.clean and not self.unlearnt and not self.never_sent and not self.stalled and processed


def main() -> int:
    """Print the outcome. Return 1 if a message was lost, duplicated or stalled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resilience.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="duration of the load (default: 30)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000, help="seed of the faults (default: any)")
    parser.add_argument("--rate", type=float, default=40.0, help="events per second (default: 40)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="driftloop-soak-") as folder,
        EmbeddedStack(Path(folder) / "stack") as stack,
    ):
        settings = replace(stack.settings(Settings(stream="soak", topic_prefix="soak.")), keep_hours=KEEP_HOURS)
        done = soak(stack, settings, Path(folder), options.minutes * 60, options.seed, options.rate)
    show(done)
    save_json(options.out, done)
    return int(not done.clean)


def soak(
    stack: EmbeddedStack,
    settings: Settings,
    folder: Path,
    seconds: float,
    seed: int,
    rate: float,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    pause: tuple[float, float] = (10.0, 20.0),
) -> Soak:
    """Run a loop with random faults.

    Args:
        stack: A started stack.
        settings: A stream whose topics do not exist yet.
        folder: Folder for logs, plans and bundles.
        seconds: Duration of the load.
        seed: Seed of the faults.
        rate: Events per second.
        report: Called with a line about each fault.
        pause: Minimum and maximum seconds between two faults.
    """
    rng = random.Random(seed)
    happened: Counter[str] = Counter()
    with LoopUnderLoad(stack, settings, folder, rate=rate, rows=int(rate * (seconds + 600))) as running:
        began = time.monotonic()
        with process_sampler.Sampler(lambda: _pids(running)) as sampler:
            while time.monotonic() - began < seconds:
                time.sleep(rng.uniform(*pause))
                fault = _random_fault(running, rng)
                happened[fault] += 1
                report(f"{time.monotonic() - began:6.0f} s: {fault}")
            lasted = time.monotonic() - began
        stalled, moment = "", time.time()
        try:
            running.until("a prediction", lambda: running.predicted_after(moment))
        except WaitTimeout as error:
            stalled = str(error)
        running.count_sent()  # gaps before the events on the topic now cannot be filled any more
        found = running.pause_and_audit()
        _, never_sent, _ = running.count_sent()
    return Soak(
        seed=seed,
        seconds=round(lasted),
        faults=dict(sorted(happened.items())),
        audit=found,
        unlearnt=running.unlearnt,
        never_sent=never_sent,
        stalled=stalled,
        growth=sampler.growth(),
    )


def _random_fault(running: LoopUnderLoad, rng: random.Random) -> str:
    """Inject one random fault and return its name."""
    kind = rng.choices(["signal", "promotion", "second scorer", "malformed", "flush"], [10, 2, 2, 2, 1])[0]
    if kind == "promotion":
        wrong = rng.random() < 0.3
        with suppress(Exception):  # MLflow may be down, and then no model is promoted
            running.harness.promote(flipped=wrong, mixture=not wrong)
        return "a model is promoted"
    if kind == "second scorer":
        if SECOND in running.children:
            running.stop(SECOND)
            return "the second scorer is removed"
        running.start(SECOND, "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="second")
        return "a second scorer is added"
    if kind == "malformed":
        for number in range(rng.randint(1, 30)):
            running.harness.outbox.put(EVENTS.name, f"malformed-{rng.random()}-{number}", rng.choice(MALFORMED))
        running.harness.outbox.flush()
        return "malformed events are sent"
    if kind == "flush":
        with suppress(Exception):  # the store may be down
            store = OnlineStore(running.settings)
            store.client.delete(*store.client.scan_iter(store.key("*"), count=1000))
        return "the store is flushed"
    victim, action = rng.choice(VICTIMS), rng.choice(list(ACTIONS))
    pid = running.pid(victim)
    with suppress(ProcessLookupError):
        os.kill(pid, ACTIONS[action])
        if action == "freeze":
            time.sleep(rng.uniform(2, 8))
            os.kill(pid, signal.SIGCONT)
    return f"{victim}: {action}"


def _pids(running: LoopUnderLoad) -> dict[str, int]:
    own = {name: child.pid for name, child in list(running.children.items())}
    return running.stack.pids | {name: pid for name, pid in own.items() if pid is not None}


def show(done: Soak) -> None:
    """Print the faults, the audit, and the growth of the processes."""
    print(f"{done.seconds} s, {sum(done.faults.values())} faults, seed {done.seed}")
    for fault, count in done.faults.items():
        print(f"  {count:>3} {fault}")
    missing = f"{done.never_sent} never sent, {done.unlearnt} labels unlearnt"
    print(f"{done.audit.verdict}: {done.audit.counts}; {missing} {done.stalled}")
    for finding in done.audit.findings:
        print(f"  {finding.kind}: {finding.count} {finding.what} (first: {', '.join(finding.first)})")
    process_sampler.print_growth(done.growth)


if __name__ == "__main__":
    sys.exit(main())
