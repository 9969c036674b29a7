"""The retraining worker as a real process on the real Kafka, Valkey and MLflow, on streams made by hand."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import msgspec
import psutil
import pytest

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.registry import Registry
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import RetrainSettings
from driftloop.core.settings_source import environment
from driftloop.core.topics import MODEL_UPDATES, PREDICTIONS, RETRAINING
from retrain.worker import Worker
from tests import tiny
from tests.integration.conftest import StreamHarness, event, text_and_label

QUICK = {
    "DRIFTLOOP_RETRAIN__MIXTURE": "false",
    "DRIFTLOOP_RETRAIN__CANDIDATES": "linear,tests.misbehaving:Refuses",
    "DRIFTLOOP_RETRAIN__SEARCH_ROWS": "50",
    "DRIFTLOOP_RETRAIN__BOOTSTRAP": "60",
}
ENDLESS = QUICK | {
    "DRIFTLOOP_RETRAIN__CANDIDATES": "tests.misbehaving:Sleeper",
    "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "600",
}
"""With a candidate that never ends by itself."""


def outcome(i: int, predicted: str) -> Outcome:
    text, label = text_and_label(i)
    return Outcome(
        event_id=f"e{i}",
        text=text,
        occurred_at=event(i).occurred_at,
        position=i,
        predicted=predicted,
        confidence=0.9,
        label=label,
        correct=predicted == label,
        model_version="1",
        latency_ms=1.0,
        labelled_at=2000.0 + i,
    )


def alert(onset: int, name: str = "an-alert") -> DriftAlert:
    return DriftAlert(
        alert_id=name,
        stream="",
        detector="adwin",
        signal="error",
        severity=0.5,
        position=onset + 60,
        onset=onset,
        outcome_offset=onset + 60,
        onset_at=event(onset).occurred_at,
        window=60,
        model_version="1",
        detected_at=time.time(),
    )


def put(world: StreamHarness, outcomes: range, alerts: list[DriftAlert]) -> None:
    """Outcomes of a model that always says `negative`, and alerts of this stream."""
    for i in outcomes:
        world.outbox.put("outcomes", f"e{i}", outcome(i, "negative"))
    for one in alerts:
        world.outbox.put(
            "drift-alerts", world.settings.stream, msgspec.structs.replace(one, stream=world.settings.stream)
        )
    world.outbox.flush()


def states(world: StreamHarness) -> list[tuple[str, str]]:
    """(state, candidate) of every message on `retraining`."""
    return [(message.state, message.candidate) for message in diary(world)]


def diary(world: StreamHarness) -> list[Any]:
    return world.read(RETRAINING)


def sleeping(world: StreamHarness) -> list[psutil.Process]:
    """What the endless candidate has started in this world."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or ())
        environ = process.info["environ"] or {}
        if "time.sleep(600)" in command and environ.get("DRIFTLOOP_STREAM") == world.settings.stream:
            found.append(process)
    return found


