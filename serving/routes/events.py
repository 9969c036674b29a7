"""Server-sent events: `/v1/stream/…` sends messages of the loop as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Prediction, Retraining
from serving.live.broadcast import Listener
from serving.routes import AppContext, problems

KINDS: dict[str, tuple[type[Message], str, str]] = {
    "predictions": (Prediction, "prediction", "Each prediction."),
    "alerts": (DriftAlert, "alert", "Each drift alert."),
    "retrainings": (Retraining, "retraining", "Each step of a retraining, and each manual action."),
    "promotions": (ModelUpdate, "promotion", "Each change of the champion."),
}
"""By the last part of the path: the message, the name of its event, and the description."""
SLOW = " If the client is too slow, an event `left-out` has the number of messages that it has missed."


def router(context: AppContext) -> APIRouter:
    """Return the routes of `/v1/stream`."""
    routes = APIRouter(
        tags=["event streams"],
        dependencies=[context.authenticator.require_role("viewer")],
        responses=problems(401, 403, 429, 503),
    )
    for path, (kind, event, about) in KINDS.items():
        routes.get(f"/v1/stream/{path}", name=path, description=about + SLOW, response_class=EventSourceResponse)(
            _endpoint(context, kind, event)
        )
    return routes


def _endpoint(context: AppContext, kind: type[Message], event: str) -> Callable[..., AsyncIterable[ServerSentEvent]]:
    async def listen() -> AsyncIterator[Listener]:
        listener = context.follower.broadcast.add_listener(kind)
        try:
            yield listener
        finally:
            context.follower.broadcast.remove(listener)

    listening = Depends(listen)

    async def send(listener: Listener = listening) -> AsyncIterable[ServerSentEvent]:
        async for body, left_out in listener.messages():
            if left_out:
                yield ServerSentEvent(event="left-out", data=left_out)
            yield ServerSentEvent(event=event, raw_data=body.decode())

    return send
