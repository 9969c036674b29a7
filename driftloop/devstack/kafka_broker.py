"""Apache Kafka as a child process: one KRaft node, broker and controller."""

from __future__ import annotations

import base64
import re
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from driftloop.core.errors import DriftloopError
from driftloop.core.files import write_private
from driftloop.core.kafka.acls import ADMIN, BROKER, user_name
from driftloop.core.kafka.clients import MAX_MESSAGE, connection
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import Settings
from driftloop.devstack import jvm_class_cache
from driftloop.devstack.credentials import Credentials
from driftloop.devstack.ports import HOST, listening

# One compiler tier and the serial collector: a broker with little load starts faster and needs less memory.
JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties').as_uri()}",
)

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENTS",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_MESSAGE),
    "replica.fetch.max.bytes": str(MAX_MESSAGE),
    "socket.request.max.bytes": str(4 * MAX_MESSAGE),
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill -9 the controller admits the broker again only when its old session has expired.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}

# Clients log in with a password, the broker with its certificate at its own controller. Without an ACL, access is
# denied. File names are relative to the working folder, as below.
SECURED = {
    "listener.security.protocol.map": "CLIENTS:SASL_SSL,CONTROLLER:SSL",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": f"User:{user_name(ADMIN)};User:CN={user_name(BROKER)}",
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": "../secrets/broker.pem",
    "ssl.truststore.type": "PEM",
    "ssl.truststore.location": "../secrets/ca.pem",
    "listener.name.controller.ssl.client.auth": "required",
    "sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
    "listener.name.clients.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
}


def prepare(
    java: Path,
    jars: Sequence[Path],
    folder: Path,
    log: Path,
    ports: Mapping[str, int],
    keep: Sequence[int] = (),
    credentials: Credentials | None = None,
    *,
    advertised: int = 0,
) -> ManagedProcess:
    """Format new storage, write the properties, and return the process of the broker, which is not started.

    The properties name the voters, not the storage, so the ports may differ from one start to the next.

    Args:
        java: The Java executable.
        jars: Class path of Kafka.
        folder: Folder of the data; made if missing.
        log: File for the output of the broker.
        ports: Ports of ``kafka`` and ``controller``.
        keep: File descriptors that the process inherits.
        credentials: Users of a secured broker, in the folder ``secrets`` beside ``folder``. The broker accepts only
            these users, with the rights of `driftloop.core.kafka.acls`. `None` for a plain broker.
        advertised: Port that clients are told to use, of a proxy. `0` for the broker's own.

    Raises:
        DriftloopError: the storage cannot be formatted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    written = {
        **PROPERTIES,
        **(SECURED if credentials else {}),
        "listeners": f"CLIENTS://{HOST}:{ports['kafka']},CONTROLLER://{HOST}:{ports['controller']}",
        "advertised.listeners": f"CLIENTS://{HOST}:{advertised or ports['kafka']}",
        "controller.quorum.voters": f"1@{HOST}:{ports['controller']}",
        # Relative to the working folder: a path in a properties file allows neither commas nor non-Latin-1 letters.
        "log.dirs": "data",
    }
    properties.write_text("".join(f"{key}={value}\n" for key, value in written.items()), encoding="utf-8")
    path = class_path(jars)
    archive = jvm_class_cache.java_options(java, path, jars[0].parent, folder)
    if not (folder / "data" / "meta.properties").exists():
        _format(java, path, folder, properties.name, credentials)
    argv = [str(java), *JVM, *archive, "-Xms64m", "-Xmx512m", "-cp", path, "kafka.Kafka", properties.name]
    return ManagedProcess("Kafka", argv, env={}, log=log, cwd=folder, keep=keep)


def store_class_cache(java: Path, jars: Sequence[Path], folder: Path) -> None:
    """Move the class archive of a broker that has ended to the cache, for the next start.

    Args:
        java: The Java executable.
        jars: Class path of Kafka.
        folder: Folder of the broker's data.
    """
    jvm_class_cache.store_archive(java, class_path(jars), jars[0].parent, folder)


def class_path(jars: Sequence[Path]) -> str:
    """Return the class path: exactly the verified files, never a wildcard."""
    return ":".join(str(jar) for jar in jars)


def ready(port: int, settings: Settings) -> bool:
    """Return True if the broker answers a real request.

    Args:
        port: Port of the broker.
        settings: Settings with its address and an identity.
    """
    if not listening(port):
        return False
    try:
        client = KafkaAdminClient(**{**connection(settings), "bootstrap_timeout_ms": 2000})
        try:
            client.list_topics()
        finally:
            client.close()
    except (KafkaError, OSError):
        return False
    return True


def _format(java: Path, path: str, folder: Path, properties: str, credentials: Credentials | None) -> None:
    """Format the storage of a new broker and create its users."""
    cluster = "-"
    while cluster.startswith("-"):  # the storage tool would parse such an id as an option
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    options = [
        "--ignore-formatted",
        "-t",
        cluster,
        "-c",
        properties,
        *(credentials.scram_options() if credentials else ()),
    ]
    write_private(folder / "format.options", "\n".join(options).encode())
    argv = [str(java), *JVM, "-cp", path, "kafka.tools.StorageTool", "format", "@format.options"]
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriftloopError(f"Kafka's storage could not be formatted with {java}: {error}.") from error
    finally:
        (folder / "format.options").unlink()
    if done.returncode != 0:
        first = next((line for line in (done.stderr + done.stdout).splitlines() if line.strip()), "no reason given")
        reason = re.sub(r'^Exception in thread "main" \S+: ', "", first)
        raise DriftloopError(f"Kafka's storage could not be formatted: {reason}.")
