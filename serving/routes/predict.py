"""Predictions on request: `/v1/predict`."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import ConfigDict, Field, JsonValue

from serving.http.auth import Caller
from serving.inference import WordAttribution
from serving.routes import AppContext, Body, RequestBody, problems

EXPLAINED = 8
"""Most texts of a request with `explain`: each costs one more prediction for every word."""

TEXT = "my flight was delayed again"
EXAMPLES: list[JsonValue] = [{"text": TEXT, "explain": True}, {"text": [TEXT, "what a wonderful day!"]}]


class ScoreRequest(RequestBody):
    """One text, or a list of texts."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES})
    text: str | Annotated[list[str], Field(min_length=1)]
    explain: bool = False
    """Return the words with the largest influence. Only a few texts are explained in one request."""


class Answer(Body):
    """The model's prediction for one text."""

    label: str
    """The most probable class."""
    probabilities: dict[str, float]
    """Probability by class."""
    model_version: str
    """Version of the champion that predicted it."""
    route: str
    """Part of the model that predicted it: the first stage of a cascade, or the encoder with its head."""
    words: list[WordAttribution] | None = None
    """Words by their influence, strongest first. `null` unless `explain` is set."""


class ScoreResponse(Body):
    """Predictions in the order of the texts."""

    predictions: list[Answer]
    milliseconds: float
    """Duration of the request on the server."""


def router(context: AppContext) -> APIRouter:
    """Return the route of `/v1/predict`."""
    routes = APIRouter(tags=["predictions"])
    viewer = context.authenticator.require_role("viewer")
    limits = context.settings.api

    @routes.post("/v1/predict", responses=problems(401, 403, 413, 422, 429, 503))
    async def predict(request: ScoreRequest, caller: Caller = viewer) -> ScoreResponse:
        """Predict with the current champion. The texts do not enter the stream.

        \f
        Args:
            request: The texts.
            caller: The client.
        """
        began = time.perf_counter()
        texts = [request.text] if isinstance(request.text, str) else request.text
        most = min(EXPLAINED, limits.max_texts) if request.explain else limits.max_texts
        if len(texts) > most:
            done = "explained" if request.explain else "scored"
            raise HTTPException(422, f"The request has {len(texts)} texts; at most {most} are {done} at a time.")
        context.authenticator.count_request(caller, len(texts))
        answers = []
        for text, scored in zip(texts, await context.predictor.predict(texts), strict=True):
            words = await context.predictor.attribute_words(text, scored) if request.explain else None
            answers.append(Answer(**vars(scored), words=words))
        return ScoreResponse(predictions=answers, milliseconds=round((time.perf_counter() - began) * 1000, 2))

    return routes
