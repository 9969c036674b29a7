"""`driftloop simulate` as its users start it: side by side, interrupted, killed, resumed, on a stack of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from driftloop.cli import run_directory
from driftloop.core import settings_source, topics
from driftloop.core.kafka import clients
from driftloop.core.messages import Label, Prediction
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.settings import Settings, cache_dir
from driftloop.devstack.kafka_download import kafka_classpath
from driftloop.devstack.ports import HOST, is_free
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios.scenarios import load_scenario
from tests.integration.conftest import event, text_and_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVENTS = 900
WARM_UP = 60
QUICK = {
    "DRIFTLOOP_RETRAIN__POLICY": "never",
    "DRIFTLOOP_RETRAIN__BOOTSTRAP": str(WARM_UP),
    # Small batches on one thread, so that there is a middle in which something can be killed.
    "DRIFTLOOP_SCORER__BATCH": "16",
    "DRIFTLOOP_SCORER__THREADS": "1",
}
ADDRESSES = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW")


class Done(NamedTuple):
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str


def write_scenario(folder: Path, rate: int | str, pairs: Sequence[tuple[str, str]] | None = None) -> Path:
    """A CSV file of made-up texts and a scenario of it; writing it again with another rate keeps the stream."""
    pairs = pairs or [text_and_label(i) for i in range(EVENTS)]
    lines = [f"{text},{label}" for text, label in pairs]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    path = folder / "own.toml"
    path.write_text(f'rate = {json.dumps(rate)}\nlabel_delay = 20\n[dataset]\npath = "data.csv"\n', encoding="utf-8")
    return path


def link_cache(folder: Path) -> Path:
    """A cache with everything that was fetched or exported, and none of the simulations that run beside this test."""
    kafka_classpath()
    exported_encoder(Settings().model)
    folder.mkdir()
    for entry in cache_dir().iterdir():
        if entry.name != "runs":
            (folder / entry.name).symlink_to(entry)
    return folder


def environ(cache: Path, **more: str) -> dict[str, str]:
    """This process's environment without settings of its own, and with those of a quick simulation."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
    return {**kept, **QUICK, "DRIFTLOOP_CACHE": str(cache), **more}


