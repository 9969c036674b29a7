"""What stands between a fault and a loss, each beside its control: without it the ledger finds the loss.

The faults happen at exact points of a real process's work; see `benchmarks.harness.fault_injection`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from msgspec.structs import replace

from benchmarks.harness.fault_injection import write_plan
from benchmarks.harness.fork_server import ForkServer
from benchmarks.harness.stream_harness import findings_text, text_and_label
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import DeadLetter, Outcome, Prediction
from driftloop.core.online_store import MONITOR_STATE, OnlineStore
from driftloop.core.settings import Settings
from driftloop.core.topics import DEAD_LETTERS, OUTCOMES, PREDICTIONS
from serving.audit.audit import Audit, audit
from tests.integration.conftest import StreamHarness, event, label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EVENTS = 600


@pytest.fixture
def world(settings: Settings, tmp_path: Path, fork_server: ForkServer) -> Iterator[StreamHarness]:
    """A world with a champion."""
    made = StreamHarness(settings, tmp_path, fork_server)
    made.promote()
    yield made
    made.close()


def hurt(world: StreamHarness, point: str, without: tuple[str, ...], complaint: str) -> Audit:
    """Send everything, kill the scorer at a point of a later batch, and let it come back."""
    plan = world.folder / "plan"
    world.send(events=range(EVENTS), labels=range(EVENTS))
    world.start("monitor")
    slow = {
        "DRIFTLOOP_SCORER__BATCH": "16",
        "DRIFTLOOP_SCORER__MIN_MS_PER_EVENT": "10",
    }  # or it would be through by then
    scorer = world.start("score", plan=plan, changes=without, **slow)
    if "no-waiting" in without:
        where = [topics.name(world.settings, topics.EVENTS)]
        world.until(lambda: sum(clients.committed_offsets(world.settings, "scorer", where).values()) > 0)
    else:
        world.until(lambda: world.count(PREDICTIONS) > 50)
    write_plan(plan, point, "kill")
    world.until(lambda: scorer.restarts == 1)
    return world.wait_for_audit(complaint if without else "")


@pytest.mark.parametrize("without", [(), ("no-waiting",)], ids=["protected", "control"])
def test_batch_is_committed_after_broker_has_results(world: StreamHarness, without: tuple[str, ...]) -> None:
    said = hurt(world, "batch-taken", without, "neither a prediction nor a dead letter")
    assert said.verdict == ("PROCESSED-LESS" if without else "ALL-RECORDS-DELIVERED"), findings_text(said)


@pytest.mark.parametrize("without", [(), ("no-dedupe",)], ids=["protected", "control"])
def test_redelivered_event_gets_its_first_prediction(world: StreamHarness, without: tuple[str, ...]) -> None:
    said = hurt(world, "acknowledged", without, "predictions that differ")
    assert said.counts["prediction_messages"] > said.counts["predictions"], "nothing was redelivered"
    assert said.verdict == ("PROCESSED-MORE" if without else "ALL-RECORDS-DELIVERED"), findings_text(said)


@pytest.mark.parametrize("without", [(), ("no-offsets",)], ids=["protected", "control"])
def test_detectors_count_each_outcome_once(world: StreamHarness, without: tuple[str, ...]) -> None:
    plan = world.folder / "plan"
    world.start("score")
    world.send(events=range(EVENTS))
    world.until(lambda: world.count(PREDICTIONS) == EVENTS)
    monitor = world.start("monitor", plan=plan, changes=without)
    world.send(labels=range(100))
    world.until(
        lambda: OnlineStore(world.settings).outcome_count(MONITOR_STATE) == 100
    )  # it saves its state once before it begins
    write_plan(plan, "saved", "kill")
    world.send(labels=range(100, EVENTS))
    world.until(lambda: monitor.restarts == 1)
    said = world.wait_for_audit("counted by the detectors beyond" if without else "")
    assert said.verdict == ("PROCESSED-MORE" if without else "ALL-RECORDS-DELIVERED"), findings_text(said)


@pytest.mark.parametrize("without", [(), ("no-recall",)], ids=["protected", "control"])
@pytest.mark.parametrize("dies", [False, True], ids=["it-lives-on", "the-monitor-dies-too"])
def test_emptied_store_is_rebuilt_from_topics(world: StreamHarness, dies: bool, without: tuple[str, ...]) -> None:
    for member in ("one", "two"):  # they share the partitions, and find out one after the other
        world.start("score", changes=without, log=member, DRIFTLOOP_SCORER__GROUP_INSTANCE_ID=member)
    world.send(events=range(400), labels=range(300))
    world.send(labels=range(400, 500))  # they wait for their predictions, in the store alone
    monitor = world.start("monitor", changes=without)
    world.until(
        lambda: world.count(OUTCOMES) == 300 and OnlineStore(world.settings).outcome_count(MONITOR_STATE) == 300
    )
    store = OnlineStore(world.settings)
    mine = list(store.client.scan_iter(store.key("*")))
    store.client.delete(*mine)
    if dies:
        monitor.kill()
        world.until(lambda: monitor.restarts == 1)
    world.send(events=range(400, 600), labels=range(300, 400))
    world.send(events=range(50), labels=range(50))  # what comes again is answered as before
    said = world.wait_for_audit("labels met a prediction and have no outcome" if without else "")
    if without:
        assert said.verdict == "PROCESSED-LESS" and "on the topic and not in the store" in findings_text(said)
    else:
        assert said.counts["outcomes"] == 500


@pytest.mark.parametrize("patience", ["3", "3600"], ids=["protected", "control"])
def test_silently_stalled_scorer_is_restarted(world: StreamHarness, patience: str) -> None:
    world.send(events=range(EVENTS))
    quick = {"DRIFTLOOP_HEALTH__PATIENCE": patience, "DRIFTLOOP_TIMING__LAG_CHECK_SECONDS": "1"}
    scorer = world.start("score", changes=("stalls",), **quick)
    if patience == "3600":
        world.until(lambda: world.count(PREDICTIONS) > 0)
        time.sleep(10)  # more than twice what the protected one takes to find the stall
        assert scorer.restarts == 0 and world.count(PREDICTIONS) < EVENTS // 2, "it did not stall"
        return
    world.until(lambda: scorer.restarts >= 1, 90)
    assert re.search(r"The scorer has stalled \(.*so that it is started again", scorer.log.read_text())
    said = world.count(PREDICTIONS)
    world.until(lambda: world.count(PREDICTIONS) >= min(said + 100, EVENTS))
    assert audit(world.settings).clean


@pytest.mark.parametrize(
    ("after", "without"),
    [(0, ()), (50, ()), (50, ("no-positions",))],
    ids=["protected, the first message", "protected, one of many", "control"],
)
def test_message_skipped_by_faust_is_read_later(world: StreamHarness, after: int, without: tuple[str, ...]) -> None:
    mark = world.folder / "skip"
    mark.write_text(str(after))
    world.send(events=range(EVENTS))
    scorer = world.start("score", changes=("skips", *without), FAULTY_SKIP=str(mark), DRIFTLOOP_SCORER__BATCH="16")
    said = world.wait_for_audit("neither a prediction nor a dead letter" if without else "")
    if without:
        assert said.verdict == "PROCESSED-LESS" and scorer.restarts == 0
        return
    assert not mark.exists() and scorer.restarts == 1 and said.counts["predictions"] == EVENTS, findings_text(said)
    assert re.search(r"Message \d+ of \S+events, partition 0, was not handed over", scorer.log.read_text())


@pytest.mark.parametrize("without", [(), ("no-going-back",)], ids=["protected", "control"])
def test_messages_fetched_before_partition_ready_are_reread(world: StreamHarness, without: tuple[str, ...]) -> None:
    """Nothing is committed yet, which is where aiokafka stays where it is."""
    world.send(events=range(EVENTS))
    scorer = world.start("score", changes=("late-fetch", *without), DRIFTLOOP_HEALTH__PATIENCE="1")
    if without:
        world.until(lambda: scorer.restarts >= 1)
        stalled = f"The scorer has stalled ({EVENTS} messages wait and it has taken none"
        assert stalled in scorer.log.read_text() and world.count(PREDICTIONS) == 0
        return
    said = world.wait_for_audit()
    assert said.counts["predictions"] == said.counts["prediction_messages"] == EVENTS and scorer.restarts == 0


@pytest.mark.parametrize("without", [(), ("no-stopping",)], ids=["protected", "control"])
def test_partition_is_not_read_before_ready(world: StreamHarness, without: tuple[str, ...]) -> None:
    """Whoever is given it had none before; what comes too early comes again, or there is nobody yet to take it."""
    pair = [
        world.start(
            "score",
            log=name,
            restart=False,
            changes=("slow-handover", *without),
            DRIFTLOOP_SCORER__GROUP_INSTANCE_ID=name,
            DRIFTLOOP_LOGS__LEVEL="info",
        )
        for name in ("one", "two")
    ]
    world.until(lambda: world.members("scorer") == {"one", "two"})
    world.send(events=range(50))
    world.until(lambda: world.count(PREDICTIONS) == 50)
    pair.sort(key=lambda scorer: "messages handled" in scorer.log.read_text())
    heir, owner = pair
    leaves = Thread(target=owner.stop)
    leaves.start()
    sent = 50
    while heir.poll() is None and ("messages handled" not in heir.log.read_text() or sent < 400):
        world.send(events=range(sent, sent + 5))
        sent += 5
        time.sleep(0.05)
    leaves.join()
    if without:

        def twice() -> bool:
            counts = audit(world.settings).counts
            return counts["prediction_messages"] > counts["predictions"]

        world.until(lambda: heir.poll() is not None or twice())
        return
    said = world.wait_for_audit()
    assert said.counts["predictions"] == said.counts["prediction_messages"] == sent, findings_text(said)
    assert heir.poll() is None


@pytest.mark.parametrize("share", ["0.5", "1"], ids=["protected", "control"])
def test_dead_letter_flood_pauses_scoring(world: StreamHarness, share: str) -> None:
    """Events that are not buried wait; they are processed when the limit has been raised."""
    for number in range(3_000):
        world.outbox.put("events", f"bad-{number}", b"{")
    world.outbox.flush()
    world.send(events=range(100))
    scorer = world.start("score", DRIFTLOOP_DEAD_LETTER_LIMIT=share)
    if share == "1":
        world.until(lambda: world.count(DEAD_LETTERS) == 3_000 and world.count(PREDICTIONS) == 100)
        assert "stopped" not in scorer.log.read_text()
        return
    world.until(lambda: "could not be processed (see the topic dead-letters)" in scorer.log.read_text())
    stopped = world.count(DEAD_LETTERS)
    assert 100 <= stopped < 1_000
    time.sleep(5)
    assert world.count(DEAD_LETTERS) == stopped and world.count(PREDICTIONS) == 0
    said = audit(world.settings)
    assert said.clean and said.counts["waiting"] == 3_100 - stopped, "what it does not bury waits"
    scorer.stop()  # an operator's word: all of it may be buried
    world.start("score", DRIFTLOOP_DEAD_LETTER_LIMIT="1")
    world.until(lambda: world.count(DEAD_LETTERS) >= 3_000 and world.count(PREDICTIONS) == 100)
    assert len({m.offset for m in world.read(DEAD_LETTERS) if isinstance(m, DeadLetter)}) == 3_000


def test_scorer_frozen_past_session_answers_no_event_twice(world: StreamHarness) -> None:
    """The broker gives its partitions away meanwhile; the second scorer is the control that they were."""
    plan = world.folder / "plan"
    world.send(events=range(EVENTS))
    session = {"DRIFTLOOP_TIMING__SESSION_SECONDS": "6"}  # the least that the broker accepts
    frozen = world.start("score", plan=plan, DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="frozen", **session)
    world.until(lambda: world.count(PREDICTIONS) > 100)
    write_plan(plan, "acknowledged", "freeze")
    world.until(lambda: not plan.exists())
    try:
        world.start("score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="other", **session)
        world.until(lambda: len({p.event_id for p in world.read(PREDICTIONS)}) == EVENTS, 90)
    finally:
        os.kill(frozen.pid or 0, signal.SIGCONT)
    world.send(events=range(EVENTS, EVENTS + 200))
    said = world.wait_for_audit()
    assert said.clean and said.counts["predictions"] == EVENTS + 200, findings_text(said)
    assert all(isinstance(p, Prediction) for p in world.read(PREDICTIONS))


@pytest.mark.parametrize("split", [True, False], ids=["protected", "control"])
def test_poison_event_becomes_one_dead_letter(world: StreamHarness, split: bool) -> None:
    """All other events of its batch are predicted."""
    world.send(events=range(100))
    world.outbox.put("events", "poison", replace(event(100), event_id="poison", text="a POISON pill"))
    world.send(events=range(101, 200))
    scorer = world.start("score", changes=("poisoned",) if split else ("poisoned", "no-split"))
    if not split:
        world.until(lambda: scorer.restarts >= 2)
        said = audit(world.settings)
        assert said.counts["waiting"] > 0 and said.counts["dead_letters"] == 0, "no event of its batch is answered"
        return
    said = world.wait_for_audit()
    assert said.clean and said.counts["predictions"] == 199 and scorer.restarts == 0, findings_text(said)
    (letter,) = world.read(DEAD_LETTERS)
    assert isinstance(letter, DeadLetter) and letter.key == "poison" and "the model fails on POISON" in letter.error


@pytest.mark.parametrize("stamped_by", ["broker", "sender"], ids=["protected", "control"])
def test_clock_jump_does_not_stop_the_loop(world: StreamHarness, stamped_by: str) -> None:
    """The control stamps messages with the sender's clock, and the broker refuses what is an hour ahead."""
    if stamped_by == "sender":
        client = clients.admin(world.settings)
        for topic in topics.ALL:
            wanted = {"message.timestamp.type": "CreateTime"}
            name = topics.name(world.settings, topic)
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, wanted)])
        client.close()
    clock = world.folder / "clock"
    clock.write_text("0")
    world.fork_server = None  # it has imported kafka-python, which binds the clock
    scorer = world.start("score", changes=("clock-steps",), FAULTY_CLOCK=str(clock))
    monitor = world.start("monitor", changes=("clock-steps",), FAULTY_CLOCK=str(clock))
    for number, wrong in enumerate((0, 7_200, -3_600, 0)):
        scratch = clock.with_suffix(".new")
        scratch.write_text(str(wrong))
        scratch.replace(clock)
        batch = range(100 * number, 100 * number + 100)
        world.send(events=batch, labels=batch)
        if wrong and stamped_by == "sender":
            world.until(lambda: scorer.restarts > 0)
            assert "timestamp" in scorer.log.read_text()
            return
        world.until(lambda n=batch.stop: world.count(OUTCOMES) == n)
    said = world.wait_for_audit()
    assert said.clean and said.counts["predictions"] == said.counts["outcomes"] == 400, findings_text(said)
    assert scorer.restarts == monitor.restarts == 0
    at = [one.predicted_at for one in world.read(PREDICTIONS) if isinstance(one, Prediction)]
    assert max(at) > time.time() + 3_600 and min(at) < time.time() - 1_800, "the clock did not jump"


