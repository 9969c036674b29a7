"""Fault injection: a process of the loop in which a signal is sent at a named point of its work.

    python -m benchmarks.harness.fault_injection score PLAN
    python -m benchmarks.harness.fault_injection score PLAN no-dedupe

A fault is planned by writing ``POINT ACTION PID`` into the file PLAN (`write_plan`). The next time that the process
reaches that point, it removes the file and sends the signal, to itself if PID is 0. Words after PLAN name `CHANGES`.
Most of them remove a protection, for the negative control of a test: without it the same fault must be found by
`driftloop audit`. The code under test is not aware of this, because its functions are wrapped. On SIGQUIT the process
writes the stack of each thread to its log.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from driftloop.core.files import write_atomic
from driftloop.core.observability import logs
from driftloop.core.settings_source import load

ACTIONS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "end": signal.SIGTERM}
"""Signal of each action."""


@dataclass(frozen=True)
class Point:
    """A point in a process's work: before a function is called, or before it returns."""

    function: str
    """Name as ``package.module:Class.method``."""
    after: bool = False
    """True for the moment before the function returns."""
    when: Callable[..., bool] = lambda *arguments: True
    """Called with the function's arguments. Returns True if this call counts."""


def _partitions_revoked(_progress: Any, partitions: Any) -> bool:
    return partitions is None


SCORER, MONITOR = "stream_processors.scoring.scorer:Scorer", "stream_processors.monitoring.monitor:Monitor"
LEARNER = "retrain.mixture.champion_learner:VersionLearner"
FLUSH = Point("driftloop.core.kafka.clients:ConfirmedProducer.flush")
REBALANCE = Point("stream_processors.runtime.liveness:LivenessMonitor.owns", when=_partitions_revoked)

MODULES = {
    "score": "stream_processors.scoring.scorer",
    "monitor": "stream_processors.monitoring.monitor",
    "retrain": "retrain.worker",
}
POINTS: dict[str, dict[str, Point]] = {
    "score": {
        "batch-taken": Point(f"{SCORER}.read"),
        "in-the-model": Point(f"{SCORER}._score"),
        "stored": Point("driftloop.core.online_store:OnlineStore.put_predictions", after=True),
        "sent": FLUSH,
        "acknowledged": Point(f"{SCORER}.deliver", after=True),
        "rebalance": REBALANCE,
        "model-announced": Point("driftloop.core.models.champion_follower:ChampionFollower._load"),
        "model-loaded": Point("driftloop.core.models.bundle_cache:BundleCache.load", after=True),
        "updated": Point("driftloop.core.models.champion_follower:apply_update"),
    },
    "monitor": {
        "batch-taken": Point(f"{MONITOR}.handle"),
        "joined": Point("stream_processors.monitoring.monitor:join", after=True),
        "sent": FLUSH,
        "acknowledged": Point("driftloop.core.online_store:OnlineStore.save_join"),
        "saved": Point("driftloop.core.online_store:OnlineStore.save_join", after=True),
        "rebalance": REBALANCE,
    },
    "retrain": {
        "learnt": Point(f"{LEARNER}._publish", after=True),
        "decided": Point("retrain.retraining_run:RetrainingRun.run_quick"),
        "registering": Point("retrain.promotion.promoter:Promoter.register"),
        "registered": Point("retrain.promotion.promoter:Promoter.register", after=True),
        "alias-moved": Point("driftloop.core.models.registry:Registry.set_champion", after=True),
        "announced": Point("retrain.promotion.promoter:Promoter._announce", after=True),
    },
    "replay": {
        "sending": Point("producers.sender:Sender.event"),
        "sent": Point("producers.sender:Sender._acknowledge"),
    },
}
"""Points of the work of each role, in their order."""