def competing() -> bool:
    """Whether the endless candidate of a worker in this process is at work."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "time.sleep(600)" in " ".join(process.cmdline()):
                return True
    return False


def test_first_model_uses_first_labelled_events(world: StreamHarness) -> None:
    world.start("retrain", **QUICK)
    world.send(events=range(70), labels=range(40))
    world.until(lambda: states(world) == [("queued", "")])
    assert world.count(MODEL_UPDATES) == 0, "a first model from fewer labels than asked for"
    world.send(labels=range(40, 70))
    world.until(lambda: ("finished", "") in states(world))
    assert states(world) == [("queued", ""), ("promoted", "linear"), ("finished", "")]
    (update,) = world.read(MODEL_UPDATES)
    registry = Registry(world.settings)
    assert registry.champion() == update.version == "1" and update.trigger == "bootstrap"
    (version,) = registry.versions()
    assert version.tags["last_offset"] == "59" and version.tags["topic"].endswith("labels")


@pytest.mark.slow
def test_first_model_may_be_a_hub_classifier(world: StreamHarness) -> None:
    """The classifier is a local folder in the layout of the Hugging Face hub."""
    folder = str(tiny.classifier_folder())
    world.start("retrain", DRIFTLOOP_MODEL__CLASSIFIER=folder, DRIFTLOOP_MODEL__MAX_TOKENS="24", **QUICK)
    world.start("score")
    world.send(events=range(30))
    world.until(lambda: len(world.read(PREDICTIONS)) == 30, 90)
    said = world.read(PREDICTIONS)
    assert {prediction.route for prediction in said} == {"encoder"}
    assert set(said[0].probabilities) == set(tiny.LABELS)
    (version,) = Registry(world.settings).versions()
    assert version.tags["candidate"] == "hub"
    assert Registry(world.settings).client.get_run(version.run_id).data.params["source"] == folder


def test_an_alert_retrains_and_promotes_with_lineage(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    world.start("retrain", **QUICK)
    world.until(lambda: ("finished", "") in states(world), 90)
    assert states(world) == [
        ("queued", ""),
        ("searching", "linear"),
        ("gated", "linear"),
        ("promoted", "linear"),
        ("searching", "tests.misbehaving:Refuses"),
        ("rejected", "tests.misbehaving:Refuses"),
        ("finished", ""),
    ]
    rejected = diary(world)[5]
    assert rejected.reason == "all 9 labels are 'a'", "the reason of a rejected candidate is kept"
    registry = Registry(world.settings)
    assert registry.champion() == "2" == world.read(MODEL_UPDATES)[-1].version
    tags = registry.versions()[-1].tags
    wanted = {
        "candidate": "linear",
        "trigger": "an-alert",
        "topic": f"{world.settings.topic_prefix}outcomes",
        "first_offset": "0",
        "last_offset": "199",
        "parent_version": "1",
        "verdict": "promoted",
    }
    assert {key: tags[key] for key in wanted} == wanted
    metrics = registry.client.get_run(registry.versions()[-1].run_id).data.metrics
    assert metrics["accuracy"] > metrics["champion_accuracy"] and metrics["difference_low"] > 0


def test_control_model_without_gain_is_rejected_with_reason(world: StreamHarness) -> None:
    """The control: the champion is right already, from more events, and the alert was a false one."""
    good = world.promote(rows=600)
    put(world, range(200), [alert(20)])
    world.start("retrain", **QUICK)
    world.until(lambda: ("finished", "") in states(world), 90)
    assert ("rejected", "linear") in states(world) and ("promoted", "linear") not in states(world)
    registry = Registry(world.settings)
    assert registry.champion() == good and world.count(MODEL_UPDATES) == 1
    kept = registry.versions()[-1]
    assert kept.version == "2" and kept.tags["verdict"] == "rejected" and "not better" in kept.tags["reason"]


@pytest.mark.parametrize("guard", ["regression set", "latency"])
def test_better_model_failing_a_guard_is_rejected(world: StreamHarness, guard: str, tmp_path: Path) -> None:
    """The same stream on which `test_an_alert_retrains…` sees a promotion."""
    frozen = tmp_path / "frozen.csv"
    other = dict(zip(tiny.LABELS, reversed(tiny.LABELS), strict=True))
    rows = [(text, other[label]) for text, label in map(text_and_label, range(1000, 1040))]  # the champion's view
    frozen.write_text("".join(["text,label\n", *(f"{text},{label}\n" for text, label in rows)]))
    extra = {
        "regression set": {"DRIFTLOOP_RETRAIN__REGRESSION": str(frozen)},
        "latency": {"DRIFTLOOP_RETRAIN__GATE__MAX_LATENCY_MS": "0.000001"},
    }
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    world.start("retrain", **QUICK, **extra[guard])
    world.until(lambda: ("finished", "") in states(world), 90)
    assert ("rejected", "linear") in states(world) and ("promoted", "linear") not in states(world)
    registry = Registry(world.settings)
    assert registry.champion() == "1" and world.count(MODEL_UPDATES) == 1
    gated = next(message for message in diary(world) if message.state == "gated")
    assert guard in gated.reason and gated.scores["accuracy"] > gated.scores["champion_accuracy"]
    assert [check["name"] for check in gated.scores["checks"] if not check["passed"]] == [guard]
    assert guard in registry.versions()[-1].tags["reason"]


def test_interrupted_promotion_is_completed(world: StreamHarness) -> None:
    """As a worker leaves it that ends between MLflow's alias and the message on `model-updates`."""
    world.promote()
    registry = Registry(world.settings)
    second = world.promote(flipped=True, announce=False)
    registry.client.delete_model_version_tag(world.settings.model_name, second, "verdict")
    assert registry.champion() == second and world.count(MODEL_UPDATES) == 1
    world.start("retrain", **QUICK)
    world.until(lambda: "verdict" in registry.tags(second))
    assert registry.tags(second)["verdict"] == "promoted"
    assert world.count(MODEL_UPDATES) == 2
    told = world.read(MODEL_UPDATES)[-1]
    assert (told.version, told.digest) == (second, registry.tags(second)["digest"])


