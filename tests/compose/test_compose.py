"""docker-compose.yml, run for real: the loop closes, services die and come back, and every event has one prediction.

Run by `make test-compose`. What is read is read the way a person would: with Kafka's console consumer inside the
container of the broker, and from the API on its loopback port.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from driftloop.devstack.ports import free_port
from tests.compose.engine import ROOT, Compose, NoEngine, engine

EVENTS = 6000
PARTITIONS = 6
SCENARIO = """\
seed = 7
rate = 20
label_delay = 200
order = [{ segment = "driverless-cars", count = 1500 }, { segment = "airlines", count = 4500 }]
[dataset]
packaged = "tweets"
"""
SERVICES = ("redis", "mlflow", "producer", "scorer", "monitor", "retrainer", "api", "prometheus")
KILL_SCORER = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if int(folder.name) != os.getpid() and b"driftloop\\0score" in (folder / "cmdline").read_bytes():
        os.kill(int(folder.name), signal.SIGKILL)
"""


class World:
    """A project that is up, and what can be seen of it."""

    def __init__(self, compose: Compose, port: int) -> None:
        self.compose = compose
        self._port = port

    def topic(self, name: str) -> list[dict[str, Any]]:
        """The messages of a topic, read by Kafka's console consumer in the broker's container."""
        offsets = self.kafka("kafka-get-offsets", "--topic", name)
        number = sum(int(line.rsplit(":", 1)[1]) for line in offsets.split() if line.startswith(f"{name}:"))
        if not number:
            return []
        most = ("--from-beginning", "--max-messages", str(number), "--timeout-ms", "60000")
        lines = self.kafka("kafka-console-consumer", "--topic", name, *most).split("\n")[
            :-1
        ]  # texts may hold other line ends
        assert len(lines) == number
        return [json.loads(line) for line in lines]

    def kafka(self, tool: str, *arguments: str) -> str:
        command = (f"/opt/kafka/bin/{tool}.sh", "--bootstrap-server", "localhost:9092", *arguments)
        return self.compose("exec", "-T", "kafka", *command, timeout=120)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return answer.read()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of the answer, for somebody without a token."""
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, kind)
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, json.load(answer)

    def metric(self, number: int, name: str) -> float:
        """A metric of the scorer with that number; 0 while it does not answer."""
        script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9100/metrics').read().decode())"
        argv = ("exec", "-T", "--index", str(number), "scorer", "python", "-c", script)
        lines = self.compose(*argv, check=False).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def partitions(self, number: int) -> int:
        return int(self.metric(number, "driftloop_partitions"))

    def status(self) -> dict[str, Any]:
        """What the API says; empty while it does not answer."""
        try:
            return json.loads(self.get("/v1/status"))
        except OSError:
            return {}

    def until(self, what: str, true: Callable[[dict[str, Any]], bool], seconds: float = 300) -> None:
        """Wait for something that the API shows; the services' last words are in the failure."""
        begun = time.monotonic()
        while not true(self.status()):
            if time.monotonic() - begun > seconds:
                words = self.compose("ps", "-a", check=False) + self.compose("logs", "--tail", "15", check=False)
                pytest.fail(f"{what} did not come within {seconds:.0f} s: {self.status()}\n{words}")
            time.sleep(1)
        print(f"{what} after {time.monotonic() - begun:.0f} s", flush=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The project, built and up; everything of it is gone at the end, whatever happens."""
    folder = tmp_path_factory.mktemp("scenarios")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)  # the container's user is a stranger here
    (folder / "test.toml").write_text(SCENARIO, encoding="utf-8")
    api = free_port()
    environ = {
        "API_PORT": str(api),
        "SCENARIOS": str(folder),
        "SCENARIO": "/scenarios/test.toml",
        "ENV_FILE": str(folder / "env"),
    }
    # The quick candidate alone: what TPOT and fine-tuning come to is not what is tested here.
    (folder / "env").write_text(
        "DRIFTLOOP_RETRAIN__CANDIDATES=linear\nDRIFTLOOP_SCORER__MIN_MS_PER_EVENT=5\n", encoding="utf-8"
    )
    try:
        with engine(f"driftloop-test-{uuid.uuid4().hex[:6]}", environ) as compose:
            try:
                compose("build", timeout=3000)
                compose("up", "-d", timeout=600)
                yield World(compose, api)
            finally:
                compose("--profile", "*", "down", "-v", "--timeout", "20", check=False)
    except NoEngine as reason:
        pytest.skip(f"no containers can be run here: {reason}")


@pytest.mark.timeout(2400)
def test_crashes_and_restarts_keep_one_prediction_per_event(world: World) -> None:
    """The drift is detected and answered by a promotion, although scorer and broker are killed meanwhile."""
    compose = world.compose
    world.until("a prediction", lambda s: s.get("predictions", 0) > 0)
    log = compose("logs", "producer")
    assert "live page" in log

    # Three scorers share the partitions, and then it is one again: nothing is lost, and nothing done twice.
    compose("up", "-d", "--no-recreate", "--scale", "scorer=3", timeout=120)
    world.until("three scorers with two partitions each", lambda _: [*map(world.partitions, (1, 2, 3))] == [2, 2, 2])
    time.sleep(10)
    print(
        "events taken by each:", *(world.metric(number, "driftloop_records_total") for number in (1, 2, 3)), flush=True
    )
    compose("up", "-d", "--no-recreate", "--scale", "scorer=1", timeout=120)
    world.until("one scorer with all partitions", lambda _: world.partitions(1) == PARTITIONS)
    world.until("no lag", lambda s: s.get("lag", 1000) < 100)
    said = Counter(prediction["event_id"] for prediction in world.topic("predictions"))
    assert said.total() == len(said) > 0

    # The scorer dies in the middle of its work; its restart policy brings it back.
    before = world.status().get("predictions", 0)
    assert before < EVENTS - 200, "this machine is too slow for the stream: raise EVENTS"
    compose("exec", "-T", "scorer", "python", "-c", KILL_SCORER)
    world.until("predictions by the scorer that came back", lambda s: s.get("predictions", 0) > before + 100)

    world.until(
        "a promotion that an alert led to",
        lambda s: sum(s.get("drift_alerts", {}).values()) >= 1 and int(s.get("champion") or 0) > 1,
    )
    world.until(
        "predictions by the new version",
        lambda s: any(
            int(version) > 1 and accuracy is not None for version, accuracy in s.get("accuracy_by_version", {}).items()
        ),
    )

    # The broker dies.
    compose("kill", "-s", "SIGKILL", "kafka")
    time.sleep(3)
    compose("start", "kafka")
    at = world.status().get("predictions", 0)
    world.until("predictions after the broker's death", lambda s: s.get("predictions", 0) > max(at, 1))

    at = world.status().get("predictions", 0)
    compose("down", "--timeout", "30", timeout=300)
    compose("up", "-d", timeout=600)
    world.until(
        "predictions after down and up", lambda s: s.get("predictions", 0) > min(at, EVENTS - 1) and s.get("champion")
    )
    for service in SERVICES:
        compose("restart", "--timeout", "30", service, timeout=300)
    world.until(
        "all events, labels and outcomes",
        lambda s: s.get("events") == EVENTS and s.get("lag") == 0 and s.get("outcomes", 0) >= EVENTS,
        600,
    )

    events = Counter(event["event_id"] for event in world.topic("events"))
    assert len(events) == events.total() == EVENTS
    first: dict[str, dict[str, Any]] = {}
    predictions = world.topic("predictions")
    for prediction in predictions:
        said = first.setdefault(prediction["event_id"], prediction)
        assert said == prediction, "an event was answered in two ways"
    assert first.keys() == events.keys()
    print(f"{len(predictions) - EVENTS} predictions were published twice", flush=True)
    assert {p["model_version"] for p in predictions} > {"1"}
    assert Counter(o["event_id"] for o in world.topic("outcomes")).keys() == events.keys()
    assert world.topic("dead-letters") == []
    updates = world.topic("model-updates")
    assert updates and updates[-1]["trigger"] in {alert["alert_id"] for alert in world.topic("drift-alerts")}


def test_only_api_port_is_published_on_loopback(world: World) -> None:
    """Services run without root rights, and their environment does not hold the default signing key."""
    published = set()
    for line in world.compose("ps", "--format", "json").splitlines():
        service = json.loads(line)
        published |= {(service["Service"], p["URL"]) for p in service["Publishers"] or () if p["PublishedPort"]}
    assert published == {("api", "127.0.0.1")}
    for service in ("scorer", "monitor", "retrainer", "api"):
        said = world.compose("exec", "-T", service, "sh", "-c", "id -u; touch /app/x 2>&1; true")
        assert said.split()[0] == "10001" and "Read-only file system" in said
        assert (
            world.compose("exec", "-T", service, "python", "-c", "import os; print(os.environ)").count("local-key") == 0
        )


def test_prometheus_scrapes_every_process(world: World) -> None:
    """The live page is served, and Prometheus evaluates the recording rules."""
    query = ("promtool", "query", "instant", "http://localhost:9090")
    world.until(
        "everything in Prometheus",
        lambda _: (
            "=> 1"
            in world.compose(
                "exec", "-T", "prometheus", *query, 'up{job="loop"} == 1 and on() count(up{job="driftloop"} == 1) >= 3'
            )
        ),
        60,
    )
    assert b"<title>driftloop</title>" in world.get("/")
    # The rules are loaded and worked out: the accuracy is recorded by one of them.
    world.until(
        "the rules' first figure",
        lambda _: "=>" in world.compose("exec", "-T", "prometheus", *query, "driftloop:champion_accuracy_ratio > 0"),
        120,
    )


def test_api_scores_texts_and_accepts_labels_without_token(world: World) -> None:
    """A retraining needs a token."""
    world.until("a model in the API", lambda _: world.post("/v1/predict", {"text": "late again"})[0] == 200)
    status, scored = world.post("/v1/predict", {"text": "late again", "explain": True})
    assert status == 200 and scored["predictions"][0]["words"]
    assert scored["predictions"][0]["model_version"] == world.status()["champion"]
    event = world.topic("predictions")[-1]
    status, taken = world.post("/v1/feedback", {"event_id": event["event_id"], "label": event["label"]})
    assert status == 202 and taken["corrects"] is False
    assert any(label["feedback"] for label in world.topic("labels"))
    assert world.post("/v1/retrainings", {})[0] == 401
    lineage = json.loads(world.get(f"/v1/lineage/{event['event_id']}"))
    assert lineage["models"][0]["version"] == event["model_version"] and lineage["alert"]


def test_compose_down_leaves_nothing_behind(world: World) -> None:
    world.compose("down", "-v", "--timeout", "20", timeout=300)
    label = f"label=com.docker.compose.project={world.compose.project}"
    assert world.compose.docker("ps", "-aq", "--filter", label) == []
    assert world.compose.docker("volume", "ls", "-q", "--filter", label) == []
    assert world.compose.docker("network", "ls", "-q", "--filter", label) == []
    assert Path(ROOT, "docker-compose.yml").is_file()
