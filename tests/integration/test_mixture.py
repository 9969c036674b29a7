"""The mixture in the live loop: labels change the answers of the champion between two promotions."""

from __future__ import annotations

import os
import random
import re
import signal
import string
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from benchmarks.harness.fault_injection import write_plan
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.kafka.topic_history import read_history
from driftloop.core.messages import Command, DriftAlert, Prediction
from driftloop.core.models.mixture_update import signed
from driftloop.core.models.registry import Registry
from driftloop.core.topics import DEAD_LETTERS, MIXTURE_UPDATES, MODEL_UPDATES, OUTCOMES, PREDICTIONS, RETRAINING
from driftloop.devstack.stack import EmbeddedStack
from retrain.promotion.manual_actions import rollback
from retrain.reproduce import reproduce_case
from tests.integration.conftest import StreamHarness, event, label, text_and_label

FIRST = 60
MIXTURE = {
    "DRIFTLOOP_RETRAIN__CANDIDATES": "linear",
    "DRIFTLOOP_MONITOR__DETECTORS": "",  # the tests raise the alerts
    "DRIFTLOOP_RETRAIN__BOOTSTRAP": str(FIRST),
}
OTHER = {"negative": "positive", "positive": "negative"}


def start(world: StreamHarness, plan: Path | None = None, **environ: str) -> None:
    """Start the loop and wait for the outcomes of the first model's events.

    Args:
        world: The stream.
        plan: File for a planned fault of the retrainer.
        environ: Further environment variables.
    """
    world.start("retrain", plan=plan, **MIXTURE | environ)
    for role in ("score", "monitor"):
        world.start(role, **MIXTURE | environ)
    world.send(events=range(FIRST), labels=range(FIRST))
    world.until(lambda: world.count(OUTCOMES) == FIRST)


def send_flipped(world: StreamHarness, numbers: range) -> None:
    """Send events with wrong labels, some at a time, and wait for each outcome."""
    before = world.count(OUTCOMES)
    for i in numbers:
        world.outbox.put("events", f"e{i}", event(i))
        world.outbox.put("labels", f"e{i}", replace(label(i), label=OTHER[label(i).label]))
    world.outbox.flush()
    world.until(lambda: world.count(OUTCOMES) == before + len(numbers))


def flipped(found: list[Prediction]) -> float:
    """Return the share of the predictions that have the wrong label."""
    return sum(one.label == OTHER[text_and_label(one.position)[1]] for one in found) / len(found)


def predict(world: StreamHarness, numbers: range) -> list[Prediction]:
    """Return the predictions of events that are sent now."""
    world.send(events=numbers)
    return predict_sent(world, numbers)


def predict_sent(world: StreamHarness, numbers: range) -> list[Prediction]:
    """Return the predictions of events."""
    world.outbox.flush()

    def found() -> dict[int, Any]:
        read: list[Any] = list(world.read(PREDICTIONS))
        return {one.position: one for one in read if one.position in numbers}

    world.until(lambda: len(found()) == len(numbers))
    return list(found().values())


def updates(world: StreamHarness) -> list[Any]:
    read: list[Any] = list(world.read(MIXTURE_UPDATES))
    return [one for one in read if not one.is_sample]


def newest(world: StreamHarness) -> Any:
    return updates(world)[-1]


def steps(world: StreamHarness) -> list[Any]:
    """Return the messages about the retraining of the alert."""
    return [one for one in world.read(RETRAINING) if getattr(one, "trigger", "") == "an-alert"]


def wait_until_learnt(world: StreamHarness) -> None:
    """Wait until an update names the last outcome, and no refit follows."""
    world.until(lambda: bool(updates(world)) and newest(world).outcome_offset == world.count(OUTCOMES) - 1)
    seen = -1
    while seen != (seen := world.count(MIXTURE_UPDATES)):
        time.sleep(1.0)


def alert(world: StreamHarness, onset: int, alert_id: str = "an-alert") -> None:
    name = world.settings.stream
    world.outbox.put(
        "drift-alerts",
        name,
        DriftAlert(
            alert_id=alert_id, stream=name, detector="fused", signal="error", severity=0.5, position=onset + 60,
            onset=onset, outcome_offset=onset + 60, onset_at=event(onset).occurred_at, window=60, model_version="1",
            detected_at=time.time(),
        ),
    )  # fmt: skip
    world.outbox.flush()


