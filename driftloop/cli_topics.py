"""`driftloop topics`: the topics with their messages, and Kafka's own console consumer."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from driftloop import kafka, topics
from driftloop.errors import DriftloopError
from driftloop.settings import Settings

CONSOLE = "org.apache.kafka.tools.consumer.ConsoleConsumer"


def list_topics(settings: Settings) -> None:
    """Create what is missing, and print a table."""
    made = topics.create(settings)
    names = {topics.name(settings, topic): topic for topic in topics.ALL}
    counts = kafka.end_offsets(settings, names)
    for full in made:
        sys.stderr.write(f"created {full}\n")
    width = max(map(len, names))
    print(f"{'topic':<{width}}  {'messages':>9}  about")  # noqa: T201
    for full, topic in names.items():
        print(f"{full:<{width}}  {counts[full]:>9}  {topic.about}")  # noqa: T201


def console(settings: Settings, topic: str, most: int | None) -> int:
    """Run Kafka's ConsoleConsumer on ``topic`` until it ends or is interrupted, and return its exit status."""
    import subprocess

    from driftloop.lifecycle.embedded.jars import kafka_classpath
    from driftloop.lifecycle.embedded.java import find_java

    options = ["--bootstrap-server", settings.kafka, "--topic", f"{settings.topic_prefix}{topic}", "--from-beginning"]
    options += ["--max-messages", str(most)] if most else []
    sys.stderr.write(f"Elsewhere: {shlex.join(['kafka-console-consumer.sh', *options])}")
    secured = settings.security.protocol != "PLAINTEXT"
    sys.stderr.write(" --command-config client.properties\n" if secured else "\n")
    sys.stderr.flush()
    java, jars = find_java(), kafka_classpath(lambda line: print(line, file=sys.stderr))  # noqa: T201
    path = os.pathsep.join(map(str, jars))
    with tempfile.TemporaryDirectory(prefix="driftloop-console-") as folder:
        if secured:
            options += ["--command-config", str(_client_properties(settings, Path(folder)))]
        # Without a logging binding SLF4J would complain on every start.
        argv = [str(java), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", path, CONSOLE, *options]
        try:
            process = subprocess.Popen([*argv], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise DriftloopError(f"{java} could not be started: {error.strerror}.") from error
        try:
            for line in process.stderr or ():
                if not line.startswith("SLF4J"):
                    sys.stderr.write(line)
            return process.wait()
        finally:
            process.terminate()
            process.wait()


def _client_properties(settings: Settings, folder: Path) -> Path:
    """What Java's consumer needs to know of `DRIFTLOOP_SECURITY__…`, in a file that only this user reads."""
    security = settings.security
    lines = [f"security.protocol={security.protocol}"]
    if security.protocol.startswith("SASL"):
        module = "scram.ScramLoginModule" if security.mechanism.startswith("SCRAM") else "plain.PlainLoginModule"
        quoted = {
            name: value.replace("\\", "\\\\\\\\").replace('"', '\\\\"')
            for name, value in (("username", security.username), ("password", security.password))
        }
        lines += [
            f"sasl.mechanism={security.mechanism}",
            f"sasl.jaas.config=org.apache.kafka.common.security.{module} required "
            f'username="{quoted["username"]}" password="{quoted["password"]}";',
        ]
    if security.ca_file:
        lines += ["ssl.truststore.type=PEM", f"ssl.truststore.location={Path(security.ca_file).absolute()}"]
    file = folder / "client.properties"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
