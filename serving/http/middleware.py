"""ASGI middleware that rejects unknown hosts, cross-origin writes and oversized bodies."""

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
"""Prefix of endpoints without an end; their duration is not measured."""
REQUESTS = Counter("driftloop_http_requests", "Requests that the guards accepted.", ["method", "path", "status"])
SECONDS = Histogram(
    "driftloop_http_request_seconds",
    "Seconds from the head of a request to the end of its response.",
    ["path"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestGuardMiddleware:
    """Middleware around the whole application.

    A browser also sends the requests of foreign pages, to any address. Against DNS rebinding the host name must be
    one of ``hosts``. Against cross-site request forgery a write and a web socket must come from the server's own
    pages. A request that no browser sent has no `Origin` header and is not affected.

    Args:
        app: The application.
        hosts: Host names under which the server may be called; empty for any.
        max_bytes: Most bytes of a body.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], max_bytes: int) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it.

        Args:
            scope: Connection scope of ASGI.
            receive: Yields the messages of the request.
            send: Takes the messages of the response.
        """
        if scope["type"] == "websocket":
            if self._rejection("CONNECT", Headers(scope=scope)) is None:
                await self._app(scope, receive, send)
            else:
                await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rejection = self._rejection(scope["method"], Headers(scope=scope))
        if rejection is not None:
            await rejection(scope, receive, send)
            return
        recorder = _StatusRecorder(send)
        began = time.perf_counter()
        try:
            await self._app(scope, _BodyLimit(receive, self._max_bytes), recorder)
        finally:
            # The endpoint's path template: a path with its values would make one series for each value.
            path = getattr(scope.get("route"), "path", "")
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUESTS.labels(method, path, recorder.status).inc()
            if not path.startswith(ENDLESS):
                SECONDS.labels(path).observe(time.perf_counter() - began)

    def _rejection(self, method: str, headers: Headers) -> JSONResponse | None:
        """Return the response to a rejected request; `None` if the request is accepted."""
        host = headers.get("host", "")
        if self._hosts and _host_name(f"//{host}") not in self._hosts:
            return problem(
                421, f"The host {host[:100]!r} is not allowed. Add it to DRIFTLOOP_API__HOSTS if it is yours."
            )
        origin = headers.get("origin")
        if method not in SAFE and origin is not None and urlsplit(origin).netloc != host:
            return problem(403, "A page of another server may not change anything here.")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            return problem(413, _too_long(self._max_bytes))
        return None


class _StatusRecorder:
    """Passes a response on and records its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500  # until one is sent

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _BodyLimit:
    """Passes a body on and stops it at the limit: a chunked body declares no length."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._received = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._most:
                raise HTTPException(413, _too_long(self._most))
        return message


def problem(status: int, detail: Any, path: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error response in the form of RFC 9457.

    Args:
        status: HTTP status.
        detail: Cause and remedy, as one sentence.
        path: Path of the request. Below `/v2` the body also has `error`, as the Open Inference Protocol demands.
        headers: Further headers.
    """
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if path.startswith("/v2"):
        body["error"] = str(detail)
    return JSONResponse(body, status, media_type="application/problem+json", headers={**NO_SNIFFING, **(headers or {})})


def _too_long(most: int) -> str:
    return f"The body is longer than {most} bytes. Send less at a time."


def _host_name(address: str) -> str:
    """Return the host of an address without its port; empty if the address is malformed."""
    try:
        name = urlsplit(address).hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name