def started(*arguments: str | Path, env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """One verb, under way."""
    argv = [sys.executable, "-m", "driftloop", *map(str, arguments)]
    return subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> Done:
    """What a verb said, once it has ended."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return Done(process.returncode, out, err)


def command(*arguments: str | Path, env: dict[str, str], cwd: Path) -> Done:
    """Run one verb to its end."""
    return finished(started(*arguments, env=env, cwd=cwd))


def sentence(stderr: str) -> str:
    """The one sentence on standard error."""
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("driftloop: "), stderr
    return lines[0]


@dataclass
class Simulated:
    """One `driftloop simulate` in a process of its own."""

    root: Path
    """Its run directory."""
    arguments: Sequence[str | Path]
    env: dict[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.home = self.root.parent
        self.output, self.errors = self.home / f"{self.mark}.out", self.home / f"{self.mark}.err"
        argv = [sys.executable, "-m", "driftloop", "simulate", *map(str, self.arguments), "--plain", "--no-page"]
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            # Every process that it starts inherits the mark.
            env = {**self.env, "SIMULATED_BY_TEST": self.mark}
            # Started as a script's `&` starts it: with SIGINT ignored, which Python would leave so.
            ignoring = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *map(str, argv)]
            self.process = subprocess.Popen(ignoring, env=env, cwd=self.home, stdout=out, stderr=err)
        self.known: set[psutil.Process] = set()

    def until(self, true: Callable[[], object], seconds: float = 150) -> None:
        """Wait for a condition while the simulation runs; its own words are in the failure."""
        deadline = time.monotonic() + seconds
        while not true():
            said = self.output.read_text()[-3000:] + self.errors.read_text()[-2000:]
            assert self.process.poll() is None, f"it ended with {self.process.returncode}\n{said}"
            assert time.monotonic() < deadline, f"it did not happen within {seconds} s\n{said}"
            time.sleep(0.05)

    @property
    def settings(self) -> Settings:
        """Where its topics are, as it announces them."""
        self.until(lambda: run_directory.find(self.root))
        running = run_directory.find(self.root)
        assert running is not None
        return settings_source.load(running.settings)

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.root / "stack.json").read_text())["ports"]
        return ports

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "summary.json").read_text(encoding="utf-8"))
        return found

    def until_predicted(self, count: int) -> int:
        """Wait for so many predictions; the number there is then."""
        with clients.assigned_consumer(self.settings, topics.name(self.settings, topics.PREDICTIONS)) as client:
            partitions = list(client.assignment())
            there = [0]

            def enough() -> bool:
                there[0] = sum(client.end_offsets(partitions).values())
                return there[0] >= count

            self.until(enough)
        return there[0]

    def child(self, *words: str) -> psutil.Process:
        """The process below it whose command line has these words; not its launcher, and not its spare."""
        beside = ("launcher.py", "driftloop.core.processes.warm_standby")
        for process in self.family():
            line = process.cmdline()
            if all(word in line for word in words) and not any(part.endswith(beside) for part in line):
                return process
        raise AssertionError(f"no {words} among {[process.cmdline() for process in self.family()]}")

    def family(self) -> set[psutil.Process]:
        """Everything below it that lives now, remembered for `left`."""
        found = set(psutil.Process(self.process.pid).children(recursive=True))
        self.known |= found
        return found

    def wait(self, seconds: float = 150) -> int:
        return self.process.wait(seconds)

    def left(self) -> list[psutil.Process]:
        """Every process of it that lives, by descent, by its environment and by its working folder."""
        return [process for process in {*psutil.process_iter(), *self.known} if self._is_one(process)]

    def _is_one(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return (
                process in self.known
                or process.environ().get("SIMULATED_BY_TEST") == self.mark
                or Path(process.cwd()).is_relative_to(self.root)
            )
        except psutil.Error:
            return False

    def clear(self) -> None:
        """Leave nothing behind, whatever the test has shown."""
        self.process.kill()
        self.process.wait()
        for process in self.left():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def simulated(root: Path, *arguments: str | Path, env: dict[str, str]) -> Iterator[Simulated]:
    run = Simulated(root, arguments, env)
    try:
        yield run
    finally:
        run.clear()


def gone(run: Simulated, seconds: float = 40) -> bool:
    """Whether all of its processes end within some seconds, by themselves."""
    deadline = time.monotonic() + seconds
    while run.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not run.left()


def predicted(settings: Settings) -> Counter[str]:
    found = clients.read_all(settings, topics.name(settings, topics.PREDICTIONS), Prediction)
    return Counter(prediction.event_id for prediction in found)


def assert_whole(summary: dict[str, Any]) -> None:
    """Every event of the scenario is predicted, each once by its key."""
    assert summary["complete"] and summary["missing"] == ""
    assert summary["events"] == summary["predictions"] - summary["duplicates"] == EVENTS
    assert summary["dead_letters"] == 0
    assert summary["accuracy"]["warm_up"] == WARM_UP
    assert summary["accuracy"]["counted"] == EVENTS - WARM_UP


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_cache(tmp_path_factory.mktemp("cache") / "driftloop")


# Two simulations beside each other, with everything another terminal may do meanwhile.


@dataclass
class Beside:
    first: Simulated
    second: Simulated
    together: bool
    """The first one ran when the second one had its stack."""
    resumed: Done
    """`--resume` of the first one's folder while it ran."""
    watched: Done
    listed: Done
    ports: tuple[set[int], set[int]]
    prefix: int
    """Predictions of the second one when its scorer had been killed."""
    keys: Counter[str]
    """Predictions of the second one by event id."""
    codes: tuple[int, int]
    labelled_by_hand: str
    """An event of the first one that a person has labelled besides."""


def label_by_hand(run: Simulated) -> str:
    """A person agrees with a prediction whose label the stream sends as well; the event's id."""
    run.until_predicted(WARM_UP + 10)
    settings = run.settings
    one = clients.read_all(settings, topics.name(settings, topics.PREDICTIONS), Prediction)[WARM_UP + 5]
    said = Label(event_id=one.event_id, label=one.label, annotator="ann", labelled_at=time.time(), feedback=True)
    with closing(clients.ConfirmedProducer(settings)) as outbox:
        outbox.put(topics.LABELS.name, one.event_id, said)
        outbox.flush()
    return one.event_id


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Beside]:
    homes = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    env = environ(cache)
    # The second one is still at work when its scorer is killed, however fast the machine is.
    slow, quick = write_scenario(homes[0], 30), write_scenario(homes[1], 100)
    with ExitStack() as stack:
        first = stack.enter_context(simulated(homes[0] / "run", slow, "--out", homes[0] / "run", env=env))
        first.until(lambda: run_directory.find(first.root))
        first.until(lambda: clients.message_counts(first.settings, [topics.EVENTS.name])[topics.EVENTS.name])
        # While it waits for its first model; `watch` waits with it.
        asked = [
            started("simulate", "--resume", first.root, "--plain", "--no-page", env=env, cwd=homes[1]),
            started("watch", "predictions", "--max", "3", "--from-beginning", env=env, cwd=homes[1]),
            started("topics", env=env, cwd=homes[1]),
        ]
        for process in asked:
            stack.callback(process.kill)
        second = stack.enter_context(simulated(homes[1] / "run", quick, "--out", homes[1] / "run", "--keep", env=env))
        settings = second.settings
        together = first.process.poll() is None
        ports = (set(first.ports.values()), set(second.ports.values()))
        labelled_by_hand = label_by_hand(first)
        second.until_predicted(50)
        second.child("driftloop", "score").kill()
        cut = second.until_predicted(0)
        resumed, watched, listed = map(finished, asked)
        second.until(lambda: "Press Ctrl-C" in second.output.read_text())
        keys = predicted(settings)
        second.process.send_signal(signal.SIGINT)
        codes = first.wait(), second.wait()
        yield Beside(first, second, together, resumed, watched, listed, ports, cut, keys, codes, labelled_by_hand)


