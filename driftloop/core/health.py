"""HTTP endpoints of a process: `/health`, and `/metrics` for Prometheus."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

import driftloop.core.metrics  # noqa: F401  # it configures the metrics of every process
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import HealthSettings


@dataclass(frozen=True)
class HealthStatus:
    """Health of a process, with a description of its work."""

    healthy: bool
    text: str

    @property
    def http_status(self) -> HTTPStatus:
        """200 if the process is healthy, otherwise 503."""
        return HTTPStatus.OK if self.healthy else HTTPStatus.SERVICE_UNAVAILABLE

    def body(self) -> bytes:
        """Return the body of `/health`, a JSON object."""
        return json.dumps({"well": self.healthy, "doing": self.text}).encode() + b"\n"


class Heartbeat:
    """Progress of a process: it is unhealthy if `beat` was not called for ``patience`` seconds.

    Call `beat` after work is done, or if there is certainly no work. Never call it from a timer, because a timer
    continues in a process that hangs.

    Args:
        patience: Seconds without a beat after which the process is unhealthy.
        clock: Source of the time in seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._last = clock()
        self._doing = "starting"

    def beat(self, doing: str = "") -> None:
        """Record progress. ``doing`` describes the work; empty keeps the last description."""
        self._last = self._clock()
        self._doing = doing or self._doing

    def status(self) -> HealthStatus:
        """Return the health at this moment."""
        silent = self._clock() - self._last
        if silent <= self._patience:
            return HealthStatus(True, self._doing)
        return HealthStatus(False, f"no progress for {silent:.0f} s; last seen {self._doing}")


@contextmanager
def serve_health(settings: HealthSettings, heartbeat: Heartbeat) -> Iterator[int]:
    """Serve ``/health`` and ``/metrics`` from a thread while the block runs.

    Args:
        settings: Address and port. Port `0` disables the server.
        heartbeat: Progress of this process.

    Yields:
        The port, `0` without a server.

    Raises:
        DriftloopError: The port is not available.
    """
    if not settings.port:
        yield 0
        return
    try:
        server = _Server((settings.address, settings.port), _handler(heartbeat))
    except OSError as error:
        raise DriftloopError(
            f"Port {settings.port} on {settings.address} cannot be used for health and metrics ({error.strerror}): set "
            "DRIFTLOOP_HEALTH__PORT to a free one, or to 0 for none."
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True, name="health").start()
    try:
        yield settings.port
    finally:
        server.shutdown()
        server.server_close()


def metrics() -> bytes:
    """Return the metrics of this process in the text format of Prometheus."""
    return generate_latest(REGISTRY)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback if the client closed the connection.

        Args:
            request: Socket of the client.
            client_address: Address of the client.
        """
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(heartbeat: Heartbeat) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """Answer `/health` or `/metrics`."""
            if self.path == "/health":
                status = heartbeat.status()
                self._send(status.http_status, "application/json", status.body())
            elif self.path == "/metrics":
                self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics())
            else:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"/health and /metrics are here\n")

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log no requests: probes arrive every few seconds."""

    return Handler
