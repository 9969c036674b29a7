"""A process's own word on whether it gets on, over HTTP, and the probe that asks for it."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from driftloop.core.errors import DriftloopError
from driftloop.core.health import Heartbeat, serve_health
from driftloop.core.processes import health_probe
from driftloop.core.settings import HealthSettings
from driftloop.devstack.ports import HOST, free_port, is_free

PATIENCE = 10.0


class Clock:
    """Seconds that pass only when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Heartbeat:
    return Heartbeat(PATIENCE, clock)


@pytest.fixture
def served(pulse: Heartbeat) -> Iterator[str]:
    """The address at which the pulse is answered for."""
    with serve_health(HealthSettings(port=free_port()), pulse) as port:
        yield f"http://{HOST}:{port}"


def ask(url: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        answer = urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return int(answer.status), str(answer.headers["Content-Type"]), answer.read().decode()


def listening() -> set[int]:
    """The ports that this process listens on."""
    found = psutil.Process().net_connections("inet")
    return {connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN}


def test_beat_keeps_heartbeat_healthy_for_patience_period(pulse: Heartbeat, clock: Clock) -> None:
    """Heartbeat is healthy from its start on, and each beat starts the period again."""
    assert (pulse.status().healthy, pulse.status().text) == (True, "starting")
    clock.now += PATIENCE
    assert pulse.status().healthy
    pulse.beat("7 messages handled")
    clock.now += PATIENCE
    assert (pulse.status().healthy, pulse.status().text) == (True, "7 messages handled")


def test_missing_beat_reports_duration_and_last_activity(pulse: Heartbeat, clock: Clock) -> None:
    """Process is unhealthy, with status 503, until its next beat."""
    pulse.beat("7 messages handled")
    clock.now += PATIENCE + 0.6
    verdict = pulse.status()
    assert (verdict.healthy, verdict.http_status) == (False, 503)
    assert verdict.text == "no progress for 11 s; last seen 7 messages handled"
    assert json.loads(verdict.body()) == {"well": False, "doing": verdict.text}
    pulse.beat()
    assert pulse.status().healthy and pulse.status().text == "7 messages handled", "an ill process may recover"


def test_health_endpoint_returns_200_or_503_with_status(pulse: Heartbeat, clock: Clock, served: str) -> None:
    pulse.beat("scoring")
    status, kind, body = ask(f"{served}/health")
    assert (status, kind, json.loads(body)) == (200, "application/json", {"well": True, "doing": "scoring"})
    clock.now += PATIENCE + 1
    status, kind, body = ask(f"{served}/health")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body) == {"well": False, "doing": "no progress for 11 s; last seen scoring"}


def test_unknown_path_of_health_server_is_404(served: str) -> None:
    assert {ask(served + path)[0] for path in ("/", "/healthy", "/health/", "/../health", "/metrics2")} == {404}


def test_metrics_are_served_in_prometheus_format(served: str) -> None:
    status, kind, body = ask(f"{served}/metrics")
    assert status == 200 and kind.startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    (python,) = families["python_info"].samples
    assert python.labels["major"] == str(sys.version_info.major)


def test_silent_connection_does_not_block_others(served: str) -> None:
    address = (HOST, int(served.rsplit(":", 1)[1]))
    with socket.create_connection(address), socket.create_connection(address):
        assert ask(f"{served}/health")[0] == 200


def test_reset_connection_logs_nothing(served: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with socket.create_connection((HOST, int(served.rsplit(":", 1)[1]))) as caller:
        caller.sendall(b"GET /health")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
    assert ask(f"{served}/health")[0] == 200
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert capfd.readouterr() == ("", "")


def test_port_is_released_after_block(pulse: Heartbeat) -> None:
    port = free_port()
    for _ in range(2):
        with serve_health(HealthSettings(port=port), pulse) as taken:
            assert taken == port and port in listening()
        assert is_free(port) and port not in listening()


def test_port_0_disables_health_server(pulse: Heartbeat) -> None:
    before = listening(), threading.active_count()
    with serve_health(HealthSettings(port=0), pulse) as port:
        assert port == 0
        assert (listening(), threading.active_count()) == before


@pytest.mark.parametrize("address", [HOST, "nowhere.invalid"])
def test_unusable_port_error_names_setting(pulse: Heartbeat, address: str) -> None:
    """Error is one line with the port and the address."""
    with socket.create_server((HOST, 0)) as taken:
        chosen = HealthSettings(address=address, port=taken.getsockname()[1])
        with pytest.raises(DriftloopError) as error, serve_health(chosen, pulse):
            pass
    text = str(error.value)
    assert text.startswith(f"Port {chosen.port} on {address} cannot be used for health and metrics (")
    assert "DRIFTLOOP_HEALTH__PORT" in text and "\n" not in text and "None" not in text


def probed(*argv: str, **environ: str) -> tuple[int, str]:
    """Exit status and output of the probe, without anything but the standard library to import."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(health_probe.__file__)), *argv],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_probe_exit_status_follows_health(pulse: Heartbeat, clock: Clock, served: str) -> None:
    pulse.beat("scoring")
    assert probed(f"{served}/health") == (0, '{"well": true, "doing": "scoring"}\n')
    clock.now += PATIENCE + 1
    code, said = probed(f"{served}/health")
    assert code == 1 and "no progress for 11 s; last seen scoring" in said


def test_probe_uses_configured_port_without_proxy(served: str) -> None:
    port = served.rsplit(":", 1)[1]
    nobody = f"http://{HOST}:{free_port()}"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), nobody)
    code, said = probed(DRIFTLOOP_HEALTH__PORT=port, no_proxy="", NO_PROXY="", **proxies)
    assert (code, said) == (0, '{"well": true, "doing": "starting"}\n')


def test_probe_fails_when_port_is_closed() -> None:
    url = f"http://{HOST}:{free_port()}/health"
    code, said = probed(url)
    assert code == 1 and said.startswith(f"{url} does not answer: ") and said.count("\n") == 1


@pytest.mark.parametrize("answer", [b"220 smtp.example.org ESMTP\r\n", b""])
def test_probe_fails_when_answer_is_not_http(answer: bytes) -> None:
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(answer)
                caller.shutdown(socket.SHUT_WR)
                caller.recv(1000)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        code, said = probed(f"http://{HOST}:{server.getsockname()[1]}/health")
        thread.join(10)
    assert code == 1 and "does not answer: " in said and said.count("\n") == 1


@pytest.mark.parametrize("url", ["health", "http://", "http://127.0.0.1:many/health"])
def test_probe_fails_on_invalid_address_in_one_line(url: str) -> None:
    code, said = probed(url)
    assert code == 1 and said.startswith(f"{url} does not answer: ") and said.count("\n") == 1
