"""`driftloop serve` as a process on the real stack: what it shows is what is on the topics."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil
import pytest
import redis
from kafka.errors import KafkaError
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.kafka.topic_follower import TopicFollower
from driftloop.core.messages import (
    SIGNALS,
    DeadLetter,
    DriftAlert,
    Message,
    ModelUpdate,
    Outcome,
    Prediction,
    Retraining,
    encode,
)
from driftloop.core.online_store import OnlineStore
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.core.settings_source import environment
from driftloop.core.topics import DRIFT_ALERTS, EVENTS, PREDICTIONS, Topic, name
from driftloop.devstack import valkey_process
from driftloop.devstack.ports import HOST, free_port, is_free
from driftloop.devstack.stack import EmbeddedStack
from serving.live.loop_follower import LoopFollower
from serving.live.loop_state import FOLLOWED
from serving.live.prometheus_collector import LoopCollector
from tests.integration.conftest import StreamHarness
from tests.unit.serving.test_views import made

pytestmark = pytest.mark.timeout(180)

VERB = [sys.executable, "-m", "driftloop", "serve"]
PASSWORD = "sesame-7f3a"


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    kind: str
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(request: urllib.request.Request, timeout: float = 20) -> Answer:
    """Send a request; an error is an answer too."""
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        kind = str(answer.headers["Content-Type"])
        return Answer(int(answer.status), kind, dict(answer.headers), answer.read().decode())


@dataclass
class Api:
    """A process that serves."""

    child: ManagedProcess
    port: int
    token: str = ""

    def get(self, path: str, method: str = "GET") -> Answer:
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", method=method, headers=shown)
        return ask(request)

    def healthy(self) -> bool:
        assert self.child.poll() is None, self.child.log_tail()
        try:
            return self.get("/health").status == 200
        except OSError:
            return False

    def figures(self) -> dict[str, Any]:
        """The status without what depends on the moment."""
        found = dict(self.get("/v1/status").json)
        del found["events_per_second"], found["retraining"]
        return found | {"news": sorted(found["news"])}

    def metrics(self) -> dict[str, float]:
        """The loop's own figures in Prometheus' format, as `name label`."""
        answer = self.get("/metrics")
        assert answer.status == 200 and answer.kind.startswith("text/plain; version=")
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(answer.body)
            for sample in family.samples
            if sample.name.startswith("driftloop_") and not sample.name.startswith("driftloop_http_")
        }


def serve(world: StreamHarness, token: str = "", **environ: str) -> Api:
    """Start the verb on a free port, and wait until it answers who has the token."""
    port = free_port()
    env = environment(world.settings) | {"DRIFTLOOP_API__PORT": str(port)} | environ
    child = ManagedProcess("serve", VERB, env=env, log=world.folder / f"serve-{port}.log")
    world.children.append(child)
    child.start()
    api = Api(child, port, token)
    world.until(lambda: api.healthy() and api.figures()["phase"] != "starting")
    return api


def refused(settings: Settings, **environ: str) -> str:
    """The one sentence of a `driftloop serve` that cannot go on."""
    env = {**os.environ, **environment(settings), "DRIFTLOOP_API__PORT": str(free_port()), **environ}
    done = subprocess.run(VERB, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("driftloop: ") and done.stderr.endswith(".\n") and done.stderr.count("\n") == 1
    return done.stderr


def put(outbox: ConfirmedProducer, topic: str, *messages: Message) -> None:
    for message in messages:
        outbox.put(topic, "key", message)


def write_a_loop(world: StreamHarness) -> None:
    """A little of everything, and some of it from another stream on the same topics."""
    here, elsewhere = {"stream": world.settings.stream}, {"stream": "another"}
    world.send(events=range(7), labels=range(6))
    predictions = [made(Prediction, event_id=f"e{i}", position=i, model_version="12"[i > 2]) for i in range(5)]
    put(world.outbox, "predictions", *predictions)
    OnlineStore(world.settings).put_predictions({p.event_id: encode(p) for p in predictions})
    rights = {"1": (True, False, True), "2": (True,)}
    for version, said in rights.items():
        put(world.outbox, "outcomes", *(made(Outcome, position=900, model_version=version, correct=c) for c in said))
    signals = ("error", "mix", "error")
    put(world.outbox, "drift-alerts", *(made(DriftAlert, position=5, onset=3, signal=s, **here) for s in signals))
    put(world.outbox, "drift-alerts", made(DriftAlert, position=5, onset=3, signal="confidence", **elsewhere))
    for version in ("1", "2"):
        put(world.outbox, "model-updates", made(ModelUpdate, version=version, action="promote", reason="x", **here))
    put(world.outbox, "model-updates", made(ModelUpdate, version="77", action="promote", reason="x", **elsewhere))
    runs = {
        "won": ("queued", "searching", "promoted", "finished"),
        "lost": ("queued", "rejected", "finished"),
        "crashed": ("queued", "failed", "finished"),  # a candidate of it, that is
        "gone": ("queued",),
    }
    for run_id, states in runs.items():
        for state in states:
            message = made(Retraining, run_id=run_id, state=state, candidate="linear", reason="x", **here)
            put(world.outbox, "retraining", message)
    put(world.outbox, "retraining", made(Retraining, run_id="gone", state="failed", candidate="", reason="x", **here))
    put(world.outbox, "retraining", made(Retraining, run_id="other", state="finished", reason="x", **elsewhere))
    put(world.outbox, "dead-letters", made(DeadLetter, error="not an event: <b>"))
    world.outbox.flush()


STATUS = {
    "phase": "running", "champion": "2", "events": 7, "predictions": 5, "labels": 6, "outcomes": 4, "dead_letters": 1,
    "lag": 7, "accuracy": 0.75, "accuracy_by_version": {"1": pytest.approx(2 / 3), "2": 1.0},
    "drift_alerts": {"error": 2, "mix": 1}, "retrainings": {"promoted": 1, "kept": 2, "failed": 1},
}  # fmt: skip
METRICS = {f"driftloop_drift_alerts_total {signal}": 0 for signal in SIGNALS} | {
    "driftloop_messages_total events": 7, "driftloop_messages_total predictions": 5,
    "driftloop_messages_total labels": 6, "driftloop_messages_total outcomes": 4,
    "driftloop_messages_total dead-letters": 1, "driftloop_events_lag": 7,
    "driftloop_accuracy_ratio 1": pytest.approx(2 / 3), "driftloop_accuracy_ratio 2": 1.0,
    "driftloop_champion_info 2": 1, "driftloop_drift_alerts_total error": 2, "driftloop_drift_alerts_total mix": 1,
    "driftloop_retrainings_total promoted": 1, "driftloop_retrainings_total kept": 2,
    "driftloop_retrainings_total failed": 1,
}  # fmt: skip


def shows_everything(api: Api) -> bool:
    found = api.figures()
    return all(found[name] == value for name, value in STATUS.items())


def test_figures_match_topics_also_after_restart(world: StreamHarness) -> None:
    write_a_loop(world)
    first = serve(world)
    world.until(lambda: shows_everything(first))
    figures, metrics = first.figures(), first.metrics()
    assert figures.keys() == {"stream", "news", *STATUS} and figures["stream"] == world.settings.stream
    assert any(line.startswith("▲ drift: mix moved by +0.250") for line in figures["news"])
    assert Counter(line[0] for line in figures["news"])["▲"] == 3 and "v77" not in str(figures["news"])
    assert metrics == METRICS
    shown = first.get("/")
    assert shown.status == 200 and shown.kind.startswith("text/html")
    assert "champion v2" in shown.body and "0.750" in shown.body
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert shown.headers["x-content-type-options"] == "nosniff"

    first.child.stop()
    second = serve(world)
    world.until(lambda: shows_everything(second))
    assert second.figures() == figures and second.metrics() == metrics


def test_figures_follow_the_running_loop(world: StreamHarness) -> None:
    api = serve(world)
    empty = api.figures()
    assert (empty["phase"], empty["champion"], empty["accuracy"]) == ("waiting for the first model", None, None)
    assert empty["events"] == empty["lag"] == 0 and empty["news"] == [] and empty["drift_alerts"] == {}
    assert "driftloop_events_lag" in api.metrics() and "No retraining has started." in api.get("/").body
    write_a_loop(world)
    world.until(lambda: shows_everything(api))
    world.send(events=range(7, 9))
    put(
        world.outbox,
        "model-updates",
        made(ModelUpdate, version="3", reason="<b>", action="promote", stream=world.settings.stream),
    )
    world.outbox.flush()
    world.until(lambda: api.figures()["events"] == api.figures()["lag"] == 9 and api.figures()["champion"] == "3")
    assert api.metrics()["driftloop_messages_total events"] == 9
    assert "driftloop_champion_info 3" in api.metrics() and "driftloop_champion_info 2" not in api.metrics()
    world.until(lambda: "champion v3" in api.get("/").body)
    assert "● promoted v3: &lt;b&gt;" in api.get("/").body


@pytest.mark.slow
def test_broker_outage_makes_api_unhealthy_without_double_counts(
    world: StreamHarness, private_stack: EmbeddedStack
) -> None:
    write_a_loop(world)
    api = serve(world, DRIFTLOOP_HEALTH__PATIENCE="3")
    world.until(lambda: shows_everything(api))
    metrics = api.metrics()
    broker = private_stack.pids["kafka"]
    os.kill(broker, signal.SIGSTOP)
    try:
        # Longer than its patience, and than what asks for the end offsets waits for an answer.
        world.until(lambda: api.get("/health").json["doing"].startswith("no progress for 6 s"))
        answer = api.get("/health")
        assert answer.status == 503 and "last seen following 7 events" in answer.json["doing"]
        assert api.figures()["drift_alerts"] == STATUS["drift_alerts"], "what is known is still shown"
    finally:
        os.kill(broker, signal.SIGCONT)
    world.until(api.healthy)
    put(world.outbox, "drift-alerts", made(DriftAlert, position=5, onset=3, stream=world.settings.stream))
    world.outbox.flush()
    world.until(
        lambda: api.metrics()["driftloop_drift_alerts_total error"] != metrics["driftloop_drift_alerts_total error"]
    )
    assert api.metrics() == {**METRICS, "driftloop_drift_alerts_total error": 3}
    assert "cannot be followed" not in api.child.log_tail(), "what was read need not be read again"


@pytest.mark.parametrize("newest", [None, 2])
def test_follower_knows_when_it_caught_up(world: StreamHarness, newest: int | None) -> None:
    """Caught up means that all messages of the beginning have been read."""
    write_a_loop(world)
    with closing(TopicFollower(world.settings, (PREDICTIONS, DRIFT_ALERTS), newest)) as follower:
        assert not follower.caught_up
        read: list[tuple[Topic, Message]] = []
        world.until(lambda: bool(read.extend(follower.poll()) or follower.caught_up))
        found = Counter(topic.name for topic, _ in read)
        assert (found["predictions"], found["drift-alerts"]) == ((5, 4) if newest is None else (2, 2))
        assert [m.event_id for _, m in read if isinstance(m, Prediction)][-2:] == ["e3", "e4"]
        assert (follower.message_count(PREDICTIONS), follower.message_count(EVENTS)) == (5, 7)


@pytest.mark.slow
def test_follower_without_broker_fails_instead_of_hanging(world: StreamHarness, private_stack: EmbeddedStack) -> None:
    """Whoever follows may be the one who has to start the broker again."""
    failures: list[KafkaError] = []
    with closing(TopicFollower(world.settings, FOLLOWED)) as follower:

        def ask() -> None:
            while len(failures) < 3:
                list(follower.poll())
                try:
                    follower.message_count(EVENTS)
                except KafkaError as error:
                    failures.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        cluster = (
            follower._client._cluster
        )  # every few minutes it looks at the topics again that are read, and only those
        cluster.request_update()
        world.until(
            lambda: list(follower.poll()) == [] and not cluster.partitions_for_topic(name(world.settings, EVENTS))
        )
        os.kill(private_stack.pids["kafka"], signal.SIGSTOP)
        try:
            asking.start()
            world.until(lambda: len(failures) == 3, 30)
        finally:
            os.kill(private_stack.pids["kafka"], signal.SIGCONT)
        asking.join()
        assert follower.message_count(EVENTS) == 0


def test_reread_messages_count_once(world: StreamHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures appear only when all messages have been read."""
    write_a_loop(world)
    live = LoopFollower(world.settings)
    collector = LoopCollector(live)
    look, failed, early = live._read_offsets, [], []

    def failing(*clients: Any) -> None:
        early.extend([] if live.loop.complete else collector.collect())
        if live.loop.history.alerts_by_signal and not failed:
            failed.append(dict(live.loop.history.alerts_by_signal))
            raise RuntimeError("for once")
        look(*clients)

    monkeypatch.setattr(live, "_read_offsets", failing)
    with live:
        world.until(lambda: bool(failed) and live.loop.complete)
        history, accuracy = live.loop.history, live.loop.accuracy
        assert dict(history.alerts_by_signal) == STATUS["drift_alerts"]
        assert dict(history.retrainings_by_end) == STATUS["retrainings"]
        assert accuracy.versions["1"].scored == 3 and len(accuracy.whole.recent) == 4
        assert early == [] and len(list(collector.collect())) == 6