def test_own_scenario_ends_with_complete_summary(beside: Beside) -> None:
    assert beside.codes[0] == 0, beside.first.errors.read_text()
    assert beside.first.errors.read_text() == ""
    summary = beside.first.summary
    assert_whole(summary)
    assert summary["scenario"] == "own" and summary["duplicates"] == 0
    assert summary["accuracy"]["prequential"] > 0.95
    assert summary["restarts"] == {"replay": 0, "retrain": 0, "score": 0, "monitor": 0}
    assert f"Run directory: {beside.first.root}" in beside.first.output.read_text()


def test_event_labelled_twice_leaves_run_complete(beside: Beside) -> None:
    """The broker has both labels; one of them makes the outcome, and nothing is waited for in vain."""
    assert beside.labelled_by_hand
    assert beside.codes[0] == 0 and beside.first.summary["missing"] == ""


def test_ended_simulation_leaves_nothing_behind(beside: Beside) -> None:
    for run in (beside.first, beside.second):
        assert run.left() == []
        assert all(is_free(port) for port in run.ports.values())
        assert not (run.root / "running.json").exists()
    assert list((beside.first.root / "work").iterdir()) == [], "scratch files were left"


def test_two_simulations_run_side_by_side(beside: Beside) -> None:
    assert beside.together, "the first one ended too early for this test to show anything"
    assert beside.codes == (0, 0)
    ours, theirs = beside.ports
    assert len(ours) == len(theirs) == 4 and not ours & theirs
    for run in (beside.first, beside.second):
        assert_whole(run.summary)


def test_a_folder_in_use_cannot_be_resumed(beside: Beside) -> None:
    assert beside.resumed.code == 2
    said = sentence(beside.resumed.err)
    assert f"is in use by another driftloop (process {beside.first.process.pid})" in said and said.endswith(".")


def test_watch_finds_the_running_simulation_by_itself(beside: Beside) -> None:
    assert (beside.watched.code, beside.watched.err) == (0, "")
    lines = beside.watched.out.splitlines()
    assert len(lines) == 3
    assert all("flight number" in line for line in lines)


