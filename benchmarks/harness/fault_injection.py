"""Runs a process of driftloop in which something can happen at a named point of its work.

    python -m benchmarks.harness.fault_injection score PLAN
    python -m benchmarks.harness.fault_injection score PLAN no-dedupe

Whoever wants a fault writes ``POINT ACTION PID`` into the file PLAN (`write_plan`): the next time that the process
comes to that point it removes the file and sends the signal, to itself where PID is 0, or to a broker, say. Words
after PLAN name `CHANGES`, most of them protections to be taken away for the control of a test: with them off, the
same fault must be found by `driftloop audit`. The code under test knows nothing of this; its functions are wrapped.
SIGQUIT makes it write to its log where each of its threads is.
"""

from __future__ import annotations

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

from driftloop.core.observability import logs
from driftloop.core.settings import load

ACTIONS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "end": signal.SIGTERM}
"""What can happen at a point, as the signal that is sent."""


@dataclass(frozen=True)
class Point:
    """A point in a process's work: just before a function is called, or when it has done its work and not returned."""

    function: str
    """As ``package.module:Class.method``."""
    after: bool = False
    when: Callable[..., bool] = lambda *given: True
    """Of the function's arguments: whether this call counts."""


def _given_up(_progress: Any, partitions: Any) -> bool:
    return partitions is None


SCORER, MONITOR = "stream_processors.scoring.scorer:Scorer", "stream_processors.monitoring.monitor:Monitor"
FLUSH = Point("driftloop.core.kafka.clients:ConfirmedProducer.flush")
REBALANCE = Point("stream_processors.runtime.liveness:LivenessMonitor.owns", when=_given_up)

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
        "model-announced": Point("driftloop.core.models.champion_follower:ChampionFollower._take"),
        "model-loaded": Point("driftloop.core.models.bundle_cache:BundleCache.load", after=True),
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
        "decided": Point("retrain.retraining_run:RetrainingRun.run_quick"),
        "registered": Point("retrain.promotion.promoter:Promoter.register", after=True),
        "alias-moved": Point("driftloop.core.models.registry:Registry.set_champion", after=True),
        "announced": Point("retrain.promotion.promoter:Promoter._announce", after=True),
    },
    "replay": {
        "sending": Point("producers.sender:Sender.event"),
        "sent": Point("producers.sender:Sender._acknowledge"),
    },
}
"""By role, the points of its work at which something can happen, in their order."""


def no_waiting() -> None:
    """Results are handed to a producer that is in no hurry, and the batch is acknowledged without them."""
    outbox: Any = import_module("driftloop.core.kafka.clients").ConfirmedProducer
    held: list[tuple[Any, ...]] = []
    put, flush = outbox.put, outbox.flush

    def lazy(self: Any) -> Any:
        while len(held) > 2_000:
            put(self, *held.pop(0))
        return flush(self)

    outbox.put = lambda self, *message: held.append(message)
    outbox.flush = lazy


def no_dedupe() -> None:
    """A redelivered event is answered anew, and the new answer takes the place of the first."""
    store: Any = import_module("driftloop.core.online_store").OnlineStore
    keep = store.put_predictions

    def put(self: Any, predictions: Any, *rest: Any) -> Any:
        self.client.delete(*(self.key("prediction", event_id) for event_id in predictions))
        return keep(self, predictions, *rest)

    store.put_predictions = put


def no_offsets() -> None:
    """The monitor's state does not know how far it has read, and joined events are not remembered."""
    monitor: Any = import_module("stream_processors.monitoring.monitor").Monitor
    store: Any = import_module("driftloop.core.online_store").OnlineStore
    handle = monitor.handle

    def forgetful(self: Any, records: Any) -> Any:
        self._applied.clear()
        return handle(self, records)

    monitor.handle = forgetful
    store.joined = lambda self, event_ids: set()


def no_recall() -> None:
    """A store that was emptied is taken for a new one."""
    answers: Any = import_module("stream_processors.scoring.prediction_store").PredictionStore
    monitor: Any = import_module("stream_processors.monitoring.monitor")
    answers._rebuild = lambda self: self._store.begin_generation()
    monitor.find_joins = lambda *given: 0
    monitor.learn_again = lambda *given: None


