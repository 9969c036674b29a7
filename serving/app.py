"""`driftloop serve`: the API, the live page and the loop's metrics, from the topics and the online store."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY
from starlette.exceptions import HTTPException as AnyHTTPException

import driftloop
from driftloop.core.errors import DriftloopError
from driftloop.core.health import metrics
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import ApiSettings, Settings
from serving import dashboard
from serving.http import docs_page
from serving.http.auth import Authenticator
from serving.http.middleware import RequestGuardMiddleware, problem
from serving.inference import BatchingPredictor
from serving.live.broadcast import Broadcast
from serving.live.loop_follower import LoopFollower
from serving.live.prometheus_collector import LoopCollector
from serving.routes import AppContext, events, feedback, open_inference, predict, status

PROBLEM = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, in a sentence."},
        "error": {"type": "string", "description": "The same, for clients of the Open Inference Protocol."},
    },
}


def create_app(
    settings: Settings, follower: LoopFollower, champion: ChampionFollower, callers: Authenticator
) -> FastAPI:
    """The application; ``follower`` runs and ``champion`` followed while it serves."""
    # FastAPI's own documentation pages load their scripts from elsewhere; ours are in `serving.http.docs_page`.
    app = FastAPI(title="driftloop", version=driftloop.__version__, docs_url=None, redoc_url=None)
    parts = AppContext(settings, follower, OnlineStore(settings), callers, BatchingPredictor(settings, champion))
    app.add_middleware(RequestGuardMiddleware, hosts=callers.hosts, max_bytes=settings.api.max_bytes)

    @app.exception_handler(AnyHTTPException)
    def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        """The router's own errors have the same form."""
        return problem(error.status_code, error.detail, request.url.path, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def misunderstood(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, _words(error.errors()), request.url.path)

    @app.get("/health", tags=["operation"], responses={503: {"description": "Nothing has been followed for a while"}})
    def health() -> Response:
        """Whether the topics are being followed: 200, or 503 when they have not been for a while."""
        verdict = follower.heartbeat.status()
        return Response(verdict.body(), verdict.http_status, media_type="application/json")

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """The loop's figures in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)

    for kind in (predict, open_inference, status, feedback, events):
        app.include_router(kind.router(parts))
    app.include_router(docs_page.router())
    dashboard.mount(app, parts)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, in which every error is a problem."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = PROBLEM
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's form of it, which is not ours
            schemas.pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema


def _words(errors: Sequence[Any]) -> str:
    """What is wrong with a request, without showing what it held."""
    said = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors[:5]]
    return "; ".join(said)[:1000]


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DriftloopError: Redis does not answer, a token is not one, or the port cannot be taken.
    """
    callers = Authenticator(settings.api)
    OnlineStore(settings).check()
    champion = ChampionFollower(settings)
    with _listen(settings.api) as listener, LoopFollower(settings) as follower:
        app = create_app(settings, follower, champion, callers)
        REGISTRY.register(LoopCollector(follower))
        champion.start()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        server = _Server(config, follower.broadcast)
        # uvicorn, once it has ended, sends its signal again, to whoever was there before it: that one ends it the same.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        # What is loaded by now stays: each full collection would walk through all of it, for half a second and more.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])
        champion.close()


class _Server(uvicorn.Server):
    """uvicorn's, which would wait at its end for those who listen to a stream without end."""

    def __init__(self, config: uvicorn.Config, broadcast: Broadcast) -> None:
        super().__init__(config)
        self._broadcast = broadcast

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._broadcast.close()
        super().handle_exit(sig, frame)


def _listen(chosen: ApiSettings) -> socket.socket:
    try:
        return socket.create_server((chosen.address, chosen.port))
    except OSError as error:
        raise DriftloopError(
            f"Port {chosen.port} on {chosen.address} cannot be used for the API ({error.strerror}): set "
            "DRIFTLOOP_API__PORT to a free one."
        ) from error
