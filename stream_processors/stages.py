"""Which stage of a cascade answers an event, and when the first one keeps silent.

Some of the events that the first stage is sure of are put to the encoder all the same, chosen by their ids and so
whatever their text: the encoder's answer counts, says whether the two still agree, and is a fair sample for whoever
watches embeddings and confidence.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from driftloop.classifiers.base import Matrix
from driftloop.classifiers.bundle import BundleClassifier
from driftloop.classifiers.cascade import FIRST, SECOND, FirstStage
from driftloop.classifiers.encoder import Tokens

log = logging.getLogger(__name__)

EVERY = 20
"""One in so many events is put to the encoder in any case."""
NEWEST = 200
"""Events of those, which the first stage was sure of, that its agreement is judged by."""
LEAST = 40
"""With fewer nothing is said."""
SPREADS = 3.0
"""Standard deviations by which it may disagree more often than when it was calibrated."""

ROUTES = Counter("driftloop_routes", "Predictions by which stage made them.", ["route"])


class Answer(NamedTuple):
    """What is said of one event."""

    probabilities: Matrix
    """Shape (k,)."""
    embedding: Matrix | None
    """Shape (d,); None where the encoder was not asked."""
    route: str


class Stages:
    """Answers with the champion, by its first stage where that may."""

    def __init__(self, mode: Literal["auto", "always", "never"]) -> None:
        self._mode = mode
        self._version = ""
        self._agreed: deque[bool] = deque(maxlen=NEWEST)
        self._silent = False
        """Whether this version's first stage has come to differ from its encoder."""

    def answer(
        self,
        model: BundleClassifier,
        event_ids: Sequence[str],
        texts: Sequence[str],
        tokens: Tokens | None,
        *,
        busy: bool,
        drifting: bool,
    ) -> list[Answer]:
        """The answers to n texts, by their tokens where those are known.

        ``busy``: more is waiting than the encoder has answered yet; ``drifting``: the model is older than the newest
        alert. Raises what the model does.
        """
        if model.version != self._version:
            self._version, self._silent = model.version, False
            self._agreed.clear()
        wanted = self._mode == "always" or (self._mode == "auto" and busy)
        if not wanted or drifting or self._silent or model.first is None:
            answers = _encoded(model, texts, tokens, range(len(texts)))
        else:
            answers = self._cascade(model, model.first, event_ids, texts, tokens or model.tokenise(texts))
        for answer in answers:
            ROUTES.labels(answer.route).inc()
        return answers

    def _cascade(
        self,
        model: BundleClassifier,
        stage: FirstStage,
        event_ids: Sequence[str],
        texts: Sequence[str],
        tokens: Tokens,
    ) -> list[Answer]:
        first = stage.predict_proba(tokens.ids)
        sure = stage.sure(first)
        sample = np.fromiter((zlib.crc32(one.encode()) % EVERY == 0 for one in event_ids), dtype=bool)
        rows = np.flatnonzero(~sure | sample)
        answers = [Answer(row, None, FIRST) for row in first]
        for row, answer in zip(rows, _encoded(model, texts, tokens, rows), strict=True):
            answers[row] = answer if sample[row] else answer._replace(route=SECOND)
        self._compare(model, [first[row].argmax() == answers[row][0].argmax() for row in np.flatnonzero(sure & sample)])
        return answers

    def _compare(self, model: BundleClassifier, agreed: Sequence[bool]) -> None:
        """Silence the first stage where it disagrees with the encoder more than it did, beyond chance."""
        self._agreed.extend(agreed)
        n, worth = len(self._agreed), model.cascade
        if worth is None or n < LEAST or not agreed:
            return
        # What it was when it was calibrated, at worst.
        share = worth.disagreement + 2 * _spread(worth.disagreement, max(1, round(worth.share * worth.rows))) + 0.01
        found = 1 - sum(self._agreed) / n
        if found > share + SPREADS * _spread(share, n):
            self._silent = True
            log.warning(
                "the first stage of version %s has come to disagree with its encoder (%.0f%% of %d events): it is "
                "left out until the next model",
                model.version, 100 * found, n,
            )  # fmt: skip


def _encoded(
    model: BundleClassifier, texts: Sequence[str], tokens: Tokens | None, rows: Sequence[int] | NDArray[np.int64]
) -> list[Answer]:
    """The encoder's answers to some of the texts."""
    if not len(rows):
        return []
    some = None if tokens is None else Tokens(tokens.encoder, [tokens.ids[row] for row in rows])
    said = model.predict([texts[row] for row in rows], tokens=some)
    return [Answer(*pair, said.route) for pair in zip(said.probabilities, said.embeddings, strict=True)]


def _spread(share: float, n: int) -> float:
    """Standard deviation of a share among n."""
    return float((share * (1 - share) / n) ** 0.5)