def test_topics_finds_the_running_simulation_by_itself(beside: Beside) -> None:
    assert (beside.listed.code, beside.listed.err) == (0, "")
    rows = {line.split()[0]: line.split()[1] for line in beside.listed.out.splitlines()}
    assert rows.keys() == {"topic", *(topic.name for topic in topics.ALL)}
    assert int(rows["events"]) > 0


def test_killed_scorer_restarts_and_every_event_is_predicted(beside: Beside) -> None:
    """Each event has one prediction by its key."""
    assert beside.prefix < EVENTS, "it was killed too late for this test to show anything"
    assert beside.second.summary["restarts"] == {"replay": 0, "retrain": 0, "score": 1, "monitor": 0}
    assert_whole(beside.second.summary)
    scenario = load_scenario(str(beside.second.home / "own.toml"))
    assert beside.keys.keys() == set(scenario.event_ids)
    assert beside.keys.total() == beside.second.summary["predictions"]


# One run in three sessions: interrupted, resumed, killed, resumed.


PROCESSES = 14
"""Three services and four processes, each behind its launcher."""


@dataclass
class CutOff:
    sessions: list[Simulated]
    codes: list[int]
    middles: list[int]
    """Predictions when the first and the second session were ended."""
    free: list[bool]
    """After each session: no process of it was left, and its ports were free."""
    moved: set[int]
    """Ports that somebody else took before the third session."""
    keys: Counter[str]


@contextmanager
def held(*ports: int) -> Iterator[None]:
    """Other programs listen on these ports."""
    with ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
            listener.listen()
        yield


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[CutOff]:
    home, env = tmp_path_factory.mktemp("cut-off"), environ(cache)
    root = home / "run"
    story = CutOff([], [], [], [], set(), Counter())
    with ExitStack() as stack:

        def session(*arguments: str | Path) -> Simulated:
            story.sessions.append(stack.enter_context(simulated(root, *arguments, env=env)))
            return story.sessions[-1]

        def end(run: Simulated, number: signal.Signals) -> None:
            run.family()
            run.process.send_signal(number)
            story.codes.append(run.wait())
            story.free.append(gone(run) and all(is_free(port) for port in run.ports.values()))

        first = session(write_scenario(home, 30), "--out", root)
        first.until(lambda: len(first.family()) >= PROCESSES)  # the last of them come after the first prediction
        story.middles.append(first.until_predicted(100))
        end(first, signal.SIGINT)
        second = session("--resume", root)
        second.until(lambda: len(second.family()) >= PROCESSES)
        story.middles.append(second.until_predicted(story.middles[0] + 50))
        end(second, signal.SIGKILL)
        if story.free == [True, True]:
            write_scenario(home, "max")  # the rest as fast as it goes: the rate is no part of a stream's identity
            story.moved = {second.ports["valkey"], second.ports["mlflow"]}
            with held(*story.moved):
                third = session("--resume", root, "--keep")
                third.until(lambda: "Press Ctrl-C" in third.output.read_text())
                story.keys = predicted(third.settings)
            end(third, signal.SIGINT)
        yield story


def test_interrupted_simulation_names_resume_command(cut_off: CutOff) -> None:
    first = cut_off.sessions[0]
    assert cut_off.middles[0] < EVENTS, "it was interrupted too late for this test to show anything"
    assert cut_off.codes[0] == 130
    assert sentence(first.errors.read_text()) == (
        f"driftloop: Interrupted; continue with `driftloop simulate --resume {first.root}`."
    )


def test_interrupt_or_kill_leaves_no_process(cut_off: CutOff) -> None:
    """All of its processes were seen while it ran."""
    assert all(len(run.known) >= PROCESSES for run in cut_off.sessions[:2])
    assert cut_off.free == [True, True, True]
    assert cut_off.codes == [130, -signal.SIGKILL, 0]


