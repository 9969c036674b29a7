"""What the processes say on /metrics is what is on the topics, and docs/metrics.md lists all of it."""

from __future__ import annotations

import sys
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from driftloop.core import topics
from driftloop.core.kafka.clients import partition_ends
from driftloop.core.messages import SIGNALS, Command, DriftAlert
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import GateLimits, RetrainSettings, Settings
from driftloop.core.settings_source import environment
from driftloop.core.topics import (
    COMMANDS,
    DEAD_LETTERS,
    DRIFT_ALERTS,
    EVENTS,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    RETRAINING,
)
from driftloop.devstack.ports import HOST, free_port
from driftloop.devstack.stack import EmbeddedStack
from serving.live.accuracy import WINDOW
from tests.integration.conftest import StreamHarness, text_and_label
from tests.unit.repository.test_monitoring import listed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

BURIED = {"scorer": 3, "monitor": 1, "retrainer": 1}
"""Dead letters by who finds them: a refused promotion is one of the scorer's."""

Series = tuple[str, frozenset[tuple[str, str]]]


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


@dataclass
class Said:
    """What a process said on /metrics."""

    families: list[Metric]

    @cached_property
    def values(self) -> dict[Series, float]:
        return {series(s.name, **s.labels): s.value for family in self.families for s in family.samples}

    def of(self, name: str, *labels: str, **given: str) -> dict[Any, float]:
        """The series of a name by the value of some labels, where others are as given; without labels its one value."""
        found = {}
        for (called, have), value in self.values.items():
            has = dict(have)
            if called == name and given.items() <= has.items():
                found[tuple(has[label] for label in labels)] = value
        return {key[0] if len(key) == 1 else key: value for key, value in found.items()}

    def one(self, name: str, **given: str) -> float:
        (value,) = self.of(name, **given).values()
        return value


def scrape(port: int) -> Said:
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        return Said(list(text_string_to_metric_families(answer.read().decode())))


@dataclass
class Loop:
    """A loop in which everything has happened, quiet now, and what its processes say."""

    world: StreamHarness
    said: dict[str, Said] = field(default_factory=dict)
    """By verb."""
    seen: list[tuple[float, float, float]] = field(default_factory=list)
    """When a retraining was asked for, since when one went on by what was said, and when that was said."""
    sent: dict[str, int] = field(default_factory=dict)
    """Messages on the replay's topics when it was asked."""


