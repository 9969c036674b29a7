"""POST what a person says: the label of an event, and what is to become of the models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.http.auth import Caller
from serving.human_actions import Action, ask, give_label
from serving.routes import AppContext, problems


class Feedback(BaseModel):
    """A person's label for an event that has been predicted."""

    model_config = ConfigDict(extra="forbid")
    event_id: str = Field(min_length=1, max_length=1024)
    label: str = Field(min_length=1, max_length=1024)
    annotator: str = Field("", max_length=200)
    """Who says so; only for callers without a token, whose name it otherwise is."""
    new_class: bool = False
    """The label is none that the model knows, and meant to be."""


class FeedbackAccepted(BaseModel):
    """The label is on its way."""

    event_id: str
    label: str
    predicted: str
    annotator: str
    corrects: bool
    """The model had said something else."""


class CommandRequest(BaseModel):
    """What a person asks for, and why."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=1000, examples=["the newest alert was a false one"])


class CommandStatus(BaseModel):
    """What became of it so far."""

    command_id: str
    state: str
    """asked: the retrainer has not taken it up; then the states of the topic `retraining`, finished and failed last."""
    words: str


def router(parts: AppContext) -> APIRouter:
    """`/v1/feedback`, and the commands."""
    routes = APIRouter(tags=["people"])
    annotator = parts.callers.require_role("annotator")
    admin = parts.callers.require_role("admin")
    viewer = parts.callers.require_role("viewer")

    @routes.post("/v1/feedback", status_code=202, responses=problems(401, 403, 404, 413, 422, 429, 502, 503))
    def feedback(said: Feedback, caller: Caller = annotator) -> FeedbackAccepted:
        """Say what the label of an event is. It goes to the topic `labels`, where it counts as any other; where the
        stream's own label came first, the next retraining believes the person."""
        who = caller.name or said.annotator or "anonymous"
        found = give_label(parts, said.event_id, said.label, who, said.new_class)
        return FeedbackAccepted(
            event_id=said.event_id,
            label=said.label,
            predicted=found.label,
            annotator=who,
            corrects=found.label != said.label,
        )

    def asked(action: Action, version: str, wish: CommandRequest, caller: Caller, response: Response) -> CommandStatus:
        """Put a command on its topic, and say where its answer will be."""
        command = ask(parts, action, version, wish.reason, caller.name)
        response.headers["Location"] = f"/v1/commands/{command.command_id}"
        return CommandStatus(command_id=command.command_id, state="asked", words="")

    errors = problems(401, 403, 404, 413, 422, 429, 503)

    @routes.post("/v1/models/{version}/promote", status_code=202, responses=errors)
    def promote(version: str, wish: CommandRequest, response: Response, who: Caller = admin) -> CommandStatus:
        """Make a version that waits, or that the gate rejected, the champion."""
        return asked("promote", version, wish, who, response)

    @routes.post("/v1/models/{version}/reject", status_code=202, responses=errors)
    def reject(version: str, wish: CommandRequest, response: Response, who: Caller = admin) -> CommandStatus:
        """Turn down a version that waits for approval."""
        return asked("reject", version, wish, who, response)

    @routes.post("/v1/models/{version}/rollback", status_code=202, responses=errors)
    def rollback_to(version: str, wish: CommandRequest, response: Response, who: Caller = admin) -> CommandStatus:
        """Bring a former champion back."""
        return asked("rollback", version, wish, who, response)

    @routes.post("/v1/rollback", status_code=202, responses=problems(401, 403, 413, 422, 429, 503))
    def rollback(wish: CommandRequest, response: Response, who: Caller = admin) -> CommandStatus:
        """Bring the champion's predecessor back."""
        return asked("rollback", "", wish, who, response)

    @routes.post("/v1/retrainings", status_code=202, responses=problems(401, 403, 413, 422, 429, 503))
    def retrain(wish: CommandRequest, response: Response, who: Caller = admin) -> CommandStatus:
        """Retrain now, with all candidates, on what is labelled since the last drift."""
        return asked("retrain", "", wish, who, response)

    @routes.get("/v1/commands/{command_id}", dependencies=[viewer], responses=problems(401, 403, 429))
    def command(command_id: str) -> CommandStatus:
        """What became of a command; one that nobody has taken up yet, or that is not known, is said to be asked."""
        loop = parts.loop
        with loop.lock:
            said: list[Any] = list(loop.history.runs.get(command_id, ()))
        if not said:
            return CommandStatus(command_id=command_id, state="asked", words="")
        return CommandStatus(command_id=command_id, state=said[-1].state, words=said[-1].reason)

    return routes
