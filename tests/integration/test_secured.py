"""The embedded stack in its secured form: each role does its work with its own identity, and nothing else.

Every refusal has its control beside it: the same thing with the right identity.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.errors import GroupAuthorizationFailedError
from msgspec.structs import replace

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import acls, clients
from driftloop.core.kafka.acls import ROLES, Role
from driftloop.core.kafka.auth import AccessDenied, tls_context
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Label
from driftloop.core.models.registry import Registry
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import KafkaSecurity, Settings
from driftloop.core.settings_source import environment
from driftloop.core.topics import EVENTS, LABELS, MODEL_UPDATES, OUTCOMES, PREDICTIONS, Topic
from driftloop.devstack import certificates
from driftloop.devstack.ports import HOST
from driftloop.devstack.stack import EmbeddedStack
from tests.integration.conftest import StreamHarness

pytestmark = pytest.mark.slow

NAMES = [role.name for role in ROLES]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(tmp_path_factory.mktemp("secured"), progress=print, secured=True) as started:
        yield started


class Guarded(StreamHarness):
    """A stream on the secured stack; the test itself is its admin."""

    stack: EmbeddedStack

    def of(self, role: str) -> Settings:
        return self.stack.settings(self.settings, role)

    def run(self, verb: str, settings: Settings) -> ManagedProcess:
        child = ManagedProcess(
            verb,
            [sys.executable, "-m", "driftloop", verb],
            env=environment(settings),
            log=self.folder / f"{verb}.log",
        )
        child.start()
        self.children.append(child)
        return child


@pytest.fixture
def guarded(secured: EmbeddedStack, tmp_path: Path) -> Iterator[Guarded]:
    mark = uuid.uuid4().hex[:8]
    settings = secured.settings(Settings(stream=f"test-{mark}", topic_prefix=f"t{mark}."))
    topics.create(settings)
    acls.sync_acls(settings)
    made = Guarded(settings, tmp_path)
    made.stack = secured
    yield made
    made.close()


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A verb run to its end; one that hangs fails the test."""
    argv = [sys.executable, "-m", "driftloop", *arguments]
    return subprocess.run(
        argv, env={**os.environ, **environment(settings)}, capture_output=True, text=True, timeout=120, check=False
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence that has ``words``, and a status that says so."""
    assert done.returncode == 2 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("driftloop: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_loop_runs_with_one_identity_per_role(guarded: Guarded) -> None:
    guarded.outbox = ConfirmedProducer(guarded.of("retrainer"))
    first = guarded.promote()
    guarded.run("score", guarded.of("scorer"))
    guarded.run("monitor", guarded.of("monitor"))
    guarded.outbox = ConfirmedProducer(guarded.of("producer"))
    guarded.send(events=range(50), labels=range(50))
    guarded.until(lambda: guarded.count(OUTCOMES) >= 50)
    guarded.outbox = ConfirmedProducer(guarded.of("retrainer"))
    second = guarded.promote(flipped=True)
    guarded.outbox = ConfirmedProducer(guarded.of("producer"))
    sent = 50
    while {p.model_version for p in guarded.read(PREDICTIONS)} != {first, second}:
        guarded.send(events=range(sent, sent + 10), labels=range(sent, sent + 10))
        sent += 10
        guarded.until(lambda wanted=sent: guarded.count(OUTCOMES) >= wanted)  # type: ignore[misc]
        assert sent < 2000
    seen = json.loads(command(guarded.of("reader"), "audit", "--json").stdout)
    assert (seen["verdict"], seen["counts"]["events"], seen["counts"]["outcomes"]) == (
        "ALL-RECORDS-DELIVERED",
        sent,
        sent,
    )


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_role_writes_only_to_its_topics(guarded: Guarded, role: Role) -> None:
    for topic in topics.ALL:
        outbox = ConfirmedProducer(guarded.of(role.name))
        try:
            outbox.put(topic.name, "key", b"{}")
            outbox.flush()
            wrote = True
        except AccessDenied as error:
            wrote = False
            where = topics.name(guarded.settings, topic) if role.writes else "anything here"
            assert f"let driftloop-{role.name} write to {where}: set DRIFTLOOP_SECURITY__USERNAME" in str(error)
        finally:
            outbox.close()
        assert wrote == (topic in role.writes) == bool(guarded.count(topic)), topic.name


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_role_reads_only_its_topics(guarded: Guarded, role: Role) -> None:
    body = Label(event_id="e", label="x", labelled_at=1.0)
    for topic in topics.ALL:
        guarded.outbox.put(topic.name, "key", body)
    guarded.outbox.flush()

    def reads(topic: Topic) -> bool:
        full = topics.name(guarded.settings, topic)
        try:
            return clients.read_all(guarded.of(role.name), full, Label) == [body]
        except AccessDenied as error:
            assert f"let driftloop-{role.name} read {full}: set DRIFTLOOP_" in str(error)
            return False

    assert [topic.name for topic in topics.ALL if reads(topic)] == [t.name for t in topics.ALL if t in role.reads]


@pytest.mark.parametrize(("role", "joins"), [("scorer", True), ("monitor", False), ("producer", False)])
def test_only_scorer_joins_scorer_consumer_group(guarded: Guarded, role: str, joins: bool) -> None:
    """The monitor may read the scorer's lag nowhere and take none of its partitions."""
    client = clients.consumer(guarded.of(role), group_id=clients.group_id("scorer", guarded.settings))
    client.subscribe([topics.name(guarded.settings, EVENTS if role != "monitor" else LABELS)])
    try:
        while not client.assignment():
            client.poll(timeout_ms=500)
        assert joins
    except GroupAuthorizationFailedError:
        assert not joins
    finally:
        client.close(autocommit=False)


@pytest.mark.parametrize(
    ("verb", "role", "sentence"),
    [
        ("score", "producer", "let driftloop-producer write to {}predictions, as the scorer must"),
        ("monitor", "scorer", "let driftloop-scorer read {}labels, as the monitor must"),
        ("retrain", "scorer", "let driftloop-scorer read {}labels, as the retrainer must"),
        ("rollback", "reader", "let driftloop-reader"),
    ],
)
def test_command_with_wrong_role_is_refused(guarded: Guarded, verb: str, role: str, sentence: str) -> None:
    """The control is the loop above, and the rollback below."""
    if verb == "rollback":
        first = guarded.promote()
        second = guarded.promote()
        arguments = ["rollback", first, "--reason", "a test"]
        refused(command(guarded.of(role), *arguments), sentence)
        assert guarded.count(MODEL_UPDATES) == 2 and Registry(guarded.settings).champion() == second
        assert command(guarded.of("retrainer"), *arguments).returncode == 0
        assert guarded.count(MODEL_UPDATES) == 3
    else:
        refused(command(guarded.of(role), verb), sentence.format(guarded.settings.topic_prefix), "DRIFTLOOP_SECURITY")


def test_replay_with_wrong_role_sends_nothing(guarded: Guarded) -> None:
    arguments = ["replay", "tweets-short", "--rate", "max", "--limit", "5"]
    wrong = command(guarded.of("scorer"), *arguments)
    refused(wrong, f"let driftloop-scorer write to {guarded.settings.topic_prefix}events, as the producer must")
    assert guarded.count(EVENTS) == 0
    assert command(guarded.of("producer"), *arguments).returncode == 0
    assert guarded.count(EVENTS) == 5


def wrong(right: KafkaSecurity, how: str, folder: Path) -> KafkaSecurity:
    if how == "untrusted":
        return replace(right, ca_file=str(certificates.issue_certificates(folder / "other").ca))
    changes: dict[str, dict[str, str]] = {
        "password": {"password": "guessed"},
        "user": {"username": "driftloop-stranger"},
        "mechanism": {"mechanism": "PLAIN"},
        "plaintext": {"protocol": "PLAINTEXT"},
        "without password": {"protocol": "SSL"},
    }
    return replace(right, **changes[how])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("password", "does not let driftloop-reader in with SCRAM-SHA-512: set DRIFTLOOP_SECURITY__USERNAME"),
        ("user", "does not let driftloop-stranger in with SCRAM-SHA-512"),
        ("mechanism", "does not let driftloop-reader in with PLAIN"),
        ("untrusted", "is not trusted (unable to get local issuer certificate): set DRIFTLOOP_SECURITY__CA_FILE"),
        ("plaintext", "does not answer as a Kafka broker that speaks PLAINTEXT: set DRIFTLOOP_SECURITY__PROTOCOL"),
        ("without password", "does not answer as a Kafka broker that speaks SSL: set DRIFTLOOP_SECURITY__PROTOCOL"),
    ],
)
def test_wrong_credentials_are_refused(guarded: Guarded, how: str, words: str) -> None:
    """The error names the login or the setting to correct."""
    right = guarded.of("reader")
    strange = replace(right, security=wrong(right.security, how, guarded.folder))
    refused(command(strange, "topics"), words)
    assert command(right, "topics").returncode == 0


