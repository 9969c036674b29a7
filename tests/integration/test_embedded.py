"""The embedded stack against the real Kafka, Valkey and MLflow: it comes up, keeps its data, ends with its parent."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import psutil
import pytest
import redis
from kafka import KafkaProducer
from kafka.errors import KafkaError

from driftloop.core import messages, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import KafkaSecurity, Settings
from driftloop.devstack import console_consumer
from driftloop.devstack import kafka_broker as broker
from driftloop.devstack.java import find_java
from driftloop.devstack.kafka_download import kafka_classpath, read_pins
from driftloop.devstack.stack import PORTS, SERVICES, EmbeddedStack

pytestmark = pytest.mark.slow


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def put_something(settings: Settings) -> None:
    """One message, one key, one registered model with an artifact."""
    topics.create(settings)
    producer = clients.producer(settings)
    producer.send(topics.name(settings, topics.LABELS), key=b"e1", value=messages.encode(
        messages.Label(event_id="e1", label="positive", labelled_at=1.0))).get(20)  # fmt: skip
    producer.close()
    redis.Redis.from_url(settings.redis).set("driftloop:kept", "yes")
    client = mlflow.MlflowClient(settings.mlflow)
    experiment = client.create_experiment("kept")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "weights", "bundle/head.txt")
    client.create_registered_model("kept")
    version = client.create_model_version("kept", f"runs:/{run.info.run_id}/bundle", run.info.run_id)
    client.set_registered_model_alias("kept", "champion", version.version)


def everything_is_there(settings: Settings, scratch: Path) -> None:
    found = clients.read_all(settings, topics.name(settings, topics.LABELS), messages.Label)
    assert [(label.event_id, label.label) for label in found] == [("e1", "positive")]
    assert redis.Redis.from_url(settings.redis).get("driftloop:kept") == b"yes"
    client = mlflow.MlflowClient(settings.mlflow)
    version = client.get_model_version_by_alias("kept", "champion")
    scratch.mkdir(exist_ok=True)
    folder = client.download_artifacts(str(version.run_id), "bundle", str(scratch))
    assert (Path(folder) / "head.txt").read_text() == "weights"


def test_services_listen_on_loopback_only(private_stack: EmbeddedStack) -> None:
    assert set(private_stack.pids) == set(SERVICES) and set(private_stack.ports) == set(PORTS)
    for name, pid in private_stack.pids.items():
        process = psutil.Process(pid)
        listening = {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}, name
        assert private_stack.ports[name] in {address.port for address in listening}
    assert {folder.name for folder in private_stack.root.iterdir() if folder.is_dir()} == {
        "kafka",
        "valkey",
        "mlflow",
        "logs",
    }


def test_stack_settings_drop_foreign_passwords(private_stack: EmbeddedStack) -> None:
    own = KafkaSecurity(protocol="SASL_PLAINTEXT", username="me", password="theirs")
    found = private_stack.settings(Settings(redis_password="theirs", security=own))
    assert "theirs" not in str(found)
    OnlineStore(found).check()
    topics.create(found)


def test_a_fresh_stream_has_its_topics(settings: Settings) -> None:
    client = clients.admin(settings)
    known = set(client.list_topics())
    client.close()
    assert {topics.name(settings, topic) for topic in topics.ALL} <= known


def test_writing_to_unknown_topic_does_not_create_it(settings: Settings) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka, max_block_ms=1500)
    with pytest.raises(KafkaError):
        producer.send("never-made", b"x").get(5)
    producer.close(0)
    client = clients.admin(settings)
    assert "never-made" not in set(client.list_topics())
    client.close()


def test_ten_megabyte_message_arrives_unchanged(settings: Settings) -> None:
    body = os.urandom(10 * 2**20)
    producer = clients.producer(settings)
    producer.send(topics.name(settings, topics.EVENTS), body).get(30)
    producer.close()
    found: list[bytes] = []

    def arrived() -> bool:
        for records in reader.poll(1000).values():
            found.extend(record.value for record in records)
        return bool(found)

    with clients.assigned_consumer(settings, topics.name(settings, topics.EVENTS)) as reader:
        assert eventually(arrived)
    assert hashlib.sha256(found[0]).digest() == hashlib.sha256(body).digest()


def test_data_survives_clean_stop_and_port_change(tmp_path: Path) -> None:
    root = tmp_path / "müller, the 1st" / "run"  # a comma, spaces and letters beyond ASCII
    with EmbeddedStack(root) as first:
        before = dict(first.ports)
        put_something(first.settings(Settings()))
    with EmbeddedStack(root) as second:
        assert second.ports == before, "the ports are kept while they are free"
        everything_is_there(second.settings(Settings()), tmp_path / "a")
    record = json.loads((root / "stack.json").read_text())
    assert record["ports"] == before
    # The controller is written into nothing but the properties, so another port serves as well.
    record["ports"] = {name: port + 1 if name in ("kafka", "controller") else port for name, port in before.items()}
    (root / "stack.json").write_text(json.dumps(record))
    with EmbeddedStack(root) as third:
        assert third.ports["controller"] != before["controller"]
        everything_is_there(third.settings(Settings()), tmp_path / "b")


OWNER = """
import sys, time
from pathlib import Path
from driftloop.devstack.stack import EmbeddedStack
import json
stack = EmbeddedStack(Path(sys.argv[1]))
stack.start()
print(json.dumps([stack.pids, stack.ports]), flush=True)
time.sleep(120)
"""


def test_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    """All data is there after the next start in the same folder."""
    root = tmp_path / "run"
    parent = subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pids, ports = json.loads(parent.stdout.readline())
        settings = Settings(
            kafka=f"127.0.0.1:{ports['kafka']}",
            redis=f"redis://127.0.0.1:{ports['valkey']}/0",
            mlflow=f"http://127.0.0.1:{ports['mlflow']}",
        )
        put_something(settings)
        parent.kill()
        parent.wait()
        # At once, while the old services may still be on their way out: the lock waits for them.
        with EmbeddedStack(root) as again:
            assert not any(running(pid) for pid in pids.values())
            assert again.ports == ports
            everything_is_there(again.settings(Settings()), tmp_path / "a")
    finally:
        parent.kill()
        parent.wait()


def test_two_stacks_run_side_by_side(private_stack: EmbeddedStack, tmp_path: Path) -> None:
    """One root serves one stack: a second start in it is refused."""
    with EmbeddedStack(tmp_path / "other") as other:
        assert not set(other.ports.values()) & set(private_stack.ports.values())
        redis.Redis.from_url(other.settings(Settings()).redis).set("whose", "other")
        assert redis.Redis.from_url(private_stack.settings(Settings()).redis).get("whose") is None
        with pytest.raises(DriftloopError, match=rf"is in use by another driftloop \(process {os.getpid()}\)"):
            EmbeddedStack(tmp_path / "other").start()
    assert other.pids == {}


def test_killed_services_restart_with_their_data(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "run") as own:
        settings = own.settings(Settings())
        put_something(settings)
        old = own.pids
        for pid in old.values():
            os.kill(pid, signal.SIGKILL)
        for name in SERVICES:
            own.wait(name)
            assert own.child(name).restarts == 1
        assert not set(own.pids.values()) & set(old.values())
        everything_is_there(settings, tmp_path / "a")


def test_console_consumer_prints_topic_messages(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    topic = topics.name(settings, topics.LABELS)
    producer = clients.producer(settings)
    for number in range(3):
        label = messages.Label(event_id=f"e{number}", label="neutral", labelled_at=float(number))
        producer.send(topic, messages.encode(label)).get(20)
    producer.close()
    capfd.readouterr()
    assert console_consumer.console_consumer(settings.kafka, topic, from_beginning=True, max_messages=3) == 0
    out, err = capfd.readouterr()
    assert [json.loads(line)["event_id"] for line in out.splitlines()] == ["e0", "e1", "e2"]
    assert err.splitlines() == ["Processed a total of 3 messages"]


def test_the_console_consumer_names_a_missing_topic(settings: Settings) -> None:
    with pytest.raises(DriftloopError, match=r"has no topic 'nonesuch'; its topics are: .*labels"):
        console_consumer.console_consumer(settings.kafka, "nonesuch", from_beginning=True, max_messages=1)


def test_equivalent_command_is_a_complete_shell_line() -> None:
    command = console_consumer.equivalent_command("broker:9092", "driftloop.predictions", max_messages=5)
    assert command == (
        "bin/kafka-console-consumer.sh --bootstrap-server broker:9092 --topic driftloop.predictions --from-beginning "
        "--max-messages 5"
    )


def test_cluster_id_never_begins_with_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One random id in 64 begins with a dash."""
    ids = iter([uuid.UUID(bytes=b"\xfb" + bytes(15)), uuid.UUID(bytes=b"\x00" + bytes(15))])
    monkeypatch.setattr(uuid, "uuid4", lambda: next(ids))
    broker.prepare(find_java(), kafka_classpath(print), tmp_path, tmp_path / "log", {"kafka": 1, "controller": 2})
    assert "cluster.id=AAAA" in (tmp_path / "data" / "meta.properties").read_text()