@pytest.mark.parametrize("without", [(), ("no-offsets",)], ids=["protected", "control"])
def test_early_duplicate_or_conflicting_labels_count_once(world: StreamHarness, without: tuple[str, ...]) -> None:
    """And those that never come hold nothing up."""
    world.start("monitor", changes=without)
    world.start("score")
    world.send(labels=range(100))
    world.send(events=range(200))
    world.until(lambda: world.count(OUTCOMES) == 100)
    world.send(labels=range(50))
    for i in range(50, 100):
        world.outbox.put("labels", f"e{i}", replace(label(i), label="neither"))
    world.outbox.flush()
    said = world.wait_for_audit("outcomes that differ") if without else None
    if without:
        assert said is not None and said.verdict == "PROCESSED-MORE", said
        return
    read = [topics.name(world.settings, topics.LABELS)]
    ends = clients.message_counts(world.settings, read)[read[0]]
    world.until(lambda: sum(clients.committed_offsets(world.settings, "monitor", read).values()) == ends)
    said = audit(world.settings)
    assert said.clean and said.counts["outcomes"] == said.counts["outcome_messages"] == 100, findings_text(said)
    assert said.counts["predictions"] == 200 and OnlineStore(world.settings).outcome_count(MONITOR_STATE) == 100
    assert {one.label for one in world.read(OUTCOMES) if isinstance(one, Outcome)} == {"negative", "positive"}


