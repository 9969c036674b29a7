"""Signals: what is watched in a prediction or an outcome, each as a score between 0 and 1 that says how odd it is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from math import log
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from driftloop.core.models.classifier import Matrix
from stream_processors.drift.e_detector import ClassShareDetector, EDetector, tie_breaker
from stream_processors.drift.row_buffer import RowBuffer

KEPT = 2000
"""Observations kept for the change point, for learning a reference and for the evidence."""
FIRST_FIT = 50
"""Observations from which a signal with a reference of its own learns it for the first time."""
WORD = re.compile(r"[\w#@']{3,}")
PROJECTED = 64
"""Dimensions in which embeddings are compared (a random projection: Johnson and Lindenstrauss, 1984)."""


class Observation(NamedTuple):
    """What a signal has seen of an event."""

    position: int
    occurred_at: float
    event_id: str
    raw: Any


class Signal:
    """A score that needs no reference of its own: the labelled error and log loss, 1 - confidence."""

    def __init__(self, name: str, labelled: bool, follows_model: bool) -> None:
        self.name = name
        self.labelled = labelled
        """Whether it needs the true label."""
        self.follows_model = follows_model
        """Whether it starts afresh with a new model version."""
        self.rows: RowBuffer[Observation] = RowBuffer(KEPT)
        self.detector = EDetector()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without the rows, which are stored by themselves."""
        return {**self.__dict__, "rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = RowBuffer(KEPT)

    @property
    def value(self) -> float:
        """The evidence for a change, see `EDetector.value`."""
        return self.detector.value

    def update(self, row: Observation) -> None:
        """Take the next observation."""
        self.rows.append(row)
        self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name))

    def score(self, raw: Any) -> float:
        """How odd it is, from 0 to 1."""
        return float(raw)

    def watched(self) -> list[Observation]:
        """The kept observations that have been scored."""
        return list(self.rows)

    def values(self) -> NDArray[np.float64]:
        """The scores of `watched`, shape (n, 1); for the mix an indicator for each class, shape (n, classes)."""
        return np.array([[self.score(row.raw)] for row in self.watched()], dtype=float).reshape(-1, 1)

    def rebase(self, since: float) -> None:
        """Drop the evidence; what occurred from ``since`` on is the reference from now on."""
        self.rows.put(row for row in self.rows if row.occurred_at >= since)
        self.detector.reset()
        self.detector.calibrate(np.array([self.score(row.raw) for row in self.rows], dtype=float))

    def restart(self) -> None:
        """Forget everything."""
        self.rows.put(())
        self.detector.reset()


class TwoSidedSignal(Signal):
    """The labelled error or log loss: followed in both directions, for when it falls the model has learnt."""

    def __init__(self, name: str, follows_model: bool) -> None:
        super().__init__(name, labelled=True, follows_model=follows_model)
        self._fall = EDetector()

    @property
    def fall(self) -> float:
        """The evidence that the score has fallen."""
        return self._fall.value

    def update(self, row: Observation) -> None:
        """Take the next observation."""
        self.rows.append(row)
        self._fall.bet(1 - self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name)))

    def rebase(self, since: float) -> None:
        """Drop the evidence in both directions."""
        super().rebase(since)
        self._fall.reset()

    def restart(self) -> None:
        """Forget everything."""
        super().restart()
        self._fall.reset()


class Mix(Signal):
    """The shares of the predicted labels: for each class, whether it is predicted more often than it was."""

    def __init__(self) -> None:
        super().__init__("mix", labelled=False, follows_model=True)
        self._shares = ClassShareDetector()

    @property
    def value(self) -> float:
        """The evidence, averaged over the classes."""
        return self._shares.value

    def update(self, row: Observation) -> None:
        """Take the next predicted label."""
        if row.raw not in self._shares.names:
            self._shares.add(row.raw, len(self.rows))
        self.rows.append(row)
        self._shares.update(row.raw, [tie_breaker(row.event_id, f"mix {name}") for name in self._shares.names])

    def values(self) -> NDArray[np.float64]:
        """Indicators of the classes, shape (n, classes)."""
        return np.array([[row.raw == name for name in self._shares.names] for row in self.rows], dtype=float)

    def rebase(self, since: float) -> None:
        """The labels predicted from ``since`` on are the reference from now on."""
        self.rows.put(row for row in self.rows if row.occurred_at >= since)
        self._shares = ClassShareDetector(self._shares.names, [row.raw for row in self.rows])

    def restart(self) -> None:
        """Forget everything."""
        self.rows.put(())
        self._shares = ClassShareDetector()