@pytest.mark.parametrize("topic", [EVENTS, PREDICTIONS, MODEL_UPDATES], ids=lambda topic: topic.name)
def test_scorer_exits_when_a_right_is_revoked(guarded: Guarded, topic: Topic, monkeypatch) -> None:
    """The log names the topic of the revoked right."""
    guarded.promote()
    scorer = guarded.run("score", guarded.of("scorer"))
    guarded.send(events=range(10))
    guarded.until(lambda: guarded.count(PREDICTIONS) >= 10)
    role = acls.find_role("scorer")
    fewer = Role(
        "scorer",
        role.verbs,
        writes=tuple(t for t in role.writes if t is not topic),
        reads=tuple(t for t in role.reads if t is not topic),
        joins_group=True,
    )
    monkeypatch.setattr(acls, "ROLES", tuple(fewer if one is role else one for one in ROLES))
    lost = (topic in role.writes) + (topic in role.reads)  # its own predictions it writes and reads
    assert acls.sync_acls(guarded.settings) == (0, lost)
    sent = 10
    while scorer.poll() is None:  # what it may no longer do, it notices when it does it
        guarded.send(events=range(sent, sent + 1))
        sent += 1
        time.sleep(0.2)
        assert sent < 300, scorer.log_tail()
    assert scorer.exit_code == 2
    assert "does not let driftloop-scorer" in scorer.log_tail() and topic.name in scorer.log_tail()


