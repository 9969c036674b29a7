"""Faults at random, every 10 to 20 seconds, to a loop under load; at the end the ledger, memory and open files.

    python -m benchmarks.resilience.soak --minutes 30 --seed 7

What happens is drawn by the seed, which is printed: processes and services are killed, frozen for some seconds and told
to end, models are swapped, a scorer comes and goes, hostile messages arrive, the store is emptied. Predictions are kept
in the store for three minutes, so that its memory can be flat.
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
HOSTILE = (b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"event_id": 5}', b'{"event_id": "\\ud800"}', b"x" * 70_000)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    seed: int
    seconds: float
    faults: dict[str, int]
    """How often what happened."""
    audit: Audit
    never_sent: int
    """Events missing on the topic between others."""
    stalled: str
    """What did not come through at the end; empty: everything did."""
    growth: list[process_sampler.Growth]

    @property
    def clean(self) -> bool:
        """Whether everything is there once."""
        counts = self.audit.counts
        through = counts["waiting"] == counts["labels_waiting"] == 0
        return self.audit.clean and not self.never_sent and not self.stalled and through


def main() -> int:
    """Print what happened and three tables; 1 where anything was lost, doubled or stalled."""
    parser = argparse.ArgumentParser(prog="benchmarks.resilience.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000)
    parser.add_argument("--rate", type=float, default=40.0, help="events per second")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
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
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    pause: tuple[float, float] = (10.0, 20.0),
) -> Soak:
    """Hurt a loop on ``stack`` for ``seconds``; seconds between two faults are drawn from ``pause``."""
    rng = random.Random(seed)
    happened: Counter[str] = Counter()
    with LoopUnderLoad(stack, settings, folder, rate=rate, rows=int(rate * (seconds + 600))) as running:
        began = time.monotonic()
        with process_sampler.Sampler(lambda: _pids(running)) as sampler:
            while time.monotonic() - began < seconds:
                time.sleep(rng.uniform(*pause))
                what = _something(running, rng)
                happened[what] += 1
                say(f"{time.monotonic() - began:6.0f} s: {what}")
            lasted = time.monotonic() - began
        stalled, moment = "", time.time()
        try:
            running.until("a prediction", lambda: running.predicted_after(moment))
        except WaitTimeout as error:
            stalled = str(error)
        running.count_sent()  # what is on the topic now has no gaps that may still be filled
        said = running.pause_and_audit()
        _, never_sent, _ = running.count_sent()
    return Soak(
        seed=seed,
        seconds=round(lasted),
        faults=dict(sorted(happened.items())),
        audit=said,
        never_sent=never_sent,
        stalled=stalled,
        growth=sampler.growth(),
    )


def _something(running: LoopUnderLoad, rng: random.Random) -> str:
    """Let one thing happen, and say what."""
    kind = rng.choices(["signal", "swap", "second scorer", "hostile", "empty store"], [10, 2, 2, 2, 1])[0]
    if kind == "swap":
        with suppress(Exception):  # MLflow may be down: then there is no swap
            running.harness.promote(flipped=rng.random() < 0.3)
        return "a model is swapped"
    if kind == "second scorer":
        if SECOND in running.children:
            running.stop(SECOND)
            return "the second scorer goes"
        running.start(SECOND, "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="second")
        return "a second scorer comes"
    if kind == "hostile":
        for number in range(rng.randint(1, 30)):
            running.harness.outbox.put(EVENTS.name, f"hostile-{rng.random()}-{number}", rng.choice(HOSTILE))
        running.harness.outbox.flush()
        return "hostile events"
    if kind == "empty store":
        with suppress(Exception):  # it may be down
            store = OnlineStore(running.settings)
            store.client.delete(*store.client.scan_iter(store.key("*"), count=1000))
        return "the store is emptied"
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
    """What happened, the ledger, and how the processes grew."""
    print(f"{done.seconds} s, {sum(done.faults.values())} faults, seed {done.seed}")
    for what, often in done.faults.items():
        print(f"  {often:>3} {what}")
    print(f"{done.audit.verdict}: {done.audit.counts}; {done.never_sent} never sent {done.stalled}")
    for finding in done.audit.findings:
        print(f"  {finding.kind}: {finding.count} {finding.what} (first: {', '.join(finding.first)})")
    process_sampler.print_growth(done.growth)


if __name__ == "__main__":
    sys.exit(main())
