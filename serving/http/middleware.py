"""What is turned away before anything is read: strange hosts and pages, and bodies that are too long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
ENDLESS = "/v1/stream/"
REQUESTS = Counter("driftloop_http_requests", "Requests that were let in.", ["method", "path", "status"])
SECONDS = Histogram(
    "driftloop_http_request_seconds",
    "Time from a request's head to the end of its answer.",
    ["path"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestGuardMiddleware:
    """ASGI middleware around the whole application.

    A browser sends what a page of somebody else tells it to, with the address of this machine as well: so the name
    under which the server is called has to be one of ``hosts`` (DNS rebinding), and what changes something has to come
    from a page of the server's own (cross-site request forgery), as does every web socket. What no browser sends has no
    ``Origin``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], max_bytes: int) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it here."""
        if scope["type"] == "websocket":
            if self._refused("CONNECT", Headers(scope=scope)) is None:
                await self._app(scope, receive, send)
            else:
                await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope["method"], Headers(scope=scope))
        if refused is not None:
            await refused(scope, receive, send)
            return
        answered = _StatusRecorder(send)
        began = time.perf_counter()
        try:
            await self._app(scope, _BodyLimit(receive, self._max_bytes), answered)
        finally:
            # The path as the endpoint has it: what callers put into it would make a series for each of them.
            path = getattr(scope.get("route"), "path", "")
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUESTS.labels(method, path, answered.status).inc()
            if not path.startswith(ENDLESS):
                SECONDS.labels(path).observe(time.perf_counter() - began)

    def _refused(self, method: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._hosts and _name(f"//{host}") not in self._hosts:
            return problem(421, f"This server is not {host[:100]!r}: name it in DRIFTLOOP_API__HOSTS if it is.")
        origin = headers.get("origin")
        if method not in SAFE and origin is not None and urlsplit(origin).netloc != host:
            return problem(403, "Pages of another server may not change anything here.")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            return problem(413, _too_long(self._max_bytes))
        return None


class _StatusRecorder:
    """Passes an answer on, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        """Until one is sent."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _BodyLimit:
    """Passes a body on, whose length nobody may have said, as long as it is not too long."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._come = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._come += len(message.get("body", b""))
            if self._come > self._most:
                raise HTTPException(413, _too_long(self._most))
        return message


def problem(status: int, detail: Any, path: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in the form that every one has (RFC 9457); the Open Inference Protocol wants an ``error`` beside."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if path.startswith("/v2"):
        body["error"] = str(detail)
    return JSONResponse(body, status, media_type="application/problem+json", headers={**NO_SNIFFING, **(headers or {})})


def _too_long(most: int) -> str:
    return f"The body is longer than {most} bytes: send less at a time."


def _name(address: str) -> str:
    """The host of an address, without its port."""
    try:
        name = urlsplit(address).hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name
