"""POST a text or a batch, get answers."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from serving.http.auth import Caller
from serving.inference import WordAttribution
from serving.routes import AppContext, problems

EXPLAINED = 8
"""Texts of a request whose words are weighed: each costs as much as a text for every word in it."""

TEXT = "my flight was delayed again"
EXAMPLES: list[JsonValue] = [{"text": TEXT, "explain": True}, {"text": [TEXT, "what a wonderful day!"]}]


class ScoreRequest(BaseModel):
    """One text, or several."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": EXAMPLES})
    text: str | Annotated[list[str], Field(min_length=1)]
    explain: bool = False
    """Also say which words mattered, of a few texts at a time."""


class Answer(BaseModel):
    """What the model says about a text."""

    label: str
    probabilities: dict[str, float]
    model_version: str
    route: str
    words: list[WordAttribution] | None = None
    """Where they were asked for, the strongest first."""


class ScoreResponse(BaseModel):
    """The answers, in the order of the texts."""

    predictions: list[Answer]
    milliseconds: float


def router(parts: AppContext) -> APIRouter:
    """`/v1/predict`."""
    routes = APIRouter(tags=["scoring"])
    viewer = parts.callers.require_role("viewer")

    @routes.post("/v1/predict", responses=problems(401, 403, 413, 422, 429, 503))
    async def predict(request: ScoreRequest, caller: Caller = viewer) -> ScoreResponse:
        """Score with the champion at this moment. Nothing of it enters the stream."""
        began = time.perf_counter()
        texts = [request.text] if isinstance(request.text, str) else request.text
        most = min(EXPLAINED, parts.settings.api.max_texts) if request.explain else parts.settings.api.max_texts
        if len(texts) > most:
            what = "explained" if request.explain else "scored"
            raise HTTPException(422, f"{len(texts)} texts are more than the {most} that are {what} at a time.")
        parts.callers.charge(caller, len(texts))
        scored = await parts.scoring.score(texts)
        answers = []
        for text, said in zip(texts, scored, strict=True):
            words = await parts.scoring.words(text, said) if request.explain else None
            answers.append(Answer(**vars(said), words=words))
        return ScoreResponse(predictions=answers, milliseconds=round((time.perf_counter() - began) * 1000, 2))

    return routes