def test_labels_change_the_answers_without_promotion(world: StreamHarness) -> None:
    """The prediction names the update, and carries what the registered version says."""
    start(world)
    before = predict(world, range(1000, 1040))
    assert flipped(before) < 0.2 and {(one.model_version, one.revision) for one in before} == {("1", 0)}
    assert not any(one.reference for one in before) and updates(world) == []
    send_flipped(world, range(100, 400))
    wait_until_learnt(world)
    after = predict(world, range(2000, 2040))
    assert flipped(after) > 0.8
    assert {(one.model_version, one.revision) for one in after} == {("1", newest(world).revision)}
    assert flipped([replace(one, label=one.watched[0]) for one in after]) < 0.2
    assert world.count(MODEL_UPDATES) == 1 and world.count(DEAD_LETTERS) == 0
    samples = read_history(world.settings, MIXTURE_UPDATES).weight_samples
    assert samples and all(one.is_sample and sum(one.weights.values()) == pytest.approx(1) for one in samples)


@pytest.mark.slow
def test_restarted_scorer_answers_with_the_newest_update(world: StreamHarness) -> None:
    start(world)
    send_flipped(world, range(100, 400))
    wait_until_learnt(world)
    scorer = next(child for child in world.children if child.name == "score")
    scorer.stop()
    world.start("score", log="second", **MIXTURE)
    after = predict(world, range(2000, 2040))
    assert {one.revision for one in after} == {newest(world).revision} and flipped(after) > 0.8


@pytest.mark.slow
def test_killed_retrainer_loses_no_label(world: StreamHarness) -> None:
    """Its successor reads the updates and the labels after them, and publishes all experts under its own token."""
    start(world, DRIFTLOOP_RETRAIN__LEASE="3")
    send_flipped(world, range(100, 250))
    wait_until_learnt(world)
    first = newest(world)
    retrainer = next(child for child in world.children if child.name == "retrain")
    written = {update.expert for update in updates(world)}
    retrainer.kill()
    send_flipped(world, range(250, 400))
    world.until(lambda: newest(world).fence > first.fence)
    wait_until_learnt(world)
    last = newest(world)
    assert last.version == "1" and last.revision > first.revision and last.fence > first.fence
    assert {update.expert for update in updates(world) if update.fence == last.fence} == set(last.weights)
    name = topics.name(world.settings, MIXTURE_UPDATES)
    deleted = {record.key for part in clients.records(world.settings, name) for record in part if record.value is None}
    assert deleted == {f"{last.stream}/{expert}/{first.fence}".encode() for expert in written}
    after = predict(world, range(2000, 2040))
    assert flipped(after) > 0.8 and {one.revision for one in after} == {last.revision}


def test_altered_update_becomes_a_dead_letter(world: StreamHarness) -> None:
    start(world)
    send_flipped(world, range(100, 140))
    wait_until_learnt(world)
    good = newest(world)
    key = world.settings.signing_key
    for bad in (signed(replace(good, revision=900), "another key"), signed(replace(good, revision=901, body="?"), key)):
        world.outbox.put(MIXTURE_UPDATES.name, "any", bad)
    world.outbox.flush()
    world.until(lambda: world.count(DEAD_LETTERS) == 2)
    assert {one.revision for one in predict(world, range(2000, 2010))} == {good.revision}


@pytest.mark.slow
def test_mixture_learns_while_registry_hangs(world: StreamHarness, private_stack: EmbeddedStack) -> None:
    """The version that is registered in the end answers with what was learnt meanwhile."""
    plan, mlflow = world.folder / "retrainer.plan", private_stack.pids["mlflow"]
    start(world, plan)
    send_flipped(world, range(100, 200))
    write_plan(plan, "registering", "freeze", mlflow)
    try:
        alert(world, 100)
        send_flipped(world, range(200, 420))
        world.until(lambda: not plan.exists())
        send_flipped(world, range(500, 560))
        wait_until_learnt(world)
        assert newest(world).version == "1" and world.count(MODEL_UPDATES) == 1
        assert flipped(predict(world, range(2000, 2040))) > 0.8
    finally:
        os.kill(mlflow, signal.SIGCONT)
    world.until(lambda: world.count(MODEL_UPDATES) == 2)
    world.until(lambda: newest(world).version == "2")
    wait_until_learnt(world)
    after = predict(world, range(3000, 3040))
    assert flipped(after) > 0.8
    assert {(one.model_version, one.revision) for one in after} == {("2", newest(world).revision)}