def stalls() -> None:
    """Faust's channel gives nothing after the third batch, once in a process's life, and says nothing."""
    batches: Any = import_module("stream_processors.runtime.processor")
    take, taken = batches.take_batch, 0

    async def stalling(*given: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 4:
            await asyncio.sleep(86_400)
        return await take(*given)

    batches.take_batch = stalling


def skips() -> None:
    """Faust leaves out the first message of a batch where the file that FAULTY_SKIP names exists, and removes it."""
    batches: Any = import_module("stream_processors.runtime.processor")
    take, mark = batches.take_batch, Path(os.environ["FAULTY_SKIP"])

    async def skipping(*given: Any) -> Any:
        batch = await take(*given)
        if len(batch) > 1 and mark.exists():
            mark.unlink()
            return batch[1:]
        return batch

    batches.take_batch = skipping


def late_fetch() -> None:
    """A fetch that was under way as partitions were given brings their first messages, and they are let go."""
    consumer: Any = import_module("stream_processors.runtime.faust_app")._Consumer
    seek = consumer.perform_seek

    async def late(self: Any) -> None:
        if self.assignment():
            await self._thread.call_thread(self._thread._ensure_consumer()._fetcher.fetched_records, set(), timeout=5)
        await seek(self)

    consumer.perform_seek = late


def no_going_back() -> None:
    """Where nothing was committed a processor goes on from wherever it is, as Faust has it."""
    del import_module("stream_processors.runtime.faust_app")._Thread.seek_to_committed


def slow_handover() -> None:
    """The partitions that are given take their time to be made ready."""
    agents: Any = import_module("faust.agents.manager").AgentManager
    ready = agents.on_rebalance

    async def slow(self: Any, revoked: Any, given: Any) -> None:
        await asyncio.sleep(3)
        await ready(self, revoked, given)

    agents.on_rebalance = slow


def no_stopping() -> None:
    """A processor without partitions goes on fetching while the partitions change hands, as Faust has it."""
    del import_module("stream_processors.runtime.faust_app")._App._on_partitions_revoked


def no_positions() -> None:
    """Nobody looks whether a message was left out."""
    positions: Any = import_module("stream_processors.runtime.offsets").OffsetTracker
    positions.check = lambda self, batch: batch


def stub() -> None:
    """The champion is a model that costs nothing: what is left is the system around it."""
    shelf: Any = import_module("driftloop.core.models.bundle_cache").BundleCache
    model: Any = import_module("benchmarks.harness.stub_model").Stub
    shelf.load = lambda self, update, encoder: model(update.version)


def no_acks() -> None:
    """Nobody asks the broker whether it has got what was sent."""
    kafka: Any = import_module("driftloop.core.kafka.clients")
    make = kafka.KafkaProducer
    kafka.KafkaProducer = lambda **options: make(**options | {"acks": 0, "enable_idempotence": False, "retries": 0})


def poisoned() -> None:
    """The model fails on every batch with a text that has the word POISON in it."""
    bundle: Any = import_module("driftloop.core.models.bundle").BundleClassifier
    predict = bundle.predict

    def fail(self: Any, texts: Any, *rest: Any, **named: Any) -> Any:
        if any("POISON" in text for text in texts):
            raise RuntimeError("the model choked")
        return predict(self, texts, *rest, **named)

    bundle.predict = fail


def no_split() -> None:
    """A batch on which the model fails is not looked through for the one event that it fails on."""
    scorer: Any = import_module("stream_processors.scoring.scorer").Scorer

    def score(self: Any, batch: Any, events: Any, asked: Any = None) -> Any:
        said = self._stages.finish(batch.model, asked or self._ask(batch, events))
        return [(event, answer) for (_, event), answer in zip(events.values(), said, strict=True)]

    scorer._score = score


def clock_steps() -> None:
    """The wall clock goes wrong by as many seconds as the file that FAULTY_CLOCK names says."""
    clock, wrong = time.time, Path(os.environ["FAULTY_CLOCK"])
    time.time = lambda: clock() + float(wrong.read_text())


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
"""What can be changed: protections taken away, a stall built in, a model that costs nothing."""


def write_plan(plan: Path, point: str, action: str, pid: int = 0) -> None:
    """Let ``action`` happen once at ``point``; the file is gone when it has."""
    scratch = plan.with_suffix(".new")
    scratch.write_text(f"{point} {action} {pid}")
    scratch.replace(plan)


def arm(name: str, point: Point, plan: Path) -> None:
    """Look into the plan whenever this process comes to the point."""
    module, _, path = point.function.partition(":")
    owner: Any = import_module(module)
    *classes, function = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    inner = getattr(owner, function)

    def look(*given: Any) -> None:
        if not plan.exists() or not point.when(*given):
            return
        planned, action, pid = plan.read_text().split()
        if planned == name:
            plan.unlink()
            os.kill(int(pid) or os.getpid(), ACTIONS[action])

    @wraps(inner)
    def outer(*given: Any, **named: Any) -> Any:
        if not point.after:
            look(*given)
        found = inner(*given, **named)
        if point.after:
            look(*given)
        return found

    setattr(owner, function, outer)


def main() -> None:
    """Make the changes, wrap the points, and run the role."""
    role, plan, *changes = sys.argv[1:]
    faulthandler.register(signal.SIGQUIT)
    settings = load()
    logs.configure(settings.logs, role)
    for change in changes:
        CHANGES[change]()
    for name, point in POINTS[role].items():
        arm(name, point, Path(plan))
    if role == "replay":
        scenario = import_module("producers.scenarios.scenarios").load_scenario(os.environ["FAULTY_SCENARIO"])
        import_module("producers.replay").run(settings, scenario)
    else:
        import_module(MODULES[role]).run(settings)


if __name__ == "__main__":
    main()