def test_jars_match_their_pinned_digests() -> None:
    pins = read_pins()
    assert len(pins) == 92 and len({pin.filename for pin in pins}) == 92
    assert all(re.fullmatch(r"[0-9a-f]{64}", pin.sha256) for pin in pins)
    for pin, path in zip(pins, kafka_classpath(), strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == pin.sha256


def test_mlflow_server_variables_match_the_package() -> None:
    code = (
        "from mlflow.server.constants import *; from mlflow.environment_variables import _MLFLOW_SGI_NAME; "
        "print(BACKEND_STORE_URI_ENV_VAR, ARTIFACT_ROOT_ENV_VAR, ARTIFACTS_DESTINATION_ENV_VAR, "
        "SERVE_ARTIFACTS_ENV_VAR, _MLFLOW_SGI_NAME.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    written = (Path(console_consumer.__file__).parent / "mlflow_process.py").read_text()
    assert len(names) == 5 and all(f'"{name}":' in written for name in names)


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A listener on the loopback address: its address, and what was posted to it."""
    posted: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append(({key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/promoted", posted
    server.shutdown()
    server.server_close()


def _is_about(settings: Settings, body: bytes) -> bool:
    """Return True if a message is about the model of the stream: other tests share the server."""
    return bool(json.loads(body)["data"]["name"] == settings.model_name)


def test_alias_webhook_announces_promotion(
    settings: Settings, receiver: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    address, posted = receiver
    client = mlflow.MlflowClient(settings.mlflow)
    hook = client.create_webhook(
        name=f"promotions-{settings.stream}", url=address, events=["model_version_alias.created"], secret="s3cret"
    )
    try:
        client.create_registered_model(settings.model_name)
        run = client.create_run(client.create_experiment(settings.model_name))
        client.log_text(run.info.run_id, "weights", "bundle/head.txt")
        source = f"runs:/{run.info.run_id}/bundle"
        version = client.create_model_version(settings.model_name, source, run.info.run_id)
        time.sleep(1.1)  # MLflow looks for new webhooks once in a second, and other tests share the server
        client.set_registered_model_alias(settings.model_name, "champion", version.version)
        assert eventually(lambda: any(_is_about(settings, body) for _, body in posted))
    finally:
        client.delete_webhook(hook.webhook_id)
    headers, body = next(one for one in posted if _is_about(settings, one[1]))
    told = json.loads(body)
    assert told["data"] == {"name": settings.model_name, "alias": "champion", "version": str(version.version)}
    signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.{body.decode()}"
    expected = b64encode(hmac.new(b"s3cret", signed.encode(), hashlib.sha256).digest()).decode()
    assert headers["x-mlflow-signature"] == f"v1,{expected}"


def test_the_page_of_mlflow_is_served(settings: Settings) -> None:
    with urllib.request.urlopen(settings.mlflow, timeout=20) as answer:
        assert answer.status == 200 and b"<title>MLflow</title>" in answer.read()