def test_drift_registers_what_was_learnt(world: StreamHarness) -> None:
    """300 labels after its onset; the next version goes on from there."""
    start(world)
    send_flipped(world, range(100, 200))
    alert(world, 100)
    time.sleep(1.0)
    assert world.count(MODEL_UPDATES) == 1, "a hundred labels are not enough"
    send_flipped(world, range(200, 420))
    world.until(lambda: world.count(MODEL_UPDATES) == 2)
    world.until(lambda: "finished" in [one.state for one in steps(world)])
    assert [(one.state, one.candidate) for one in steps(world)] == [
        ("queued", ""),
        ("gated", "mixture"),
        ("promoted", "mixture"),
        ("finished", ""),
    ]
    scores = steps(world)[2].scores
    assert scores["accuracy"] > scores["champion_accuracy"] + 0.3 and scores["held_out"] >= 100
    registry = Registry(world.settings)
    assert registry.champion() == "2" and registry.tags("2")["candidate"] == "mixture"
    send_flipped(world, range(500, 540))
    wait_until_learnt(world)
    after = predict(world, range(2000, 2040))
    assert flipped(after) > 0.8
    assert {(one.model_version, one.revision) for one in after} == {("2", newest(world).revision)}
    assert flipped([replace(one, label=one.watched[0]) for one in after]) > 0.8, "the second version has learnt it"
    decision, model = reproduce_case(world.settings, "an-alert")
    assert decision.same is True, decision.detail
    found = re.search(r"since version 1, it gives ([0-9.]+)% of the newest (\d+) events", model.detail)
    assert model.same is None and found is not None, model.detail
    assert float(found[1]) > 90 and int(found[2]) == 380


@pytest.mark.slow
def test_version_rolled_back_rests_until_the_next_drift(world: StreamHarness) -> None:
    start(world)
    send_flipped(world, range(100, 200))
    alert(world, 100)
    send_flipped(world, range(200, 420))
    world.until(lambda: world.count(MODEL_UPDATES) == 2)
    rollback(world.settings, "1", "a test")
    world.until(lambda: world.count(MODEL_UPDATES) == 3)
    send_flipped(world, range(500, 600))
    before = predict(world, range(2000, 2040))
    assert flipped(before) < 0.2 and {(one.model_version, one.revision) for one in before} == {("3", 0)}
    alert(world, 500, "another")
    send_flipped(world, range(600, 700))
    wait_until_learnt(world)
    assert flipped(predict(world, range(3000, 3040))) > 0.8


def code_and_label(i: int) -> tuple[str, str]:
    """Return a word of random letters, and a label that depends on the first one."""
    word = "".join(random.Random(i).choices(string.ascii_lowercase, k=9))
    return word, "early" if word[0] < "n" else "late"


def send_codes(world: StreamHarness, numbers: range) -> None:
    before = world.count(OUTCOMES)
    for i in numbers:
        word, name = code_and_label(i)
        world.outbox.put("events", f"e{i}", replace(event(i), text=f"code {word}"))
        world.outbox.put("labels", f"e{i}", replace(label(i), label=name))
    world.outbox.flush()
    world.until(lambda: world.count(OUTCOMES) == before + len(numbers))


@pytest.mark.slow
def test_better_candidate_joins_the_mixture(world: StreamHarness) -> None:
    """It is an expert from then on, for scorers and retrainers that are started later as well. This one is quick."""
    environ = {"DRIFTLOOP_RETRAIN__CANDIDATES": "tests.misbehaving:Letters", "DRIFTLOOP_RETRAIN__LEASE": "3"}
    for role in ("retrain", "score", "monitor"):
        world.start(role, **MIXTURE | environ)
    send_codes(world, range(FIRST))
    for start_at in range(100, 500, 50):
        send_codes(world, range(start_at, start_at + 50))
    alert(world, 100)
    world.until(lambda: "shadow" in [one.state for one in steps(world)])
    assert world.count(MODEL_UPDATES) == 2, "the mixture as it had learnt"
    for start_at in range(500, 800, 50):
        send_codes(world, range(start_at, start_at + 50))
    world.until(lambda: "finished" in [one.state for one in steps(world)])
    joined = steps(world)[-2]
    assert joined.state == "promoted", joined.reason
    assert joined.candidate == "tests.misbehaving:Letters" and joined.scores["held_out"] >= 200
    assert joined.scores["accuracy"] > joined.scores["champion_accuracy"]
    for role in ("score", "retrain"):
        child = next(one for one in world.children if one.name == role)
        child.kill()
    for start_at in range(900, 1300, 50):
        send_codes(world, range(start_at, start_at + 50))
    wait_until_learnt(world)
    last = newest(world)
    assert last.version == "3" and last.weights["tests.misbehaving:Letters"] > 0.5
    for i in range(2000, 2100):
        world.outbox.put("events", f"e{i}", replace(event(i), text=f"code {code_and_label(i)[0]}"))
    found = predict_sent(world, range(2000, 2100))
    assert sum(one.label == code_and_label(one.position)[1] for one in found) >= 85
    assert {(one.model_version, one.revision) for one in found} == {("3", last.revision)}
    assert not world.read(DEAD_LETTERS)