def test_resumed_simulation_predicts_every_event_once(cut_off: CutOff, beside: Beside) -> None:
    """Each event has one prediction by its key; the accuracy is that of an uninterrupted run."""
    third = cut_off.sessions[2]
    assert cut_off.middles[0] < cut_off.middles[1] < EVENTS, "it was killed too late for this test to show anything"
    summary, whole = third.summary, beside.first.summary
    assert_whole(summary)
    assert cut_off.keys.keys() == set(load_scenario(str(third.home / "own.toml")).event_ids)
    assert summary["predictions"] == cut_off.keys.total()
    for name in ("counted", "warm_up", "prequential", "per_segment", "per_500_events"):
        assert summary["accuracy"][name] == whole["accuracy"][name], name
    assert summary["bootstrap"]["verdict"] == "promoted" and len(summary["versions"]) == 1


def test_port_in_use_is_replaced_and_reported(cut_off: CutOff) -> None:
    third = cut_off.sessions[2]
    said = third.output.read_text()
    assert not cut_off.moved & set(third.ports.values())
    assert all(f"Port {port} of " in said and "in use by another program: now " in said for port in cut_off.moved)


def test_interrupt_during_start_leaves_no_process(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "run"
    with simulated(root, write_scenario(tmp_path, "max"), "--out", root, env=environ(cache)) as run:
        run.until((root / "kafka").exists)
        run.process.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        assert "--resume" in sentence(run.errors.read_text())
        assert run.left() == []


# A stack of the user's own: the session's, which knows nothing of this simulation.


@pytest.fixture(scope="module")
def on_own_stack(
    stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[tuple[Simulated, int, Settings]]:
    home, mark = tmp_path_factory.mktemp("own-stack"), uuid.uuid4().hex[:8]
    settings = stack.settings(Settings(stream=f"sim-{mark}", topic_prefix=f"sim{mark}."))
    where = {name: settings_source.environment(settings)[name] for name in run_directory.ADDRESSES}
    path = write_scenario(home, "max", [text_and_label(i) for i in range(300)])
    with simulated(home / "run", path, "--out", home / "run", env=environ(cache, **where)) as run:
        yield run, run.wait(), settings


def test_simulation_runs_on_external_stack(on_own_stack: tuple[Simulated, int, Settings]) -> None:
    run, code, settings = on_own_stack
    assert code == 0, run.output.read_text() + run.errors.read_text()
    assert run.summary["events"] == run.summary["predictions"] == 300
    assert predicted(settings) == Counter(load_scenario(str(run.home / "own.toml")).event_ids)
    assert len(clients.read_all(settings, topics.name(settings, topics.LABELS), Label)) == 300
    assert not (run.root / "stack.json").exists(), "a stack was started beside the user's own"
    assert run.left() == []


def test_external_topics_with_events_are_refused(settings: Settings, tmp_path: Path, cache: Path) -> None:
    outbox = clients.ConfirmedProducer(settings)
    outbox.put("events", "e0", event(0))
    outbox.flush()
    outbox.close()
    where = {name: settings_source.environment(settings)[name] for name in run_directory.ADDRESSES}
    path = write_scenario(tmp_path, "max")
    root, env = tmp_path / "run", environ(cache, **where)
    refused = command("simulate", path, "--out", root, "--plain", env=env, cwd=tmp_path)
    assert refused.code == 2
    said = sentence(refused.err)
    assert "holds 1 events already" in said and "set DRIFTLOOP_STREAM and DRIFTLOOP_TOPIC_PREFIX" in said
    # Nor is there anything to be resumed, which would not be refused.
    assert not root.exists()
    assert command("simulate", "--resume", root, "--plain", env=env, cwd=tmp_path).code == 2
    full = topics.name(settings, topics.EVENTS)
    assert clients.message_counts(settings, [full])[full] == 1, "something was sent all the same"


def test_incomplete_external_stack_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write_scenario(tmp_path, "max")
    done = command("simulate", path, "--plain", env=environ(cache, DRIFTLOOP_KAFKA="127.0.0.1:9"), cwd=tmp_path)
    assert done.code == 2
    assert "needs DRIFTLOOP_REDIS and DRIFTLOOP_MLFLOW too" in sentence(done.err)
    assert not (tmp_path / "runs").exists()