def test_worker_without_alert_does_not_retrain(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, range(300), [])
    world.start("retrain", **QUICK)
    put(world, range(0), [alert(20, "of-another-stream")])
    world.until(lambda: ("finished", "") in states(world), 90)  # that alert shows that the worker was listening
    assert {message.trigger for message in diary(world)} == {"of-another-stream"}


@pytest.mark.slow
def test_new_drift_ends_outdated_search(world: StreamHarness) -> None:
    world.promote()
    put(world, range(200), [alert(20)])
    world.start("retrain", **ENDLESS)
    world.until(lambda: bool(sleeping(world)))
    first = {process.pid for process in sleeping(world)}
    put(world, range(200, 220), [alert(210, "newer")])
    time.sleep(2.0)
    assert not any(message.state == "rejected" for message in diary(world)), "it may still be judged on its concept"
    put(world, range(220, 300), [])
    world.until(lambda: ("finished", "") in states(world))
    rejected = next(message for message in diary(world) if message.state == "rejected")
    assert rejected.reason == "superseded by the next retraining (newer)"
    world.until(lambda: not first & {process.pid for process in sleeping(world)})


@pytest.mark.slow
def test_refreshes_continue_during_search(world: StreamHarness) -> None:
    """With a quarter more labels the quick candidate is fitted anew, and the search is left in peace."""
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    world.start("retrain", **ENDLESS | {"DRIFTLOOP_RETRAIN__CANDIDATES": "linear,tests.misbehaving:Sleeper"})
    world.until(lambda: bool(sleeping(world)))
    put(world, range(200, 220), [])
    time.sleep(1)  # fewer than a quarter more
    assert [message.kind for message in diary(world) if message.state == "queued"] == ["search"]
    put(world, range(220, 260), [])
    world.until(lambda: [m.kind for m in diary(world) if m.state == "finished"] == ["refresh"])
    assert sleeping(world) and ("rejected", "tests.misbehaving:Sleeper") not in states(world)
    refresh = next(message for message in diary(world) if message.kind == "refresh")
    assert refresh.reason.startswith("round 2 of the drift; 2") and refresh.trigger == "an-alert"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_interrupted_worker_leaves_no_unfinished_retraining(world: StreamHarness, how: str) -> None:
    world.promote()
    put(world, range(200), [alert(20)])
    worker = world.start("retrain", restart=False, **ENDLESS)
    world.until(lambda: bool(sleeping(world)))
    if how == "kill":
        worker.kill()
        world.until(lambda: worker.poll() is not None)
    else:
        assert worker.stop() == 0
    world.until(lambda: not sleeping(world))
    assert ("failed" in dict(states(world))) == (how == "stop"), "a killed worker cannot write"
    world.start("retrain", **QUICK)
    world.until(lambda: ("finished", "") in states(world), 90)
    runs = {message.run_id: message for message in diary(world)}
    assert sorted(message.state for message in runs.values()) == ["failed", "finished"]
    assert all(message.trigger == "an-alert" for message in runs.values())


@pytest.mark.slow
@pytest.mark.parametrize("owed", [True, False])
def test_once_runs_due_retraining_and_exits(world: StreamHarness, owed: bool) -> None:
    """With more outcomes than one poll takes: the decision is made on all of them."""
    world.promote(flipped=True)
    put(world, range(1200), [alert(900)] if owed else [])
    worker = once(world, **QUICK)
    world.until(lambda: worker.poll() is not None, 120)
    assert worker.exit_code == 0, worker.log_tail()
    if not owed:
        assert states(world) == [] and world.count(MODEL_UPDATES) == 1
        return
    found = states(world)
    assert found.count(("queued", "")) == found.count(("finished", "")) == 1 and ("promoted", "linear") in found
    assert diary(world)[0].reason.endswith("; 300 labelled events since the onset")
    tags = Registry(world.settings).versions()[-1].tags
    assert (tags["first_offset"], tags["last_offset"]) == ("0", "1199")


