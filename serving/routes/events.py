"""Server-sent events: what happens, as it happens."""

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
    "retrainings": (Retraining, "retraining", "Each step of a retraining, and of what people do."),
    "promotions": (ModelUpdate, "promotion", "Each change of the champion."),
}
"""By the end of its path: the message, its name as an event, and what it is."""
SLOW = " Where the caller is too slow, an event `left-out` says how many it has missed."


def router(parts: AppContext) -> APIRouter:
    """`/v1/stream/…`"""
    routes = APIRouter(
        tags=["streams"],
        dependencies=[parts.callers.require_role("viewer")],
        responses=problems(401, 403, 429, 503),
    )
    for path, (kind, event, about) in KINDS.items():
        routes.get(f"/v1/stream/{path}", name=path, description=about + SLOW, response_class=EventSourceResponse)(
            _endpoint(parts, kind, event)
        )
    return routes


def _endpoint(parts: AppContext, kind: type[Message], event: str) -> Callable[..., AsyncIterable[ServerSentEvent]]:
    async def listen() -> AsyncIterator[Listener]:
        listener = parts.follower.broadcast.listen(kind)
        try:
            yield listener
        finally:
            parts.follower.broadcast.leave(listener)

    listening = Depends(listen)

    async def tell(listener: Listener = listening) -> AsyncIterable[ServerSentEvent]:
        async for body, left_out in listener.messages():
            if left_out:
                yield ServerSentEvent(event="left-out", data=left_out)
            yield ServerSentEvent(event=event, raw_data=body.decode())

    return tell
