"""Application of `driftloop serve`: the API, the dashboard and the loop's metrics."""

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
        "title": {"type": "string", "description": "Name of the HTTP status."},
        "status": {"type": "integer", "description": "HTTP status."},
        "detail": {"type": "string", "description": "Cause and remedy, as one sentence."},
        "error": {"type": "string", "description": "The same as `detail`, for the Open Inference Protocol."},
    },
}


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DriftloopError: Redis does not answer, a token is malformed, or the port cannot be used.
    """
    authenticator = Authenticator(settings.api)
    OnlineStore(settings).check()
    champion = ChampionFollower(settings)
    with _listen(settings.api) as listener, LoopFollower(settings) as follower:
        app = create_app(settings, follower, champion, authenticator)
        REGISTRY.register(LoopCollector(follower))
        champion.start()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        server = _Server(config, follower.broadcast)
        # At its end uvicorn sends its signal again to the handler from before: this one ends the process as well.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        # Everything loaded so far stays. Without the freeze a full collection takes half a second or more.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])
        champion.close()


def create_app(
    settings: Settings, follower: LoopFollower, champion: ChampionFollower, authenticator: Authenticator
) -> FastAPI:
    """Return the application.

    Args:
        settings: Settings of the loop.
        follower: Follows the loop's topics; it must run while the application serves.
        champion: Follows the promotions; it must run while the application serves.
        authenticator: Knows the tokens.
    """
    # FastAPI's own documentation pages load scripts from other hosts; `serving.http.docs_page` does not.
    app = FastAPI(title="driftloop", version=driftloop.__version__, docs_url=None, redoc_url=None)
    predictor = BatchingPredictor(settings, champion)
    context = AppContext(settings, follower, OnlineStore(settings), authenticator, predictor)
    app.add_middleware(RequestGuardMiddleware, hosts=authenticator.hosts, max_bytes=settings.api.max_bytes)
    _add_error_handlers(app)
    _add_operation_routes(app, follower)
    for module in (predict, open_inference, status, feedback, events):
        app.include_router(module.router(context))
    app.include_router(docs_page.router())
    dashboard.mount(app, context)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Give every error the form of RFC 9457."""

    @app.exception_handler(AnyHTTPException)
    def http_error(request: Request, error: AnyHTTPException) -> JSONResponse:
        """Return the response to an HTTP error.

        Args:
            request: The request.
            error: Its error.
        """
        return problem(error.status_code, error.detail, request.url.path, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, _describe(error.errors()), request.url.path)


def _add_operation_routes(app: FastAPI, follower: LoopFollower) -> None:
    """Add `/health` and `/metrics`."""

    @app.get("/health", tags=["operation"], responses={503: {"description": "The topics cannot be followed"}})
    def health() -> Response:
        """Return 200 if the server follows the topics, and 503 if it has not for a while."""
        verdict = follower.heartbeat.status()
        return Response(verdict.body(), verdict.http_status, media_type="application/json")

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Return the loop's metrics in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)


def _schema(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI schema, in which every error is a `Problem`."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = PROBLEM
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's form of an error, which is not used here
            schemas.pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _describe(errors: Sequence[Any]) -> str:
    """Return the errors of a request as text, without the values that the request had."""
    lines = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors[:5]]
    return "; ".join(lines)[:1000]


class _Server(uvicorn.Server):
    """Server of uvicorn that ends the event streams first: uvicorn would wait for them without end."""

    def __init__(self, config: uvicorn.Config, broadcast: Broadcast) -> None:
        super().__init__(config)
        self._broadcast = broadcast

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Args:
            sig: Number of the signal.
            frame: Stack frame that was interrupted.
        """
        self._broadcast.close()
        super().handle_exit(sig, frame)


def _listen(chosen: ApiSettings) -> socket.socket:
    """Return a socket that listens on the address of the settings.

    Raises:
        DriftloopError: The port cannot be used.
    """
    try:
        return socket.create_server((chosen.address, chosen.port))
    except OSError as error:
        raise DriftloopError(
            f"Port {chosen.port} on {chosen.address} cannot be used for the API ({error.strerror}): set "
            "DRIFTLOOP_API__PORT to a free one."
        ) from error