def patch(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute that exists.

    Args:
        owner: Module or class.
        name: Name of the attribute.
        value: New value.

    Raises:
        AttributeError: ``owner`` has no such attribute, so that the change would have no effect.
    """
    if not hasattr(owner, name):
        raise AttributeError(f"{owner!r} has no attribute {name!r} to replace: correct the name in {__name__}.")
    setattr(owner, name, value)


def no_waiting() -> None:
    """Acknowledge a batch before its results are sent. They stay in a list of 2,000."""
    outbox: Any = import_module("driftloop.core.kafka.clients").ConfirmedProducer
    held: list[tuple[Any, ...]] = []
    put, flush = outbox.put, outbox.flush

    def lazy(self: Any) -> Any:
        while len(held) > 2_000:
            put(self, *held.pop(0))
        return flush(self)

    patch(outbox, "put", lambda self, *message: held.append(message))
    patch(outbox, "flush", lazy)


def no_dedupe() -> None:
    """Predict a redelivered event again, and replace the first prediction."""
    store: Any = import_module("driftloop.core.online_store").OnlineStore
    keep = store.put_predictions

    def put(self: Any, predictions: Any, *rest: Any) -> Any:
        self.client.delete(*(self.key("prediction", event_id) for event_id in predictions))
        return keep(self, predictions, *rest)

    patch(store, "put_predictions", put)


def no_offsets() -> None:
    """Forget which offsets the monitor's state contains, and which events are joined."""
    monitor: Any = import_module("stream_processors.monitoring.monitor").Monitor
    store: Any = import_module("driftloop.core.online_store").OnlineStore
    handle = monitor.handle

    def forgetful(self: Any, records: Any) -> Any:
        self._applied.clear()
        return handle(self, records)

    patch(monitor, "handle", forgetful)
    patch(store, "joined", lambda self, event_ids: set())


def no_recall() -> None:
    """Treat a store that was flushed as a new one."""
    answers: Any = import_module("stream_processors.scoring.prediction_store").PredictionStore
    monitor: Any = import_module("stream_processors.monitoring.monitor")
    patch(answers, "_rebuild", lambda self: self._store.new_generation())
    patch(monitor, "rebuild_joins", lambda *arguments: 0)
    patch(monitor, "rebuild_detectors", lambda *arguments: None)


def stalls() -> None:
    """Make Faust's channel hang silently after the third batch, once in a process's life."""
    processor: Any = import_module("stream_processors.runtime.processor")
    take, taken = processor.take_batch, 0

    async def stalling(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 4:
            await asyncio.sleep(86_400)
        return await take(*arguments)

    patch(processor, "take_batch", stalling)


def skips() -> None:
    """Skip one message, once as many were taken as the file named by FAULTY_SKIP says. The file is then removed."""
    processor: Any = import_module("stream_processors.runtime.processor")
    take, mark = processor.take_batch, Path(os.environ["FAULTY_SKIP"])
    taken = 0

    async def skipping(*arguments: Any) -> Any:
        nonlocal taken
        batch = await take(*arguments)
        taken += len(batch)
        if len(batch) > 1 and mark.exists() and taken > int(mark.read_text()):
            mark.unlink()
            return batch[1:]
        return batch

    patch(processor, "take_batch", skipping)


def late_fetch() -> None:
    """Drop the first messages of new partitions, as a fetch does that is in flight during the assignment."""
    consumer: Any = import_module("stream_processors.runtime.faust_app")._Consumer
    seek = consumer.perform_seek

    async def late(self: Any) -> None:
        if self.assignment():
            await self._thread.call_thread(self._thread._ensure_consumer()._fetcher.fetched_records, set(), timeout=5)
        await seek(self)

    patch(consumer, "perform_seek", late)


def no_going_back() -> None:
    """Continue from the current position if nothing was committed, as Faust does."""
    del import_module("stream_processors.runtime.faust_app")._Thread.seek_to_committed


def slow_handover() -> None:
    """Delay the preparation of assigned partitions by three seconds."""
    agents: Any = import_module("faust.agents.manager").AgentManager
    on_rebalance = agents.on_rebalance

    async def slow(self: Any, revoked: Any, assigned: Any) -> None:
        await asyncio.sleep(3)
        await on_rebalance(self, revoked, assigned)

    patch(agents, "on_rebalance", slow)


def no_stopping() -> None:
    """Keep fetching while partitions change hands, as Faust does."""
    del import_module("stream_processors.runtime.faust_app")._App._on_partitions_revoked


def no_positions() -> None:
    """Do not check whether a message was skipped."""
    offsets: Any = import_module("stream_processors.runtime.offsets").OffsetTracker
    patch(offsets, "check", lambda self, batch: batch)


def stub() -> None:
    """Replace the champion by a model that costs nothing, so that the system around it is measured."""
    cache: Any = import_module("driftloop.core.models.bundle_cache").BundleCache
    model: Any = import_module("benchmarks.harness.stub_model").StubClassifier
    patch(cache, "load", lambda self, update, encoder: model(update.version))


def no_acks() -> None:
    """Send messages without acknowledgements and retries."""
    clients: Any = import_module("driftloop.core.kafka.clients")
    make = clients.KafkaProducer
    unsafe = {"acks": 0, "enable_idempotence": False, "retries": 0}
    patch(clients, "KafkaProducer", lambda **options: make(**options | unsafe))


def poisoned() -> None:
    """Make the model fail on every batch with a text that contains POISON."""
    bundle: Any = import_module("driftloop.core.models.bundle").BundleClassifier
    predict = bundle.predict

    def fail(self: Any, texts: Any, *rest: Any, **named: Any) -> Any:
        if any("POISON" in text for text in texts):
            raise RuntimeError("the model fails on POISON")
        return predict(self, texts, *rest, **named)

    patch(bundle, "predict", fail)


def no_split() -> None:
    """Do not search a failed batch for the one event that the model fails on."""
    scorer: Any = import_module("stream_processors.scoring.scorer").Scorer

    def score(self: Any, batch: Any, events: Any, pending: Any = None) -> Any:
        answers = self._router.finish(batch.model, pending or self._ask(batch, events))
        return [(event, answer) for (_, event), answer in zip(events.values(), answers, strict=True)]

    patch(scorer, "_score", score)


def clock_steps() -> None:
    """Shift the wall clock by the number of seconds in the file named by FAULTY_CLOCK.

    Raises:
        RuntimeError: kafka-python has bound the clock, so that the change would have no effect on its messages.
    """
    if "kafka.record.default_records" in sys.modules:
        raise RuntimeError("kafka-python is imported already: start this process without the fork server.")
    clock, offset = time.time, Path(os.environ["FAULTY_CLOCK"])
    patch(time, "time", lambda: clock() + float(offset.read_text()))


CHANGES: dict[str, Callable[[], None]] = {
    "no-waiting": no_waiting,
    "no-dedupe": no_dedupe,
    "no-offsets": no_offsets,
    "no-recall": no_recall,
    "stalls": stalls,
    "skips": skips,
    "late-fetch": late_fetch,
    "no-going-back": no_going_back,
    "slow-handover": slow_handover,
    "no-stopping": no_stopping,
    "no-positions": no_positions,
    "no-acks": no_acks,
    "poisoned": poisoned,
    "no-split": no_split,
    "clock-steps": clock_steps,
    "stub": stub,
}
"""Changes by their name: removed protections, built-in faults, and a stub model."""


def write_plan(plan: Path, point: str, action: str, pid: int = 0) -> None:
    """Plan a fault. The file disappears when the fault happens.

    Args:
        plan: File that the process looks at.
        point: One of `POINTS`.
        action: One of `ACTIONS`.
        pid: Process that the signal is sent to. 0 for the process itself.
    """
    write_atomic(plan, f"{point} {action} {pid}".encode())


def arm(name: str, point: Point, plan: Path) -> None:
    """Wrap a function so that it looks at the plan whenever this process reaches the point.

    Args:
        name: Name of the point.
        point: The point.
        plan: File with the planned fault.
    """
    module, _, path = point.function.partition(":")
    owner: Any = import_module(module)
    *classes, function = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    inner = getattr(owner, function)

    def look(*arguments: Any) -> None:
        if not plan.exists() or not point.when(*arguments):
            return
        planned, action, pid = plan.read_text().split()
        if planned == name:
            plan.unlink()
            os.kill(int(pid) or os.getpid(), ACTIONS[action])

    @wraps(inner)
    def outer(*arguments: Any, **named: Any) -> Any:
        if not point.after:
            look(*arguments)
        result = inner(*arguments, **named)
        if point.after:
            look(*arguments)
        return result

    patch(owner, function, outer)


def main() -> None:
    """Apply the changes, wrap the points, and run the role."""
    options = _parse()
    role = options.role
    faulthandler.register(signal.SIGQUIT)
    settings = load()
    logs.configure(settings.logs, role)
    for change in options.changes:
        CHANGES[change]()
    for name, point in POINTS[role].items():
        arm(name, point, options.plan)
    if role == "replay":
        scenario = import_module("producers.scenarios.scenarios").load_scenario(os.environ["FAULTY_SCENARIO"])
        import_module("producers.replay").run(settings, scenario)
    else:
        import_module(MODULES[role]).run(settings)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.fault_injection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("role", choices=POINTS, help="role of the process")
    parser.add_argument("plan", type=Path, metavar="PLAN", help="file with the planned fault")
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=f"of {', '.join(CHANGES)}")
    options = parser.parse_args()
    if unknown := set(options.changes) - CHANGES.keys():
        parser.error(f"unknown change {', '.join(sorted(unknown))}: choose of {', '.join(CHANGES)}")
    return options


if __name__ == "__main__":
    main()
