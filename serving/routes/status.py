"""State and history of the loop: status, predictions and their lineage, models, alerts, cases, retrainings, drift."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Path, Query
from starlette.convertors import StringConvertor, register_url_convertor

from serving.cases import builder
from serving.human_actions import find_prediction
from serving.lineage import lineage
from serving.routes import AppContext, problems


class _AnyText(StringConvertor):
    """Path convertor that also matches line breaks: an event's id may contain one, and Starlette's stops there."""

    regex = "(?s:.*)"


register_url_convertor("any", _AnyText())

Limit = Annotated[int, Query(ge=1, le=1000, description="Most entries; the newest are returned.")]
EventId = Annotated[str, Path(description="Id of an event; it may contain slashes.")]
NEWS = 20
"""Lines of news in the status."""


def router(context: AppContext) -> APIRouter:
    """Return the routes that read the loop."""
    routes = APIRouter(
        tags=["state of the loop"],
        dependencies=[context.authenticator.require_role("viewer")],
        responses=problems(401, 403, 429),
    )

    @routes.get("/v1/status")
    def status() -> dict[str, Any]:
        """Return counts, lag, the champion, the accuracy by version, and the newest news."""
        loop = context.loop
        with loop.lock:
            counts, accuracy, history = loop.status, loop.accuracy, loop.history
            return {
                "stream": context.settings.stream,
                "phase": counts.phase,
                "champion": history.champion or None,
                "events": counts.events,
                "predictions": counts.predictions,
                "labels": counts.labels,
                "outcomes": counts.outcomes,
                "dead_letters": counts.dead_letters,
                "lag": counts.lag,
                "events_per_second": round(loop.rate, 2),
                "accuracy": accuracy.accuracy,
                "accuracy_by_version": {version: track.accuracy for version, track in accuracy.versions.items()},
                "drift_alerts": dict(history.alerts_by_signal),
                "retrainings": dict(history.retrainings_by_end),
                "retraining": loop.retraining,
                "news": list(loop.news.lines)[-NEWS:],
            }

    @routes.get("/v1/predictions/{event_id:any}", responses=problems(404, 502, 503))
    def prediction(event_id: EventId) -> dict[str, Any]:
        """Return the prediction of an event. Predictions are kept for DRIFTLOOP_KEEP_HOURS."""
        return _as_json(find_prediction(context, event_id))

    @routes.get("/v1/lineage/{event_id:any}", responses=problems(404, 502, 503))
    def descent(event_id: EventId) -> dict[str, Any]:
        """Return the lineage of a prediction: its model, the training data, the alert behind it, and earlier models."""
        found = find_prediction(context, event_id)
        versions = context.query_registry(lambda registry: registry.versions())
        loop = context.loop
        with loop.lock:
            alerts, runs = dict(loop.history.alerts), list(loop.history.runs.values())
        return _as_json(lineage(found, versions, alerts, runs))

    @routes.get("/v1/models", responses=problems(503))
    def models() -> list[dict[str, Any]]:
        """Return all registered versions, oldest first."""
        return [vars(model) for model in context.query_registry(lambda registry: registry.models())]

    @routes.get("/v1/alerts")
    def alerts(limit: Limit = 100) -> list[dict[str, Any]]:
        """Return the newest drift alerts with their evidence, newest last."""
        loop = context.loop
        with loop.lock:
            return _all_as_json(list(loop.history.alerts.values())[-limit:])

    @routes.get("/v1/cases/{case_id}", responses=problems(404, 503))
    def case(case_id: Annotated[str, Path(description="Id of an alert.")]) -> dict[str, Any]:
        """Return the case of an alert: the changes in the data, the retrainings and the outcome."""
        loop = context.loop
        with loop.lock:
            known = case_id in loop.history.alerts
        known_cases = builder.cases(builder.read_case_history(context.settings)) if known else []
        found = next((one for one in known_cases if one.case_id == case_id), None)
        if found is None:
            raise HTTPException(404, f"There is no case {case_id[:100]!r}. /v1/alerts lists the ids.")
        return _as_json(found)

    @routes.get("/v1/retrainings")
    def retrainings(limit: Limit = 100) -> list[dict[str, Any]]:
        """Return the newest retrainings and manual actions with all their steps, newest last."""
        loop = context.loop
        with loop.lock:
            runs = list(loop.history.runs.items())[-limit:]
        return [
            {
                "run_id": run_id,
                "kind": steps[0].kind,
                "trigger": steps[0].trigger,
                "reason": steps[0].reason,
                "state": steps[-1].state,
                "ended": any(step.is_final for step in steps),
                "steps": _all_as_json(steps),
            }
            for run_id, steps in runs
        ]

    @routes.get("/v1/drift")
    def drift() -> dict[str, Any]:
        """Return the newest alert, the versions promoted since, and the present accuracy."""
        loop = context.loop
        with loop.lock:
            alert = next(reversed(loop.history.alerts.values()), None)
            since = [] if alert is None else [u for u in loop.history.promotions if u.published_at >= alert.detected_at]
            return {
                "alert": None if alert is None else _as_json(alert),
                "promoted_since": [update.version for update in since],
                "accuracy": loop.accuracy.accuracy,
            }

    return routes


def _as_json(found: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(found)
    return fields


def _all_as_json(messages: Iterable[msgspec.Struct]) -> list[dict[str, Any]]:
    return [_as_json(message) for message in messages]