def test_prediction_is_found_by_event_id(world: StreamHarness) -> None:
    said = [made(Prediction, event_id=event_id, label="é", probabilities={"é": 0.9}) for event_id in ("e 1", "shop/1")]
    OnlineStore(world.settings).put_predictions({p.event_id: encode(p) for p in said})
    api = serve(world)
    for prediction in said:
        answer = api.get(f"/v1/predictions/{quote(prediction.event_id, safe='')}")
        assert (answer.status, answer.kind) == (200, "application/json")
        assert answer.json == json.loads(encode(prediction))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[ManagedProcess]:
    """A Valkey that asks for a password; its port is in its arguments."""
    port = free_port()
    child = valkey_process.prepare(tmp_path / "locked", tmp_path / "locked.log", port)
    child.argv += ["--requirepass", PASSWORD]
    with child:
        yield child


def at(locked: ManagedProcess) -> str:
    return f"redis://{HOST}:{locked.argv[locked.argv.index('--port') + 1]}/0"


def test_errors_are_returned_as_problem_json(world: StreamHarness, locked: ManagedProcess, tmp_path: Path) -> None:
    """Redis is reached with a password from a file, which the log does not show."""
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    world.settings = replace(world.settings, redis=at(locked))
    store = OnlineStore(replace(world.settings, redis_password=PASSWORD))
    world.until(lambda: _answers(store))
    store.put_predictions({"e1": encode(made(Prediction, event_id="e1"))})
    environ = environment(world.settings)
    del environ["DRIFTLOOP_REDIS_PASSWORD"]  # it is empty here, and comes from a file
    port = str(free_port())
    variables = {"DRIFTLOOP_REDIS_PASSWORD_FILE": str(tmp_path / "secret"), "DRIFTLOOP_API__PORT": port}
    child = ManagedProcess("serve", VERB, env=environ | variables, log=tmp_path / "serve.log")
    world.children.append(child)
    child.start()
    api = Api(child, int(port))
    world.until(api.healthy)

    assert api.get("/v1/predictions/e1").json["event_id"] == "e1"
    hostile = "<script>" + "x" * 500
    wanted = [
        ("GET", "/v1/predictions/e2", 404, "no prediction for 'e2'"),
        ("GET", f"/v1/predictions/{quote(hostile)}", 404, f"{hostile[:200]!r}: the event is unknown"),
        ("GET", "/nowhere", 404, ""),
        ("GET", "/docs/favicon.png", 404, ""),
        ("POST", "/v1/status", 405, ""),
    ]
    locked_out = ("GET", "/v1/predictions/e1", 503, "The online store does not answer")
    for method, path, status, detail in [*wanted, locked_out]:
        if status == 503:
            locked.stop()
        answer = api.get(path, method)
        assert (answer.status, answer.kind) == (status, "application/problem+json"), path
        assert answer.json["status"] == status and answer.json["title"] and detail in answer.json["detail"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert api.get("/v1/status").status == 200, "the topics are still followed"
    assert PASSWORD not in child.log_tail()


def _answers(store: OnlineStore) -> bool:
    try:
        return bool(store.client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("given", ["", "simsalabim-1"])
def test_wrong_redis_password_is_reported(world: StreamHarness, locked: ManagedProcess, given: str) -> None:
    """The error is one sentence and does not show the password."""
    world.until(lambda: _answers(OnlineStore(replace(world.settings, redis=at(locked), redis_password=PASSWORD))))
    sentence = refused(replace(world.settings, redis=at(locked), redis_password=given))
    assert f"Redis at {at(locked)} rejects the password" in sentence and "simsalabim" not in sentence
    assert "DRIFTLOOP_REDIS_PASSWORD" in sentence and "start one" not in sentence


def test_password_in_redis_address_is_hidden(settings: Settings) -> None:
    port = free_port()
    sentence = refused(replace(settings, redis=f"redis://:{PASSWORD}@{HOST}:{port}/0"))
    assert f"@{HOST}:{port}/0" in sentence and PASSWORD not in sentence


def test_missing_redis_is_reported(settings: Settings) -> None:
    """The error is one sentence."""
    address = f"redis://{HOST}:{free_port()}/0"
    assert f"No Redis answers at {address}" in refused(replace(settings, redis=address))


@pytest.mark.slow
@pytest.mark.parametrize("address", [HOST, "nowhere.invalid"])
def test_unusable_port_is_reported(settings: Settings, address: str) -> None:
    """The error is one sentence."""
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = refused(settings, DRIFTLOOP_API__PORT=port, DRIFTLOOP_API__ADDRESS=address)
    assert f"Port {port} on {address} cannot be used for the API (" in sentence and "DRIFTLOOP_API__PORT" in sentence


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_server_despite_open_connection(world: StreamHarness, number: int) -> None:
    """The exit status is 0, and nothing is logged."""
    api = serve(world)
    pid = api.child.pid
    assert pid is not None
    connection = http.client.HTTPConnection(HOST, api.port, timeout=10)
    try:
        connection.request("GET", "/")
        assert connection.getresponse().read()
        process, before = psutil.Process(pid), api.child.log_tail()
        os.kill(pid, number)
        world.until(lambda: api.child.poll() is not None, 20)
    finally:
        connection.close()
    assert api.child.exit_code == 0 and api.child.log_tail() == before
    assert not process.is_running() and is_free(api.port)