class ReferenceSignal(Signal, ABC):
    """A signal that is scored against what it has learnt from the older half of its observations.

    The newer half is scored and ranks what comes, so a new score is exchangeable with those it is ranked among. The
    reference is learnt again whenever there are twice as many observations.
    """

    def __init__(self, name: str, follows_model: bool) -> None:
        super().__init__(name, labelled=False, follows_model=follows_model)
        self._next_fit = FIRST_FIT
        self._learnt = 0
        """Of the kept observations, the oldest that are no longer scored: the reference was learnt from them."""

    def update(self, row: Observation) -> None:
        """Take the next observation; nothing is said before `FIRST_FIT` of them."""
        if self._learnt and len(self.rows) == KEPT:
            self._learnt = max(1, self._learnt - 1)
        self.rows.append(row)
        if self._learnt:
            self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name))
        if len(self.rows) >= self._next_fit:
            self._fit()

    def watched(self) -> list[Observation]:
        """The kept observations that have been scored."""
        return list(self.rows)[self._learnt :] if self._learnt else []

    def rebase(self, since: float) -> None:
        """Learn the reference again from the observations that occurred from ``since`` on."""
        rows = [row for row in self.rows if row.occurred_at >= since]
        self.restart()
        self.rows.put(rows)
        if len(rows) >= FIRST_FIT:
            self._fit()

    def restart(self) -> None:
        """Forget everything."""
        super().restart()
        self._next_fit, self._learnt = FIRST_FIT, 0

    @abstractmethod
    def learn(self, raws: Iterable[Any]) -> None:
        """Learn the reference."""

    def _fit(self) -> None:
        self._learnt = len(self.rows) // 2
        self._next_fit = 2 * len(self.rows)
        raws = [row.raw for row in self.rows]
        self.learn(raws[: self._learnt])
        self.detector.calibrate(np.array([self.score(raw) for raw in raws[self._learnt :]], dtype=float))


class Vocabulary(ReferenceSignal):
    """How rare the words of a text are: the mean over its words of the log document frequency, scaled to [0, 1]."""

    def __init__(self) -> None:
        super().__init__("vocabulary", follows_model=False)
        self._rarity: dict[str, float] = {}
        """Of each word that a text had; of any other it is 1."""
        self._packed = b""
        """The same as MessagePack: thousands of words that change seldom, in a state that is stored with each batch."""

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: the words as they are packed."""
        return {**super().__getstate__(), "_rarity": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rarity = msgspec.msgpack.decode(self._packed, type=dict[str, float]) if self._packed else {}

    def learn(self, raws: Iterable[Any]) -> None:
        """Count in how many texts each word occurs."""
        texts = list(raws)
        frequency = Counter(word for text in texts for word in words(text))
        most = len(texts) + 1
        self._rarity = {word: log(most / (count + 1), most) for word, count in frequency.items()}
        self._packed = msgspec.msgpack.encode(self._rarity)

    def score(self, raw: Any) -> float:
        """1 where no word of the text is known; 0 for a text without words."""
        found = words(raw)
        if not found:
            return 0.0
        return sum(self._rarity.get(word, 1.0) for word in found) / len(found)


class Embedding(ReferenceSignal):
    """How far a text lies from the texts that got the same predicted label.

    The Mahalanobis distance to the label's mean under the pooled covariance (shrunk: Ledoit and Wolf, 2004): the
    per-label Gaussians of DriftLens (Greco et al., arXiv 2406.17813), asked of single texts instead of windows.
    """

    def __init__(self) -> None:
        super().__init__("embedding", follows_model=True)
        self._means: dict[str, NDArray[np.float64]] = {}
        self._precision = np.zeros((0, 0))

    def learn(self, raws: Iterable[Any]) -> None:
        """The mean of each predicted label and the precision matrix they share."""
        rows = [(label, unpacked(body)) for label, body in raws]
        self._means = {"": np.mean([vector for _, vector in rows], axis=0)}
        for name in sorted({label for label, _ in rows}):
            members = [vector for label, vector in rows if label == name]
            # A mean of few texts is drawn to the mean of all, by as many pseudo-observations as a label needs.
            weight = len(members) / (len(members) + 10)
            self._means[name] = weight * np.mean(members, axis=0) + (1 - weight) * self._means[""]
        residuals = np.array([vector - self._means[label] for label, vector in rows])
        covariance, _ = ledoit_wolf(residuals, assume_centered=True)
        size = len(covariance)
        floor = 1e-6 * max(float(np.trace(covariance)) / size, 1e-12)
        self._precision = np.linalg.inv(covariance + floor * np.eye(size))

    def score(self, raw: Any) -> float:
        """The squared distance x as x / (x + d)."""
        label, body = raw
        gap = unpacked(body) - self._means.get(label, self._means[""])
        distance = float(gap @ self._precision @ gap)
        return distance / (distance + len(gap))


class Projection:
    """A fixed random projection of embeddings, shape (d,), to at most `PROJECTED` dimensions, packed as float16."""

    def __init__(self) -> None:
        self._matrix: Matrix | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without the matrix, which is the same whenever it is made."""
        return {"_matrix": None}

    def pack(self, embedding: Matrix) -> bytes:
        """The projected embedding; the projection depends on d alone."""
        size = embedding.shape[0]
        if size <= PROJECTED:
            return embedding.astype(np.float16).tobytes()
        if self._matrix is None or self._matrix.shape[0] != size:
            normal = np.random.default_rng(size).standard_normal((size, PROJECTED))
            self._matrix = np.asarray(normal / np.sqrt(PROJECTED), dtype=np.float32)
        return np.asarray(embedding @ self._matrix, dtype=np.float16).tobytes()


def unpacked(body: bytes) -> NDArray[np.float64]:
    """A packed embedding, shape (d,)."""
    return np.frombuffer(body, dtype=np.float16).astype(np.float64)


def words(text: str) -> set[str]:
    """The distinct words of a text in lower case, three characters or more; numbers are always new and left out."""
    return {word for word in WORD.findall(text.lower()) if not word.isdigit()}
