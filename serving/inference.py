"""Texts scored for whoever asks: with the scorer's champion, swapped in the same way, and many requests at a time."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import HTTPException

from driftloop.core.models.bundle import BundleClassifier
from driftloop.core.models.champion_follower import ChampionFollower
from driftloop.core.settings import Settings

TOGETHER = 64
"""Texts that the model gets at a time, where so many wait."""
MOST_WORDS = 64
"""Words that are left out of a text one after the other; those of a longer one go in groups."""


@dataclass(frozen=True)
class WordAttribution:
    """A part of a text and what it did to the answer."""

    word: str
    start: int
    end: int
    """Characters of the text that it stands at."""
    weight: float
    """How much less probable the answer is without it; below 0: how much more."""


@dataclass(frozen=True)
class Scored:
    """The answer to one text."""

    label: str
    probabilities: dict[str, float]
    model_version: str
    route: str


class BatchingPredictor:
    """Answers texts, those of several callers together."""

    def __init__(self, settings: Settings, champion: ChampionFollower) -> None:
        self._longest = settings.scorer.max_bytes
        self._champion = champion
        self._waiting: deque[tuple[list[str], asyncio.Future[list[Scored]]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._working: asyncio.Task[None] | None = None

    def model(self) -> BundleClassifier:
        """The champion.

        Raises:
            HTTPException: 503 before there is one.
        """
        model = self._champion.newest
        if model is None:
            raise HTTPException(503, "There is no model yet: try again in a moment.", headers={"Retry-After": "5"})
        return model

    async def score(self, texts: Sequence[str]) -> list[Scored]:
        """The answers to the texts, in their order.

        Raises:
            HTTPException: 503 before there is a model, 422 for a text that is too long or breaks it.
        """
        self.model()
        for place, text in enumerate(texts):
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._longest:
                raise HTTPException(422, f"Text {place} has {size} bytes, and {self._longest} are scored at most.")
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(texts), future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def words(self, text: str, said: Scored) -> list[WordAttribution]:
        """What each word did to the answer ``said``, the strongest first.

        Each is left out in turn and the text scored again (occlusion: Zeiler and Fergus, arXiv 1311.2901; for words,
        Li, Monroe and Jurafsky, arXiv 1612.08220).
        """
        spans = [found.span() for found in re.finditer(r"\S+", text)]
        size = -(-len(spans) // MOST_WORDS) or 1
        groups = [(spans[i][0], spans[min(i + size, len(spans)) - 1][1]) for i in range(0, len(spans), size)]
        without = await self.score([text[:start] + text[end:] for start, end in groups])
        before = said.probabilities[said.label]
        found = [
            WordAttribution(text[start:end], start, end, round(before - other.probabilities.get(said.label, 0.0), 4))
            for (start, end), other in zip(groups, without, strict=True)
        ]
        return sorted(found, key=lambda word: (-abs(word.weight), word.start))

    async def _work(self) -> None:
        """Until nobody waits: as many requests together as the model takes at a time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft()]
            while self._waiting and sum(len(texts) for texts, _ in taken) + len(self._waiting[0][0]) <= TOGETHER:
                taken.append(self._waiting.popleft())
            answers = await loop.run_in_executor(self._pool, self._answer, [texts for texts, _ in taken])
            for (_, future), answer in zip(taken, answers, strict=True):
                if future.cancelled():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _answer(self, requests: list[list[str]]) -> list[list[Scored] | Exception]:
        """The answers to several requests; one that breaks the model gets its own error and leaves the others alone."""
        try:
            scored = _scored(self.model(), [text for texts in requests for text in texts])
        except Exception as error:  # the texts are strangers', and the model's libraries raise types of their own
            if len(requests) > 1:
                return [answer for texts in requests for answer in self._answer([texts])]
            return [error if isinstance(error, HTTPException) else HTTPException(422, "The model failed on the text.")]
        answers, at = [], 0
        for texts in requests:
            answers.append(scored[at : at + len(texts)])
            at += len(texts)
        return list(answers)


def _scored(model: BundleClassifier, texts: list[str]) -> list[Scored]:
    answer = model.predict(texts)
    return [
        Scored(
            label=label,
            probabilities={name: round(float(p), 4) for name, p in zip(model.labels, row, strict=True)},
            model_version=model.version,
            route=answer.route,
        )
        for label, row in zip(answer.labels, answer.probabilities, strict=True)
    ]
