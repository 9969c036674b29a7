"""Drift cases, their replay, and what people do with models, through the command line on the real stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import TopicPartition

from driftloop.cli.main import main
from driftloop.core.kafka import clients
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import ModelUpdate, Retraining
from driftloop.core.models.registry import Registry
from driftloop.core.settings_source import environment
from driftloop.core.topics import MODEL_UPDATES, OUTCOMES, RETRAINING, name
from retrain.retraining_log import RetrainingLog
from serving.cases.model import Case
from tests.integration.conftest import StreamHarness
from tests.integration.test_worker import QUICK, alert, once, outcome, put


class Terminal:
    """Runs commands of the command line on a world's stack."""

    def __init__(self, world: StreamHarness, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self._capsys = capsys

    def __call__(self, *argv: str, code: int = 0) -> str:
        """Standard output of a command, its one sentence on standard error where it fails."""
        self._capsys.readouterr()
        ended = main(argv)
        out, err = self._capsys.readouterr()
        assert ended == code, f"{argv} ended with {ended}: {out}{err}"
        return err if code == 2 else out

    def registry(self) -> Registry:
        return Registry(self.world.settings)

    def updates(self) -> list[ModelUpdate]:
        return self.world.read(MODEL_UPDATES)

    def diary(self) -> list[Retraining]:
        return self.world.read(RETRAINING)


@pytest.fixture
def terminal(world: StreamHarness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for variable, value in (environment(world.settings) | QUICK).items():
        monkeypatch.setenv(variable, value)
    return Terminal(world, capsys)


def answered(world: StreamHarness, **environ: str) -> None:
    """A flipped champion, an alert, and all that a worker does about it."""
    world.promote(flipped=True)
    put(world, range(200), [alert(20)])
    worker = once(world, **QUICK, **environ)
    world.until(lambda: worker.poll() is not None, 120)
    assert worker.exit_code == 0, worker.log_tail()


def test_case_describes_drift_and_replays_identically(terminal: Terminal, tmp_path: Path) -> None:
    world = terminal.world
    answered(world)
    for i in range(200, 240):
        right = outcome(i, outcome(i, "").label)
        world.outbox.put("outcomes", f"e{i}", msgspec.structs.replace(right, model_version="2"))
    world.outbox.flush()

    assert "an-alert" in terminal("case") and "promoted v2" in terminal("case")
    case = msgspec.json.decode(terminal("case", "an-alert", "--json"), type=Case)
    came = case.came_of_it
    assert (came.verdict, came.until.labelled, came.since.labelled, came.since.accuracy) == ("promoted", 180, 40, 1.0)
    assert came.until.accuracy is not None and came.until.accuracy < 0.7
    first = case.rounds[0]
    assert (first.first_offset, first.last_offset, first.rows) == (0, 199, 180)
    assert [check["name"] for check in first.candidates[0].checks], "the gate's checks are in the case"
    text = terminal("case", "an-al")
    assert (
        "Version 2 (linear) became the champion 180 labelled events after the onset." in text and first.reason in text
    )
    terminal("case", "an-alert", "--html", str(tmp_path / "case.html"))
    assert "became the champion 180 labelled events" in (tmp_path / "case.html").read_text()

    said = terminal("case", "an-alert", "--replay")
    assert f"the same      decision {first.run_id}: {first.kind}: {first.reason}" in said
    assert "the same      model 2: " in said and said.endswith("Nothing differs.\n") and "differs  " not in said


@pytest.mark.slow
def test_replay_reports_differences_and_exits_1(terminal: Terminal) -> None:
    """As after a retention that was too short: the beginning of the training window is gone."""
    world = terminal.world
    answered(world)
    client = clients.admin(world.settings)
    client.delete_records({TopicPartition(name(world.settings, OUTCOMES), 0): 60})
    client.close()
    said = terminal("case", "an-alert", "--replay", code=1)
    assert "140 labelled events since the onset are on the topic, 180 then" in said
    assert "differs       model 2: weights " in said and said.endswith("Something differs.\n")


def test_replay_names_steps_it_cannot_repeat(terminal: Terminal) -> None:
    """A model found by a search by the clock, and a decision of a worker that did not say what it knew."""
    world = terminal.world
    version = world.promote()
    put(world, range(40), [alert(20)])
    outbox = ConfirmedProducer(world.settings)
    diary = RetrainingLog(world.settings, outbox, "a-run", "an-alert", 40)
    diary.write("queued", "because")
    diary.write("promoted", "better", candidate="tpot", version=version)
    outbox.close()
    said = terminal("case", "an-alert", "--replay")
    assert "not compared  decision a-run: its message does not record the inputs of the policy" in said
    digest = terminal.registry().tags(version)["digest"][:16]
    assert f"not compared  model {version}: tpot searches by the clock" in said and digest in said


def test_unknown_case_id_is_refused(terminal: Terminal) -> None:
    assert terminal("case") == "No drift has been detected on this stream.\n"
    assert "There is no case 'nothing': no drift has been detected on this stream." in terminal(
        "case", "nothing", code=2
    )
    put(terminal.world, range(40), [alert(20)])
    assert "the stream has 1 case. Run `driftloop case` to list the ids." in terminal("case", "nothing", code=2)
    assert "not compared  decision: nothing was retrained for this alert" in terminal("case", "an-alert", "--replay")
    assert "need a case id" in terminal("case", "--replay", code=2)


@pytest.mark.slow
def test_rollback_registers_old_bundle_as_new_version(terminal: Terminal) -> None:
    answered(terminal.world)
    said = terminal("rollback", "--by", "Ada", "--reason", "complaints")
    assert said == "Version 2 was rolled back by Ada: complaints; the champion is version 1 again, as version 3.\n"
    registry = terminal.registry()
    old, replaced, fresh = registry.tags("1"), registry.tags("2"), registry.tags("3")
    assert registry.champion() == "3"
    assert fresh["digest"] == old["digest"] != replaced["digest"]
    assert (fresh["restores"], fresh["verdict"], replaced["verdict"]) == ("1", "promoted", "rolled-back")
    update = terminal.updates()[-1]
    assert (update.version, update.digest, update.action) == ("3", old["digest"], "rollback")
    back, end = terminal.diary()[-2:]
    assert back.run_id == end.run_id and back.run_id.startswith("manual-")
    assert (back.state, end.state, back.version, back.reason) == (
        "rolled-back", "finished", "3", "rolled back by Ada: complaints",
    )  # fmt: skip
    case = msgspec.json.decode(terminal("case", "an-alert", "--json"), type=Case)
    assert case.came_of_it.verdict == "rolled back" and "by Ada: complaints" in case.came_of_it.words
    assert "the same      model 3: version 3 is version 1 again" in terminal("case", "an-alert", "--replay")

    listed: list[dict[str, Any]] = json.loads(terminal("models", "--json"))
    assert [(one["version"], one["champion"], one["restores"]) for one in listed] == [
        ("1", False, ""), ("2", False, ""), ("3", True, "1"),
    ]  # fmt: skip
    assert listed[1]["accuracy"] > 0.9 and listed[0]["live"] < 0.7
    assert "●" in next(line for line in terminal("models").splitlines() if "3 (is 1)" in line)


def test_impossible_model_commands_change_nothing(terminal: Terminal) -> None:
    """Each refusal is one sentence with its reason."""
    assert "There is no champion yet" in terminal("rollback", code=2)
    assert "There is no version '1' of this stream's model: none is registered yet" in terminal("approve", "1", code=2)
    terminal.world.promote()
    assert "Version 1 has no predecessor: give the version to go back to" in terminal("rollback", code=2)
    assert "Version 1 holds the same model as the champion, version 1: nothing was changed" in terminal(
        "rollback", "1", code=2
    )
    assert "There is no version '7' of this stream's model: there is 1." in terminal("rollback", "7", code=2)
    assert "Version 1 was promoted already, and only one that waits" in terminal("approve", "1", code=2)
    assert "only one that waits can be rejected" in terminal("reject", "1", "--reason", "no", code=2)
    champion = terminal.world.promote(announce=False)
    stranger = terminal.world.promote(tampered=True, announce=False)
    registry = terminal.registry()
    registry.set_champion(champion)
    assert "not signed with this key" in terminal("rollback", stranger, code=2)
    registry.set_verdict(stranger, "rejected", "by the gate")
    assert "was rejected and was never the champion" in terminal("rollback", stranger, code=2)
    assert "not signed with this key" in terminal("approve", stranger, code=2)
    assert (registry.champion(), len(registry.versions())) == (champion, 3), "nothing was registered or promoted"
    assert len(terminal.updates()) == 1 and terminal.diary() == []


def test_winner_waits_for_manual_approval(terminal: Terminal) -> None:
    """An older version that is approved becomes champion under a new number."""
    world = terminal.world
    answered(world, DRIFTLOOP_RETRAIN__APPROVAL="manual")
    registry = terminal.registry()
    assert registry.champion() == "1" and registry.tags("2")["verdict"] == "waiting"
    case = msgspec.json.decode(terminal("case", "an-alert", "--json"), type=Case)
    assert case.came_of_it.verdict == "waiting"
    assert "waits for approval and was never the champion" in terminal("rollback", "2", code=2)

    assert (
        terminal("reject", "2", "--reason", "too bold", "--by", "Ada") == "Version 2 was rejected by Ada: too bold.\n"
    )
    assert registry.tags("2")["verdict"] == "rejected" and registry.champion() == "1"
    case = msgspec.json.decode(terminal("case", "an-alert", "--json"), type=Case)
    assert case.came_of_it.verdict == "rejected"

    said = terminal("approve", "2", "--by", "Grace", "--reason", "bold is good")
    assert said == "Version 2 was approved by Grace: bold is good; it is the champion now.\n"
    assert registry.champion() == "2" == terminal.updates()[-1].version and terminal.updates()[-1].action == "promote"
    case = msgspec.json.decode(terminal("case", "an-alert", "--json"), type=Case)
    assert case.came_of_it.verdict == "promoted" and case.swaps[0].reason == "approved by Grace: bold is good"

    older = world.promote(announce=False)
    world.promote(flipped=True, announce=False)
    registry.set_verdict(older, "rejected", "by the gate")
    said = terminal("approve", older, "--by", "Grace")
    assert said.endswith("it is the champion now, as version 5.\n") and "the gate's reason was: by the gate" in said
    assert registry.champion() == "5" and registry.tags("5")["restores"] == older
    assert registry.tags("5")["digest"] == registry.tags(older)["digest"]