@pytest.fixture(scope="module")
def loop(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Two models, the second of them wrong on purpose, a drift, retrainings with every end, and bad messages."""
    gate = GateLimits(minimum_gain=0.2)  # what is as good as the champion loses
    retrain = RetrainSettings(policy="never", candidates=("linear",), bootstrap=1, gate=gate)
    # Without the fork server: a fork of it would have the metrics of every process.
    world = StreamHarness(fresh(stack, retrain), tmp_path_factory.mktemp("loop"))
    made = Loop(world)
    try:
        made.said["replay"], made.sent = replayed(fresh(stack, retrain), world)
        play(made)
        yield made
    finally:
        world.close()


def fresh(stack: EmbeddedStack, retrain: RetrainSettings) -> Settings:
    """Settings of a stream with topics of its own."""
    mark = uuid.uuid4().hex[:8]
    settings = stack.settings(Settings(stream=f"test-{mark}", topic_prefix=f"t{mark}.", retrain=retrain))
    topics.create(settings)
    return settings


def replayed(settings: Settings, world: StreamHarness) -> tuple[Said, dict[str, int]]:
    """What a replay says in the middle of its work, between two messages."""
    port = free_port()
    rows = "".join(f"{text},{label}\n" for text, label in map(text_and_label, range(400)))
    (world.folder / "data.csv").write_text("text,label\n" + rows)
    (world.folder / "mine.toml").write_text('rate = 1\nbootstrap = 50\nlabel_delay = 9\n[dataset]\npath = "data.csv"\n')
    argv = [sys.executable, "-m", "driftloop", "replay", str(world.folder / "mine.toml")]
    environ = environment(settings) | {"DRIFTLOOP_HEALTH__PORT": str(port)}
    found: list[tuple[Said, dict[str, int]]] = []

    def written() -> dict[str, int]:
        return {
            topic.name: sum(partition_ends(settings, topics.name(settings, topic)).values())
            for topic in (EVENTS, LABELS)
        }

    def between() -> bool:
        before = written()
        if before["events"] <= before["labels"] or before["labels"] < 50:
            return False
        found[:] = [(scrape(port), before)]
        said = {topic: int(number) for topic, number in found[0][0].of("driftloop_sent_total", "topic").items()}
        return before == written() and said == before

    with ManagedProcess("replay", argv, env=environ, log=world.folder / "replay.log"):
        world.until(between)
    return found[0]


def play(made: Loop) -> None:
    """Everything happens, and then nothing more does."""
    world, ports = made.world, {verb: free_port() for verb in ("score", "monitor", "retrain", "serve")}
    world.promote()
    for verb, port in ports.items():
        name = "DRIFTLOOP_API__PORT" if verb == "serve" else "DRIFTLOOP_HEALTH__PORT"
        world.start(verb, restart=False, **{name: str(port)})
    world.until(lambda: all(map(is_up, ports.values())))
    retrain(made, "too-early", ports["retrain"])
    send(world, 300)
    send(world, 600, 300)  # a block whose accuracy is estimated from what was labelled before
    retrain(made, "loses", ports["retrain"])
    world.promote(flipped=True)
    for since in range(600, 1800, 50):
        if any(isinstance(one, DriftAlert) and one.model_version != "1" for one in world.read(DRIFT_ALERTS)):
            break
        send(world, since + 50, since)
    retrain(made, "wins", ports["retrain"])
    for number, topic in enumerate(("events", "events", "labels", "drift-alerts", "model-updates")):
        world.outbox.put(topic, f"bad-{number}", b"{")
    world.outbox.flush()
    world.until(lambda: world.count(DEAD_LETTERS) == sum(BURIED.values()))
    scrape(ports["serve"])  # a request is counted when it has been answered

    def quiet() -> bool:
        made.said |= {verb: scrape(port) for verb, port in ports.items()}
        # What the processes look at every few seconds, they have looked at since.
        counts = {topic.name: world.count(topic) for topic in (EVENTS, LABELS, PREDICTIONS, OUTCOMES, DEAD_LETTERS)}
        shown = made.said["serve"].of("driftloop_messages_total", "topic")
        lags = [made.said[verb].one("driftloop_lag_records") for verb in ("score", "monitor", "retrain")]
        return shown == counts and not any([*lags, made.said["serve"].one("driftloop_events_lag")])

    world.until(quiet)


def is_up(port: int) -> bool:
    try:
        return bool(scrape(port).values)
    except OSError:
        return False


def send(world: StreamHarness, upto: int, since: int = 0) -> None:
    """Events and their labels, joined."""
    world.send(events=range(since, upto), labels=range(since, upto))
    world.until(lambda: world.count(OUTCOMES) >= upto)


def ended(world: StreamHarness) -> dict[str, str]:
    """By run, how each retraining has ended."""
    said: dict[str, list[Any]] = defaultdict(list)
    for message in world.read(RETRAINING):
        said[message.run_id].append(message)
    ends: dict[str, str] = {}
    for run, messages in said.items():
        states = [message.state for message in messages]
        if messages[-1].is_final:
            ends[run] = "promoted" if "promoted" in states else "kept" if states[-1] == "finished" else "failed"
    return ends


def retrain(made: Loop, name: str, port: int) -> None:
    """Ask for a retraining, as a person does, and see what is said of it while it goes on."""
    stream, asked = made.world.settings.stream, time.time()
    wish = Command(command_id=name, stream=stream, action="retrain", by="Ann", at=asked)
    made.world.outbox.put("commands", stream, wish)
    made.world.outbox.flush()

    def over() -> bool:
        since = scrape(port).one("driftloop_oldest_retraining_timestamp_seconds")
        if since:
            made.seen.append((asked, since, time.time()))
        return name in ended(made.world)

    made.world.until(over)


def test_control_loop_contains_all_expected_cases(loop: Loop) -> None:
    """The control of all others: nothing of it is empty."""
    world = loop.world
    assert ended(world) == {"too-early": "failed", "wins": "promoted", "loses": "kept"}
    assert len({p.model_version for p in world.read(PREDICTIONS)}) >= 2 and world.count(DRIFT_ALERTS) >= 2
    assert {outcome.correct for outcome in world.read(OUTCOMES)} == {True, False}
    assert Counter(letter.where.partition(":")[0] for letter in world.read(DEAD_LETTERS)) == BURIED


def test_replay_metrics_match_sent_messages(loop: Loop) -> None:
    """Metrics hold the number of messages by topic, and the time that sending took."""
    said = loop.said["replay"]
    assert said.of("driftloop_sent_total", "topic") == loop.sent
    assert said.of("driftloop_send_seconds_count", "topic") == loop.sent
    took = said.of("driftloop_send_seconds_sum", "topic")
    assert took.keys() == loop.sent.keys() and min(took.values()) > 0


def test_scorer_metrics_match_predictions_and_dead_letters(loop: Loop) -> None:
    """Metrics include the age of the events when they were predicted."""
    said, world = loop.said["score"], loop.world
    predictions = world.read(PREDICTIONS)
    assert said.one("driftloop_records_total") == world.count(EVENTS) == len(predictions) + 2
    assert said.of("driftloop_predictions_total", "version") == Counter(p.model_version for p in predictions)
    assert said.of("driftloop_dead_letters_total", "role") == {"scorer": BURIED["scorer"]}
    assert said.one("driftloop_event_age_seconds_count") == len(predictions)
    ages = sum(p.predicted_at - p.occurred_at for p in predictions)
    assert said.one("driftloop_event_age_seconds_sum") == pytest.approx(ages, rel=1e-4)
    assert said.one("driftloop_lag_records") == 0 and said.one("driftloop_partitions") == 1
    took = sum({p.predicted_at: p.latency_ms for p in predictions}.values()) / 1000
    assert said.one("driftloop_batch_seconds_count") >= len({p.predicted_at for p in predictions}) > 1
    assert said.one("driftloop_batch_seconds_sum") > took > 0


def test_monitor_metrics_match_outcomes_and_detectors(loop: Loop) -> None:
    """Outcomes are counted by model version and correctness."""
    said, world = loop.said["monitor"], loop.world
    outcomes = [outcome for outcome in world.read(OUTCOMES) if not outcome.in_sample]
    right = Counter((outcome.model_version, str(outcome.correct).lower()) for outcome in outcomes)
    assert said.of("driftloop_outcomes_total", "version", "correct") == right
    assert said.one("driftloop_records_total") == world.count(PREDICTIONS) + world.count(LABELS)
    assert said.of("driftloop_dead_letters_total", "role") == {"monitor": BURIED["monitor"]}
    assert said.one("driftloop_lag_records") == 0 and said.one("driftloop_partitions") == 2
    assert said.one("driftloop_batch_seconds_count") > 1 and said.one("driftloop_batch_seconds_sum") > 0
    evidence = said.of("driftloop_drift_evidence_ratio", "signal")
    assert {"error", "confidence", "mix"} <= evidence.keys() <= set(SIGNALS)
    assert 0.9 < said.one("driftloop_estimated_accuracy_ratio") <= 1, "the first model is always right"


def test_retrainer_metrics_match_steps_and_durations(loop: Loop) -> None:
    """Retrainings are counted by their kind and by how they ended."""
    said, world = loop.said["retrain"], loop.world
    messages = world.read(RETRAINING)
    steps = Counter((message.state, message.candidate) for message in messages)
    assert said.of("driftloop_retraining_steps_total", "state", "candidate") == steps
    last = {message.run_id: message for message in messages}
    counts: Counter[tuple[str, str]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for run, end in ended(world).items():
        counts[last[run].kind, end] += 1
        seconds[last[run].kind, end] += last[run].seconds
    assert said.of("driftloop_retraining_seconds_count", "kind", "end") == counts
    assert said.of("driftloop_retraining_seconds_sum", "kind", "end") == pytest.approx(seconds)
    assert said.of("driftloop_dead_letters_total", "role") == {"retrainer": BURIED["retrainer"]}
    read = sum(world.count(topic) for topic in (OUTCOMES, DRIFT_ALERTS, MODEL_UPDATES, COMMANDS, LABELS))
    assert said.one("driftloop_records_total") == read and said.one("driftloop_lag_records") == 0
    assert loop.seen and all(asked <= since <= now for asked, since, now in loop.seen)
    assert said.one("driftloop_oldest_retraining_timestamp_seconds") == 0


def test_api_metrics_match_the_topics(loop: Loop) -> None:
    said, world = loop.said["serve"], loop.world
    counted = (EVENTS, PREDICTIONS, LABELS, OUTCOMES, DEAD_LETTERS)
    assert said.of("driftloop_messages_total", "topic") == {topic.name: world.count(topic) for topic in counted}
    assert said.one("driftloop_events_lag") == 0
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for outcome in world.read(OUTCOMES):
        if not outcome.in_sample and outcome.position >= world.settings.retrain.bootstrap:
            right[outcome.model_version].append(outcome.correct)
    expected = {version: sum(newest := found[-WINDOW:]) / len(newest) for version, found in right.items()}
    assert said.of("driftloop_accuracy_ratio", "version") == pytest.approx(expected)
    promoted = [update.version for update in world.read(MODEL_UPDATES)]
    assert said.of("driftloop_champion_info", "version") == {promoted[-1]: 1}
    alerts = dict.fromkeys(SIGNALS, 0) | Counter(alert.signal for alert in world.read(DRIFT_ALERTS))
    assert said.of("driftloop_drift_alerts_total", "signal") == alerts
    assert said.of("driftloop_retrainings_total", "end") == {"promoted": 1, "kept": 1, "failed": 1}
    scrapes = said.one("driftloop_http_requests_total", path="/metrics", method="GET", status="200")
    assert scrapes == said.one("driftloop_http_request_seconds_count", path="/metrics") >= 1


def shown(loop: Loop) -> dict[tuple[str, str], tuple[str, frozenset[str]]]:
    """The same as the processes say it."""
    found = {}
    for process, said in loop.said.items():
        for family in said.families:
            if family.name.startswith("driftloop_") and family.samples:
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = frozenset(family.samples[0].labels) - {"le"}
                found[process, name] = (family.type, labels)
    return found


def test_page_lists_exactly_the_exported_metrics(loop: Loop) -> None:
    assert len(listed()) > 20 and listed() == shown(loop)


def test_metric_labels_have_few_values(loop: Loop) -> None:
    """What a stranger writes, an event's id, its text or its segment, makes no series."""
    for process, said in loop.said.items():
        values: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for name, labels in said.values:
            for label, value in labels:
                values[name, label].add(value)
        many = {key: len(found) for key, found in values.items() if len(found) > 20 and key[1] != "le"}
        assert not many, f"{process}: {many}"
