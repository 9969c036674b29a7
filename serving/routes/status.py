"""GET what the loop does and has done."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query
from starlette.convertors import StringConvertor, register_url_convertor

from driftloop.core.messages import Message
from serving.cases import builder
from serving.human_actions import find_prediction
from serving.lineage import lineage
from serving.routes import AppContext, problems


class _Any(StringConvertor):
    """Starlette's own convertor for the rest of a path ends at a line break, and an event's id may hold one."""

    regex = "(?s:.*)"


register_url_convertor("any", _Any())

Many = Annotated[int, Query(ge=1, le=1000, description="How many at most, the newest.")]


def router(parts: AppContext) -> APIRouter:
    """`/v1/status`, predictions with their lineage, models, alerts, cases, retrainings, drift."""
    routes = APIRouter(
        tags=["loop"], dependencies=[parts.callers.require_role("viewer")], responses=problems(401, 403, 429)
    )

    @routes.get("/v1/status")
    def status() -> dict[str, Any]:
        """Counts, lag, the champion, accuracy by version, and the newest news."""
        loop = parts.loop
        with loop.lock:
            status, accuracy, history = loop.status, loop.accuracy, loop.history
            return {
                "stream": parts.settings.stream,
                "phase": status.phase,
                "champion": history.champion or None,
                "events": status.events,
                "predictions": status.predictions,
                "labels": status.labels,
                "outcomes": status.outcomes,
                "dead_letters": status.dead_letters,
                "lag": status.lag,
                "events_per_second": round(loop.rate, 2),
                "accuracy": accuracy.accuracy,
                "accuracy_by_version": {version: track.accuracy for version, track in accuracy.versions.items()},
                "drift_alerts": dict(history.alerts_by_signal),
                "retrainings": dict(history.retrainings_by_end),
                "retraining": loop.retraining,
                "news": list(loop.news.lines)[-20:],
            }

    @routes.get("/v1/predictions/{event_id:any}", responses=problems(404, 502, 503))
    def prediction(event_id: str) -> dict[str, Any]:
        """What was said about an event, while it is kept (DRIFTLOOP_KEEP_HOURS)."""
        return _plain(find_prediction(parts, event_id))

    @routes.get("/v1/lineage/{event_id:any}", responses=problems(404, 502, 503))
    def descent(event_id: str) -> dict[str, Any]:
        """Where that prediction comes from: the model, what it was trained on, the alert, the dataset's revision."""
        found = find_prediction(parts, event_id)
        versions = parts.ask_registry(lambda registry: registry.versions())
        loop = parts.loop
        with loop.lock:
            alerts, runs = dict(loop.history.alerts), list(loop.history.runs.values())
        return _plain(lineage(found, versions, alerts, runs))

    @routes.get("/v1/models", responses=problems(503))
    def models() -> list[dict[str, Any]]:
        """Every registered version, oldest first."""
        return [vars(model) for model in parts.ask_registry(lambda registry: registry.models())]

    @routes.get("/v1/alerts")
    def alerts(limit: Many = 100) -> list[dict[str, Any]]:
        """Drift alerts with their evidence, the newest last."""
        loop = parts.loop
        with loop.lock:
            return _all_plain(list(loop.history.alerts.values())[-limit:])

    @routes.get("/v1/cases/{case_id}", responses=problems(404, 503))
    def case(case_id: str) -> dict[str, Any]:
        """Everything about one alert: what moved, what was done about it, and what came of it."""
        loop = parts.loop
        with loop.lock:
            known = case_id in loop.history.alerts
        found = {one.case_id: one for one in builder.cases(builder.read(parts.settings))} if known else {}
        if case_id not in found:
            raise HTTPException(404, f"There is no case {case_id[:100]!r}: /v1/alerts has the ids.")
        return _plain(found[case_id])

    @routes.get("/v1/retrainings")
    def retrainings(limit: Many = 100) -> list[dict[str, Any]]:
        """Retrainings, and what people did, each with all that was said of it; the newest last."""
        loop = parts.loop
        with loop.lock:
            runs = list(loop.history.runs.items())[-limit:]
        return [
            {
                "run_id": run_id,
                "kind": said[0].kind,
                "trigger": said[0].trigger,
                "reason": said[0].reason,
                "state": said[-1].state,
                "ended": any(line.is_final for line in said),
                "steps": _all_plain(said),
            }
            for run_id, said in runs
        ]

    @routes.get("/v1/drift")
    def drift() -> dict[str, Any]:
        """Whether the stream drifts now, as far as is known: the newest alert, and what has come of it so far."""
        loop = parts.loop
        with loop.lock:
            alert = next(reversed(loop.history.alerts.values()), None)
            since = [] if alert is None else [u for u in loop.history.promotions if u.published_at >= alert.detected_at]
            return {
                "alert": None if alert is None else _plain(alert),
                "promoted_since": [update.version for update in since],
                "accuracy": loop.accuracy.accuracy,
            }

    return routes


def _plain(message: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(message)
    return found


def _all_plain(messages: list[Any]) -> list[dict[str, Any]]:
    return [_plain(message) for message in messages if isinstance(message, Message)]
