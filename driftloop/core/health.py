"""What a process says about itself over HTTP: `/health`, whether it gets on, and `/metrics`, for Prometheus."""

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

import driftloop.core.metrics  # noqa: F401  # what it sets up counts for every process
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import HealthSettings


@dataclass(frozen=True)
class HealthStatus:
    """Whether a process is well, and what it is doing in words."""

    healthy: bool
    text: str

    @property
    def http_status(self) -> HTTPStatus:
        """200 or 503."""
        return HTTPStatus.OK if self.healthy else HTTPStatus.SERVICE_UNAVAILABLE

    def body(self) -> bytes:
        """The answer as JSON."""
        return json.dumps({"well": self.healthy, "doing": self.text}).encode() + b"\n"


class Heartbeat:
    """Says whether a process gets on: it is ill once `beat` was not called for ``patience`` seconds.

    `beat` belongs where something has been done, or where it is certain that there is nothing to do: never on a timer
    of its own, which would beat on in a process that hangs.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._last = clock()
        self._doing = "starting"

    def beat(self, doing: str = "") -> None:
        """Something was done, or nothing is to be done; ``doing`` says what."""
        self._last = self._clock()
        self._doing = doing or self._doing

    def status(self) -> HealthStatus:
        """Well or ill at this moment."""
        silent = self._clock() - self._last
        if silent <= self._patience:
            return HealthStatus(True, self._doing)
        return HealthStatus(False, f"no progress for {silent:.0f} s; last seen {self._doing}")


@contextmanager
def serve_health(settings: HealthSettings, pulse: Heartbeat) -> Iterator[int]:
    """Serve ``/health`` and ``/metrics`` from a thread while the block runs; yields the port, 0 where none is wanted.

    Raises:
        DriftloopError: the port cannot be taken.
    """
    if not settings.port:
        yield 0
        return
    try:
        server = _Server((settings.address, settings.port), _handler(pulse))
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
    """This process's metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who hangs up early is not worth a traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(pulse: Heartbeat) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """Answer for the health or the metrics."""
            if self.path == "/health":
                verdict = pulse.status()
                self._send(verdict.http_status, "application/json", verdict.body())
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
            """Probes come every few seconds: they are not worth a line each."""

    return Handler
