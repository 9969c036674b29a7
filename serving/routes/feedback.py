"""Human labels and commands: `/v1/feedback`, promotions, rollbacks and retrainings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import Field

from serving.http.auth import Caller
from serving.human_actions import Action, send_command, send_label
from serving.routes import AppContext, Body, RequestBody, problems

Version = Annotated[str, Path(description="Number of a registered model version.")]


class Feedback(RequestBody):
    """Label of an event that has been predicted."""

    event_id: str = Field(min_length=1, max_length=1024)
    label: str = Field(min_length=1, max_length=1024)
    annotator: str = Field("", max_length=200)
    """Name of the annotator, if the request has no token. Otherwise the token's name is used."""
    new_class: bool = False
    """Accept a label that the model does not know, as a new class."""


class FeedbackAccepted(Body):
    """Label that was written to the topic `labels`."""

    event_id: str
    label: str
    predicted: str
    """Label that the model had predicted."""
    annotator: str
    corrects: bool
    """True if the label differs from the prediction."""


class CommandRequest(RequestBody):
    """Reason for a command."""

    reason: str = Field("", max_length=1000, examples=["the newest alert was a false one"])


class CommandStatus(Body):
    """State of a command."""

    command_id: str
    state: str
    """`asked` until the retrainer takes it up, then a state of the topic `retraining`: at last finished or failed."""
    words: str
    """Newest message of the retrainer; empty while the state is `asked`."""


def router(context: AppContext) -> APIRouter:
    """Return the routes of `/v1/feedback` and of the commands."""
    routes = APIRouter(tags=["feedback and commands"])
    annotator = context.authenticator.require_role("annotator")
    admin = context.authenticator.require_role("admin")
    viewer = context.authenticator.require_role("viewer")

    @routes.post("/v1/feedback", status_code=202, responses=problems(401, 403, 404, 413, 422, 429, 502, 503))
    def feedback(given: Feedback, caller: Caller = annotator) -> FeedbackAccepted:
        """Label an event. The label goes to the topic `labels` and counts like any other label.

        If the stream's own label came first and differs, the next retraining uses this one.

        \f
        Args:
            given: The label.
            caller: The client.
        """
        name = caller.name or given.annotator or "anonymous"
        prediction = send_label(context, given.event_id, given.label, name, given.new_class)
        return FeedbackAccepted(
            event_id=given.event_id,
            label=given.label,
            predicted=prediction.label,
            annotator=name,
            corrects=prediction.label != given.label,
        )

    def send(action: Action, version: str, reason: str, caller: Caller, response: Response) -> CommandStatus:
        """Send a command and set the address of its status.

        Args:
            action: Action of the retrainer.
            version: Model version; empty if the action needs none.
            reason: Reason that is recorded with the command.
            caller: The client.
            response: Response that gets the `Location` header.
        """
        command = send_command(context, action, version, reason, caller.name)
        response.headers["Location"] = f"/v1/commands/{command.command_id}"
        return CommandStatus(command_id=command.command_id, state="asked", words="")

    errors = problems(401, 403, 404, 413, 422, 429, 503)

    @routes.post("/v1/models/{version}/promote", status_code=202, responses=errors)
    def promote(version: Version, request: CommandRequest, response: Response, caller: Caller = admin) -> CommandStatus:
        """Promote a version that waits for approval or that the gate rejected.

        \f
        Args:
            version: The version.
            request: The reason.
            response: Response that gets the `Location` header.
            caller: The client.
        """
        return send("promote", version, request.reason, caller, response)

    @routes.post("/v1/models/{version}/reject", status_code=202, responses=errors)
    def reject(version: Version, request: CommandRequest, response: Response, caller: Caller = admin) -> CommandStatus:
        """Reject a version that waits for approval.

        \f
        Args:
            version: The version.
            request: The reason.
            response: Response that gets the `Location` header.
            caller: The client.
        """
        return send("reject", version, request.reason, caller, response)

    @routes.post("/v1/models/{version}/rollback", status_code=202, responses=errors)
    def rollback_to(
        version: Version, request: CommandRequest, response: Response, caller: Caller = admin
    ) -> CommandStatus:
        """Roll back to a former champion.

        \f
        Args:
            version: Version of the former champion.
            request: The reason.
            response: Response that gets the `Location` header.
            caller: The client.
        """
        return send("rollback", version, request.reason, caller, response)

    @routes.post("/v1/rollback", status_code=202, responses=problems(401, 403, 413, 422, 429, 503))
    def rollback(request: CommandRequest, response: Response, caller: Caller = admin) -> CommandStatus:
        """Roll back to the champion's predecessor.

        \f
        Args:
            request: The reason.
            response: Response that gets the `Location` header.
            caller: The client.
        """
        return send("rollback", "", request.reason, caller, response)

    @routes.post("/v1/retrainings", status_code=202, responses=problems(401, 403, 413, 422, 429, 503))
    def retrain(request: CommandRequest, response: Response, caller: Caller = admin) -> CommandStatus:
        """Start a retraining with all candidates, on the events labelled since the last drift.

        \f
        Args:
            request: The reason.
            response: Response that gets the `Location` header.
            caller: The client.
        """
        return send("retrain", "", request.reason, caller, response)

    @routes.get("/v1/commands/{command_id}", dependencies=[viewer], responses=problems(401, 403, 429))
    def command(command_id: str) -> CommandStatus:
        """Return the state of a command. An unknown command has the state `asked`, like one that still waits."""
        loop = context.loop
        with loop.lock:
            steps = list(loop.history.runs.get(command_id, ()))
        if not steps:
            return CommandStatus(command_id=command_id, state="asked", words="")
        return CommandStatus(command_id=command_id, state=steps[-1].state, words=steps[-1].reason)

    return routes