@pytest.mark.parametrize("without", [(), ("no-dedupe",)], ids=["protected", "control"])
def test_unordered_duplicate_events_are_answered_once(world: StreamHarness, without: tuple[str, ...]) -> None:
    order = list(range(300))
    random.Random(7).shuffle(order)
    world.start("monitor")
    world.start("score", changes=without, DRIFTLOOP_SCORER__BATCH="16")
    for i in (*order, *order[::3]):
        world.outbox.put("events", f"e{i}", event(i))
    for i in reversed(range(300)):
        world.outbox.put("labels", f"e{i}", label(i))
    world.outbox.flush()
    said = world.wait_for_audit("predictions that differ" if without else "")
    if without:
        assert said.verdict == "PROCESSED-MORE", findings_text(said)
        return
    assert said.counts["event_messages"] == said.counts["prediction_messages"] == 400, findings_text(said)
    assert (
        said.counts["predictions"]
        == said.counts["outcomes"]
        == OnlineStore(world.settings).outcome_count(MONITOR_STATE)
        == 300
    )
    joined = {(one.position, one.text, one.label) for one in world.read(OUTCOMES) if isinstance(one, Outcome)}
    assert joined == {(i, *text_and_label(i)) for i in range(300)}


def test_truncated_bundle_is_refused_and_champion_stays(
    world: StreamHarness,
) -> None:
    """Its control is the champion itself, which came the same way and is loaded."""
    champion = world.promote()
    scorer = world.start("score")
    world.send(events=range(50))
    world.until(lambda: world.count(PREDICTIONS) == 50)
    world.promote(truncated=True)
    world.until(lambda: world.count(DEAD_LETTERS) == 1)
    world.send(events=range(50, 100))
    world.until(lambda: world.count(PREDICTIONS) == 100)
    (letter,) = world.read(DEAD_LETTERS)
    assert isinstance(letter, DeadLetter) and "head.skops" in letter.error and "missing or was altered" in letter.error
    assert {one.model_version for one in world.read(PREDICTIONS) if isinstance(one, Prediction)} == {champion}
    assert scorer.restarts == 0
