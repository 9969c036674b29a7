"""`driftloop serve`: the API, the live page and the loop's metrics, from the topics and the online store."""

from __future__ import annotations

import logging
import signal
import socket
from http import HTTPStatus
from typing import Any

import msgspec
import redis
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException as AnyHTTPException

import driftloop
from driftloop.errors import DriftloopError
from driftloop.health import metrics
from driftloop.messages import Prediction, decode
from driftloop.settings import ApiSettings, Settings
from driftloop.store import Store
from serving import page
from serving.live import Live
from serving.metrics import LoopCollector

NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class _Any(StringConvertor):
    """Starlette's own convertor for the rest of a path ends at a line break, and an event's id may hold one."""

    regex = "(?s:.*)"


register_url_convertor("any", _Any())


def make(settings: Settings, live: Live) -> FastAPI:
    """The application; ``live`` is open while it serves."""
    # FastAPI's own documentation pages load their scripts from elsewhere; the schema itself is at /openapi.json.
    app = FastAPI(title="driftloop", version=driftloop.__version__, docs_url=None, redoc_url=None)
    store = Store(settings)

    @app.exception_handler(AnyHTTPException)
    def problem(_request: Request, error: AnyHTTPException) -> JSONResponse:
        """RFC 9457: every error has the same form, the router's own as well."""
        body = {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code, "detail": error.detail}
        headers = {**NO_SNIFFING, **(error.headers or {})}
        return JSONResponse(body, error.status_code, media_type="application/problem+json", headers=headers)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def live_page() -> HTMLResponse:
        policy = {"Content-Security-Policy": page.content_security_policy()}
        return HTMLResponse(page.render(live), headers={**NO_SNIFFING, **policy})

    @app.get("/health", tags=["operation"], responses={503: {"description": "Nothing has been followed for a while"}})
    def health() -> Response:
        """Whether the topics are being followed: 200, or 503 when they have not been for a while."""
        verdict = live.pulse.verdict()
        return Response(verdict.body(), verdict.status, media_type="application/json")

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """The loop's figures in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/status", tags=["loop"])
    def status() -> dict[str, Any]:
        """Counts, lag, the champion, accuracy by version, and the newest news."""
        with live.lock:
            board, state = live.board, live.board.state
            return {
                "stream": settings.stream,
                "phase": state.phase,
                "champion": live.champion or None,
                "events": state.events,
                "predictions": state.predictions,
                "labels": state.labels,
                "outcomes": state.outcomes,
                "dead_letters": state.dead_letters,
                "lag": state.lag,
                "events_per_second": round(board.rate, 2),
                "accuracy": board.accuracy,
                "accuracy_by_version": {v: t.accuracy for v, t in board.versions.items()},
                "drift_alerts": dict(live.alerts),
                "retrainings": dict(live.retrainings),
                "retraining": board.retraining,
                "news": list(board.news)[-20:],
            }

    @app.get("/v1/predictions/{event_id:any}", tags=["loop"], responses=_problems(404, 502, 503))
    def prediction(event_id: str) -> dict[str, Any]:
        """What was said about an event, while it is kept (DRIFTLOOP_KEEP_HOURS)."""
        try:
            body = store.predictions([event_id])[0]
        except redis.RedisError as error:
            raise HTTPException(503, "The online store does not answer; try again in a moment.") from error
        if body is None:
            raise HTTPException(404, f"There is no prediction for {event_id[:200]!r}: it is unknown, waits, or is old.")
        try:
            found: dict[str, Any] = msgspec.to_builtins(decode(Prediction, body))
        except ValueError as error:
            raise HTTPException(502, f"The stored prediction cannot be read: {error}.") from error
        return found

    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for the schema; every one has the form of RFC 9457."""
    content: dict[str, Any] = {"application/problem+json": {"schema": {"type": "object"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DriftloopError: Redis does not answer, or the port cannot be taken.
    """
    logging.basicConfig(level=logging.WARNING)
    Store(settings).check()
    with _listen(settings.api) as listener, Live(settings) as live:
        REGISTRY.register(LoopCollector(live))
        config = uvicorn.Config(
            make(settings, live),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        # uvicorn, once it has ended, sends its signal again, to whoever was there before it: that one ends it the same.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])


def _listen(chosen: ApiSettings) -> socket.socket:
    try:
        return socket.create_server((chosen.address, chosen.port))
    except OSError as error:
        raise DriftloopError(
            f"Port {chosen.port} on {chosen.address} cannot be used for the API ({error.strerror}): set "
            "DRIFTLOOP_API__PORT to a free one."
        ) from error
