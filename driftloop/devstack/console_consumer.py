"""Kafka's own console consumer, run from the cached jars against any broker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import KafkaSecurity, Settings
from driftloop.devstack.java import find_java
from driftloop.devstack.kafka_broker import JVM, class_path
from driftloop.devstack.kafka_download import Progress, kafka_classpath

CLASS = "org.apache.kafka.tools.consumer.ConsoleConsumer"
# Lines of the tool itself that no logging level turns off.
_NOISE = re.compile(rb"^(The consumer rebalance protocol|SLF4J|WARNING: )")


def console_consumer(
    bootstrap: str,
    topic: str,
    *,
    from_beginning: bool,
    max_messages: int | None,
    security: KafkaSecurity | None = None,
    progress: Progress = lambda _line: None,
) -> int:
    """Print the values of a topic to standard output, one per line.

    Args:
        bootstrap: Bootstrap servers, ``host:port``.
        topic: Full name of the topic.
        from_beginning: Print existing messages too.
        max_messages: Messages to print. `None` prints until Ctrl-C.
        security: Identity on a secured broker. `None` for a plain one.
        progress: Called with a line before jars are fetched.

    Returns:
        The exit status of the consumer, `0` after Ctrl-C, which is its usual end.

    Raises:
        DriftloopError: no broker answers, it has no such topic, or Java or Kafka's jars are not available.
    """
    security = security or KafkaSecurity()
    _check(bootstrap, topic, security)
    jars, java = kafka_classpath(progress), find_java()
    with _client_properties(security) as file:
        argv = [str(java), *JVM, "-Xmx256m", "-Ddriftloop.log.level=error", "-cp", class_path(jars), CLASS]
        argv += _options(bootstrap, topic, from_beginning, max_messages, file)
        sys.stdout.flush()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        forward = threading.Thread(target=_forward, args=(process.stderr,), daemon=True)
        forward.start()
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has interrupted the consumer too, which closes regularly
            process.terminate()
            process.wait(10)
            code = 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            forward.join(2)
    return code


def equivalent_command(
    bootstrap: str,
    topic: str,
    *,
    from_beginning: bool = True,
    max_messages: int | None = None,
    security: KafkaSecurity | None = None,
) -> str:
    """Return the equivalent command line for a Kafka distribution.

    On a secured broker it names ``client.properties``, a file that the user must provide.

    Args:
        bootstrap: Bootstrap servers, ``host:port``.
        topic: Full name of the topic.
        from_beginning: Print existing messages too.
        max_messages: Messages to print. `None` sets no limit.
        security: Identity on a secured broker. `None` for a plain one.
    """
    secured = security is not None and security.protocol != "PLAINTEXT"
    file = Path("client.properties") if secured else None
    options = _options(bootstrap, topic, from_beginning, max_messages, file)
    return shlex.join(["bin/kafka-console-consumer.sh", *options])


def _options(
    bootstrap: str, topic: str, from_beginning: bool, max_messages: int | None, file: Path | None
) -> list[str]:
    options = ["--bootstrap-server", bootstrap, "--topic", topic]
    if from_beginning:
        options.append("--from-beginning")
    if max_messages is not None:
        options += ["--max-messages", str(max_messages)]
    if file is not None:
        options += ["--command-config", str(file)]
    return options


def _check(bootstrap: str, topic: str, security: KafkaSecurity) -> None:
    """Raise before Java starts if the topic is missing, because the console consumer would wait forever."""
    client = clients.admin(Settings(kafka=bootstrap, security=security))
    try:
        names = sorted(client.list_topics())
    finally:
        client.close()
    if topic not in names:
        shown = ", ".join(name for name in names if not name.startswith("__")) or "none yet"
        raise DriftloopError(f"The broker at {bootstrap} has no topic {topic!r}; its topics are: {shown}.")


@contextmanager
def _client_properties(security: KafkaSecurity) -> Iterator[Path | None]:
    """Yield a file with client properties that only this user can read, `None` for a plain broker."""
    if security.protocol == "PLAINTEXT":
        yield None
        return
    lines: dict[str, str] = {"security.protocol": security.protocol}
    if security.protocol.startswith("SASL"):
        scram = security.mechanism.startswith("SCRAM")
        module = "scram.ScramLoginModule" if scram else "plain.PlainLoginModule"
        lines["sasl.mechanism"] = security.mechanism
        lines["sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module} required "
            f"username={_quoted(security.username)} password={_quoted(security.password)};"
        )
    if security.ca_file:
        lines |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": security.ca_file}
    descriptor, name = tempfile.mkstemp(prefix="driftloop-", suffix=".properties")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(f"{key}={value}\n".replace("\\", "\\\\") for key, value in lines.items())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _forward(stream: IO[bytes] | None) -> None:
    for line in stream or ():
        if not _NOISE.match(line):
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()