def test_only_admin_sets_access_rules(guarded: Guarded) -> None:
    done = command(guarded.settings, "topics", "--acls")
    assert done.returncode == 0 and "\n".join(acls.acl_table()) in done.stdout and "0 rules added" in done.stderr
    refused(command(guarded.of("retrainer"), "topics", "--acls"), "let driftloop-retrainer set the access rules")


def test_broker_without_authorizer_is_reported(settings: Settings) -> None:
    with pytest.raises(DriftloopError, match="accepts no access rules"):
        acls.sync_acls(settings)


def test_controller_requires_client_certificate(secured: EmbeddedStack) -> None:
    """Whoever could log in at the controller could give himself every right."""
    folder = secured.root / "secrets"

    def turned_away(security: KafkaSecurity) -> bool:
        context = tls_context(security)
        assert context is not None
        plain = socket.create_connection((HOST, secured.ports["controller"]))
        with context.wrap_socket(plain, server_hostname=HOST) as client:
            client.settimeout(2)
            try:
                return client.recv(1) == b""
            except TimeoutError:  # it waits for a request
                return False
            except ssl.SSLError:
                return True

    stranger = KafkaSecurity(protocol="SSL", ca_file=str(folder / "ca.pem"))
    assert turned_away(stranger)
    assert not turned_away(replace(stranger, cert_file=str(folder / "broker.pem")))


def test_run_cannot_switch_between_plain_and_secured(secured: EmbeddedStack, tmp_path: Path) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    with pytest.raises(DriftloopError, match="was started without DRIFTLOOP_SECURED"):
        EmbeddedStack(tmp_path, secured=True).start()
    (tmp_path / "secrets").mkdir()
    with pytest.raises(DriftloopError, match="was started with DRIFTLOOP_SECURED"):
        EmbeddedStack(tmp_path).start()