@pytest.mark.slow
def test_once_trains_first_model_then_due_retraining(world: StreamHarness) -> None:
    put(world, range(200), [alert(20)])
    worker = once(world, **QUICK)
    world.until(lambda: states(world) == [("queued", "")])
    world.send(events=range(60), labels=range(60))
    world.until(lambda: worker.poll() is not None, 120)
    assert worker.exit_code == 0, worker.log_tail()
    assert [message.trigger for message in diary(world) if message.state == "finished"] == ["bootstrap", "an-alert"]


@pytest.mark.slow
def test_once_exit_status_shows_interruption_or_failure(world: StreamHarness) -> None:
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    worker = once(world, **ENDLESS)
    world.until(lambda: bool(sleeping(world)))
    assert worker.stop() == 128 - 130, "130, which the supervisor takes for a signal as a shell does"
    worker = once(world, **QUICK, DRIFTLOOP_SIGNING_KEY="another key than the champion's")
    world.until(lambda: worker.poll() is not None, 120)
    assert worker.exit_code == 2
    assert "driftloop: A retraining failed (" in worker.log_tail() and "not signed with this key" in worker.log_tail()


def once(world: StreamHarness, **environ: str) -> ManagedProcess:
    """`driftloop retrain --once`, as a batch job runs it."""
    child = ManagedProcess(
        "once",
        [sys.executable, "-m", "driftloop", "retrain", "--once"],
        env=environment(world.settings) | environ,
        log=world.folder / "once.log",
    )
    child.start()
    world.children.append(child)
    return child


@pytest.mark.slow
def test_missing_search_resource_rejects_candidate_and_worker_continues(world: StreamHarness) -> None:
    """No GPU where one is asked for, and no Dask cluster at the address given."""
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    wishes = {
        "DRIFTLOOP_RETRAIN__CANDIDATES": "linear,tpot,finetune",
        "DRIFTLOOP_RETRAIN__DEVICE": "cuda",
        "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "300",
        "DRIFTLOOP_RETRAIN__DASK": "tcp://127.0.0.1:1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    worker = world.start("retrain", **QUICK | wishes)
    world.until(lambda: ("finished", "") in states(world), 250)
    reasons = {message.candidate: message.reason for message in diary(world) if message.state == "rejected"}
    assert reasons["finetune"].startswith("DRIFTLOOP_RETRAIN__DEVICE is cuda and torch finds no CUDA device")
    assert reasons["tpot"].startswith("No Dask scheduler answers at tcp://127.0.0.1:1 (")
    assert ("promoted", "linear") in states(world)
    assert worker.poll() is None and worker.restarts == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["waiting for the first labels", "waiting for the policy", "during a competition"])
def test_worker_reports_progress_in_every_phase(world: StreamHarness, where: str) -> None:
    """It is stopped by what is called: the test would not end where no sign came."""
    chosen = RetrainSettings(candidates=("tests.misbehaving:Sleeper",), search_rows=50, finetune_seconds=600.0)
    if where != "waiting for the first labels":
        world.promote()
    if where == "during a competition":
        put(world, range(200), [alert(20)])
    worker = Worker(msgspec.structs.replace(world.settings, retrain=chosen))
    signs: list[bool] = []

    def progress() -> None:
        signs.append(where != "during a competition" or competing())
        if sum(signs) == 10:
            worker.stop()

    worker.progress = progress
    assert worker.run()
    assert sum(signs) >= 10


def test_mlflow_loads_champion_with_its_signature(world: StreamHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    world.promote()
    monkeypatch.setenv("DRIFTLOOP_SIGNING_KEY", world.settings.signing_key)
    mlflow.set_tracking_uri(world.settings.mlflow)
    uri = f"models:/{world.settings.model_name}@champion"
    signature = mlflow.models.get_model_info(uri).signature
    assert signature.inputs.input_names() == ["text"]
    assert signature.outputs.input_names() == ["label", "probability"]
    answers = mlflow.pyfunc.load_model(uri).predict([{"text": text_and_label(i)[0]} for i in range(20)])
    assert list(answers["label"]) == [text_and_label(i)[1] for i in range(20)]
    assert answers["probability"].between(0.5, 1).all()
    monkeypatch.setenv("DRIFTLOOP_SIGNING_KEY", "a stranger's key")
    with pytest.raises(Exception, match="not signed with this key"):
        mlflow.pyfunc.load_model(uri)