@pytest.mark.slow
def test_comparison_goes_on_without_the_registry(world: StreamHarness, private_stack: EmbeddedStack) -> None:
    """MLflow is away for longer than a request waits for it, between the fit of a candidate and its verdict."""
    environ = {"DRIFTLOOP_RETRAIN__CANDIDATES": "tests.misbehaving:Letters"}
    impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for role in ("retrain", "score", "monitor"):
        world.start(role, **MIXTURE | environ | impatient)
    send_codes(world, range(FIRST))
    for start_at in range(100, 500, 50):
        send_codes(world, range(start_at, start_at + 50))
    alert(world, 100)
    world.until(lambda: "shadow" in [one.state for one in steps(world)])
    os.kill(private_stack.pids["mlflow"], signal.SIGSTOP)
    try:
        send_codes(world, range(500, 600))
        wait_until_learnt(world)
        time.sleep(3.0)
    finally:
        os.kill(private_stack.pids["mlflow"], signal.SIGCONT)
    for start_at in range(600, 800, 50):
        send_codes(world, range(start_at, start_at + 50))
    world.until(lambda: "finished" in [one.state for one in steps(world)])
    assert [one.state for one in steps(world)][-2:] == ["promoted", "finished"], steps(world)[-1].reason


def test_fit_may_take_half_of_the_concept(world: StreamHarness) -> None:
    """The concept lasts from its first prediction to the search."""
    settings = {"CANDIDATES": "tests.misbehaving:Counts", "FINETUNE_SECONDS": "1"}
    start(world, **{f"DRIFTLOOP_RETRAIN__{name}": value for name, value in settings.items()})
    began = time.time()
    send_flipped(world, range(100, 420))
    time.sleep(max(0.0, began + 4.0 - time.time()))
    alert(world, 100)
    world.until(lambda: "finished" in [one.state for one in steps(world)])
    refused = next(one for one in steps(world) if one.state == "rejected")
    lasted = steps(world)[0].at - began
    assert float(refused.reason.removeprefix("limit ")) == pytest.approx(lasted / 2, abs=1.0), refused.reason


@pytest.mark.slow
@pytest.mark.parametrize("idle", [5.0, 600.0])
def test_idle_stream_or_next_search_judges_candidate(world: StreamHarness, idle: float) -> None:
    """The candidate has half of the events that it waits for, and is compared on these."""
    settings = {"CANDIDATES": "tests.misbehaving:Letters", "SHADOW_IDLE": str(idle)}
    environ = {f"DRIFTLOOP_RETRAIN__{name}": value for name, value in settings.items()}
    for role in ("retrain", "score", "monitor"):
        world.start(role, **MIXTURE | environ)
    send_codes(world, range(FIRST))
    for start_at in range(100, 500, 50):
        send_codes(world, range(start_at, start_at + 50))
    alert(world, 100)
    world.until(lambda: "shadow" in [one.state for one in steps(world)])
    send_codes(world, range(500, 600))
    wait_until_learnt(world)
    assert steps(world)[-1].state == "shadow"
    if idle > 60:
        wish = Command(command_id="by-hand", stream=world.settings.stream, action="retrain", by="Ann", at=time.time())
        world.outbox.put("commands", wish.command_id, wish)
        world.outbox.flush()
    first = steps(world)[0].run_id
    world.until(lambda: "finished" in [one.state for one in steps(world) if one.run_id == first])
    judged = [one for one in steps(world) if one.run_id == first][-2]
    assert judged.candidate == "tests.misbehaving:Letters" and judged.scores["held_out"] == 100, judged.reason


@pytest.mark.slow
def test_next_retraining_replaces_a_single_champion(world: StreamHarness) -> None:
    """As after an upgrade: the mixture must be better, and learns from then on."""
    world.promote(flipped=True)
    for role in ("retrain", "score", "monitor"):
        world.start(role, **MIXTURE)
    world.send(events=range(100, 440), labels=range(100, 440))
    world.until(lambda: world.count(OUTCOMES) == 340)
    assert updates(world) == []
    alert(world, 100)
    world.until(lambda: world.count(MODEL_UPDATES) == 2)
    assert Registry(world.settings).tags("2")["candidate"] == "mixture"
    world.send(events=range(500, 540), labels=range(500, 540))
    world.until(lambda: world.count(OUTCOMES) == 380)
    wait_until_learnt(world)
    assert newest(world).version == "2"
    assert {one.model_version for one in predict(world, range(2000, 2010))} == {"2"}


def test_single_champion_writes_no_updates(world: StreamHarness) -> None:
    start(world, DRIFTLOOP_RETRAIN__MIXTURE="false")
    send_flipped(world, range(100, 400))
    after = predict(world, range(2000, 2040))
    assert flipped(after) < 0.2 and {one.revision for one in after} == {0}
    assert world.count(MIXTURE_UPDATES) == 0
