"""Human actions from the API and the dashboard: label an event, promote, reject, roll back, retrain."""

from __future__ import annotations

import time
import uuid
from typing import Literal

import redis
from fastapi import HTTPException

from driftloop.core.messages import Command, Label, Prediction, decode
from driftloop.core.topics import COMMANDS, LABELS
from serving.routes import AppContext

Action = Literal["promote", "reject", "rollback", "retrain"]


def find_prediction(context: AppContext, event_id: str) -> Prediction:
    """Return the prediction of an event.

    Args:
        context: The application.
        event_id: Id of the event.

    Raises:
        HTTPException: 404 if the event has no prediction, 502 if it cannot be decoded, 503 if the store does not
            answer.
    """
    try:
        body = context.store.predictions([event_id])[0]
    except redis.RedisError as error:
        raise HTTPException(503, "The online store does not answer. Try again in a moment.") from error
    if body is None:
        raise HTTPException(
            404,
            f"There is no prediction for {event_id[:200]!r}: the event is unknown, not predicted yet, or too old.",
        )
    try:
        return decode(Prediction, body)
    except ValueError as error:
        raise HTTPException(502, f"The stored prediction cannot be read: {error}.") from error


def send_label(context: AppContext, event_id: str, label: str, annotator: str, new_class: bool = False) -> Prediction:
    """Write a label to the topic `labels` and return the prediction that it confirms or corrects.

    Args:
        context: The application.
        event_id: Id of the event.
        label: The label.
        annotator: Name of the annotator.
        new_class: Accept a label that the model does not know.

    Raises:
        HTTPException: 422 for a label that the model does not know, unless ``new_class`` is set; 503 if the broker
            does not acknowledge the message; and the errors of `find_prediction`.
    """
    found = find_prediction(context, event_id)
    if label not in found.probabilities and not new_class:
        known = ", ".join(sorted(found.probabilities))
        raise HTTPException(422, f"The model knows {known}. Choose one of them, or set new_class to teach it another.")
    message = Label(
        event_id=event_id,
        label=label,
        annotator=annotator,
        labelled_at=time.time(),
        position=found.position,
        feedback=True,
    )
    context.send(LABELS, event_id, message)
    return found


def send_command(context: AppContext, action: Action, version: str, reason: str, user: str) -> Command:
    """Write a command for the retrainer to the topic `commands`. Its answers come on `retraining`.

    Args:
        context: The application.
        action: Action of the retrainer.
        version: Model version; empty if the action needs none.
        reason: Reason that is recorded with the command.
        user: Name of the user; empty for an anonymous one.

    Raises:
        HTTPException: 404 for a version that is not registered; 503 if the registry or the broker does not answer.
    """
    if version:
        registered = context.query_registry(lambda registry: registry.versions())
        if version not in {str(one.version) for one in registered}:
            raise HTTPException(404, f"There is no version {version[:40]!r}. /v1/models lists all versions.")
    command = Command(
        command_id=f"asked-{uuid.uuid4().hex[:12]}",
        stream=context.settings.stream,
        action=action,
        version=version,
        by=user or "anonymous",
        reason=reason,
        at=time.time(),
    )
    context.send(COMMANDS, context.settings.stream, command)
    return command
