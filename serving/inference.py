"""Predictions on request with the current champion; requests that arrive together share a batch."""

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
"""Most texts of one batch, unless a single request has more."""
MOST_WORDS = 64
"""Most parts of a text that are left out one at a time. The words of a longer text are grouped."""


@dataclass(frozen=True)
class WordAttribution:
    """Influence of a part of a text on its prediction."""

    word: str
    start: int
    end: int
    """Its characters in the text, from `start` up to `end`."""
    weight: float
    """Loss of the predicted label's probability without it; negative if the probability rises."""


@dataclass(frozen=True)
class Scored:
    """Prediction for one text."""

    label: str
    probabilities: dict[str, float]
    model_version: str
    route: str


class BatchingPredictor:
    """Predicts texts. Requests that wait at the same time become one batch.

    Args:
        settings: Settings of the loop.
        champion: Follows the promotions.
    """

    def __init__(self, settings: Settings, champion: ChampionFollower) -> None:
        self._longest = settings.scorer.max_bytes
        self._follower = champion
        self._queue: deque[tuple[list[str], asyncio.Future[list[Scored]]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._task: asyncio.Task[None] | None = None

    def champion(self) -> BundleClassifier:
        """Return the current champion.

        Raises:
            HTTPException: 503 before the first model.
        """
        model = self._follower.newest
        if model is None:
            raise HTTPException(503, "There is no model yet. Try again in a moment.", headers={"Retry-After": "5"})
        return model

    async def predict(self, texts: Sequence[str]) -> list[Scored]:
        """Return predictions in the order of the texts.

        Raises:
            HTTPException: 503 before the first model; 422 if a text is too long or the model fails on it.
        """
        self.champion()
        for place, text in enumerate(texts):
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._longest:
                raise HTTPException(422, f"Text {place} has {size} bytes. At most {self._longest} are allowed.")
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._queue.append((list(texts), future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain_queue())
        return await future

    async def attribute_words(self, text: str, scored: Scored) -> list[WordAttribution]:
        """Return the influence of each word, strongest first.

        Each word is left out in turn and the text is predicted again. This is occlusion (Zeiler and Fergus, arXiv
        1311.2901; for words Li, Monroe and Jurafsky, arXiv 1612.08220).

        Args:
            text: The text.
            scored: Prediction of the whole text.
        """
        spans = [found.span() for found in re.finditer(r"\S+", text)]
        size = -(-len(spans) // MOST_WORDS) or 1
        groups = [(spans[i][0], spans[min(i + size, len(spans)) - 1][1]) for i in range(0, len(spans), size)]
        without = await self.predict([text[:start] + text[end:] for start, end in groups])
        before = scored.probabilities[scored.label]
        found = [
            WordAttribution(text[start:end], start, end, round(before - other.probabilities.get(scored.label, 0.0), 4))
            for (start, end), other in zip(groups, without, strict=True)
        ]
        return sorted(found, key=lambda word: (-abs(word.weight), word.start))

    async def _drain_queue(self) -> None:
        """Predict until the queue is empty, with as many requests in a batch as fit."""
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = [self._queue.popleft()]
            while self._queue and sum(len(texts) for texts, _ in batch) + len(self._queue[0][0]) <= TOGETHER:
                batch.append(self._queue.popleft())
            answers = await loop.run_in_executor(self._pool, self._predict_batch, [texts for texts, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.cancelled():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _predict_batch(self, requests: list[list[str]]) -> list[list[Scored] | Exception]:
        """Return the predictions of several requests. If the model fails on one, only that one gets an error."""
        try:
            scored = _predict(self.champion(), [text for texts in requests for text in texts])
        except Exception as error:  # the texts are untrusted, and the model's libraries raise types of their own
            if len(requests) > 1:
                return [answer for texts in requests for answer in self._predict_batch([texts])]
            return [error if isinstance(error, HTTPException) else HTTPException(422, "The model failed on the text.")]
        answers, at = [], 0
        for texts in requests:
            answers.append(scored[at : at + len(texts)])
            at += len(texts)
        return list(answers)


def _predict(model: BundleClassifier, texts: list[str]) -> list[Scored]:
    predictions = model.predict(texts)
    return [
        Scored(
            label=label,
            probabilities={name: round(float(p), 4) for name, p in zip(model.labels, row, strict=True)},
            model_version=model.version,
            route=predictions.route,
        )
        for label, row in zip(predictions.labels, predictions.probabilities, strict=True)
    ]
