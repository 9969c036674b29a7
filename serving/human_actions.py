"""What people do to the loop, whether through the API or on the live page: they label events and steer the models."""

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


def find_prediction(parts: AppContext, event_id: str) -> Prediction:
    """What was said about an event.

    Raises:
        HTTPException: 404 where nothing is known of it, 502 or 503 where that cannot be said.
    """
    try:
        body = parts.store.predictions([event_id])[0]
    except redis.RedisError as error:
        raise HTTPException(503, "The online store does not answer; try again in a moment.") from error
    if body is None:
        raise HTTPException(404, f"There is no prediction for {event_id[:200]!r}: it is unknown, waits, or is old.")
    try:
        return decode(Prediction, body)
    except ValueError as error:
        raise HTTPException(502, f"The stored prediction cannot be read: {error}.") from error


def give_label(parts: AppContext, event_id: str, label: str, who: str, new_class: bool = False) -> Prediction:
    """Say what the label of an event is; returns what had been predicted. The label goes to the topic `labels`.

    Raises:
        HTTPException: 422 for a label that the model does not know and that is not meant as a ``new_class``; the
            errors of `find_prediction`; 503 where the broker does not take it.
    """
    found = find_prediction(parts, event_id)
    if label not in found.probabilities and not new_class:
        known = ", ".join(sorted(found.probabilities))
        raise HTTPException(422, f"The model knows {known}: choose one, or set new_class if it is to learn more.")
    said = Label(
        event_id=event_id,
        label=label,
        annotator=who,
        labelled_at=time.time(),
        position=found.position,
        feedback=True,
    )
    parts.send(LABELS, event_id, said)
    return found


def ask(parts: AppContext, action: Action, version: str, reason: str, who: str) -> Command:
    """Ask the retrainer for something, on the topic `commands`; its answer comes on `retraining`.

    Raises:
        HTTPException: 404 for a version that is not registered, 503 where the registry or the broker does not answer.
    """
    if version:
        there = parts.ask_registry(lambda registry: registry.versions())
        if version not in {str(one.version) for one in there}:
            raise HTTPException(404, f"There is no version {version[:40]!r}: /v1/models lists them.")
    command = Command(
        command_id=f"asked-{uuid.uuid4().hex[:12]}",
        stream=parts.settings.stream,
        action=action,
        version=version,
        by=who or "anonymous",
        reason=reason,
        at=time.time(),
    )
    parts.send(COMMANDS, parts.settings.stream, command)
    return command
