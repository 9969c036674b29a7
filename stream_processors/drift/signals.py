"""Signals of the fused detector: scores between 0 and 1 that measure how unusual a prediction or an outcome is.

The signals are pickled into the monitor's state, so their attributes keep their names.
"""

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

MAX_ROWS = 2000
"""Observations that are kept for the change point, for learning a reference and for the explanation."""
FIRST_FIT = 50
"""Observations from which a `ReferenceSignal` learns its reference for the first time."""
WORD = re.compile(r"[\w#@']{3,}")
PROJECTED = 64
"""Dimensions in which embeddings are compared (a random projection: Johnson and Lindenstrauss, 1984)."""


class Observation(NamedTuple):
    """Observation of a signal at an event."""

    position: int
    occurred_at: float
    event_id: str
    raw: Any
    """Value that the signal scores."""


class Signal:
    """Signal whose observations are scores already, under one e-detector: 1 - confidence.

    Args:
        name: Name of the signal.
        labelled: True if it needs the true label.
        follows_model: True if it restarts with a new model version.
    """

    def __init__(self, name: str, labelled: bool, follows_model: bool) -> None:
        self.name = name
        self.labelled = labelled
        self.follows_model = follows_model
        self.rows: RowBuffer[Observation] = RowBuffer(MAX_ROWS)
        self.detector = EDetector()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, without the rows, which are stored separately."""
        return {**self.__dict__, "rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = RowBuffer(MAX_ROWS)

    @property
    def value(self) -> float:
        """Evidence for a change; see `EDetector.value`."""
        return self.detector.value

    def update(self, row: Observation) -> None:
        """Add an observation."""
        self.rows.append(row)
        self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name))

    def score(self, raw: Any) -> float:
        """Return the score of an observation, from 0 to 1; a higher one is less usual."""
        return float(raw)

    def watched(self) -> list[Observation]:
        """Return the kept observations that have been scored."""
        return list(self.rows)

    def values(self) -> NDArray[np.float64]:
        """Return the scores of `watched`, shape (n, 1); for the mix an indicator of each class, shape (n, classes)."""
        return np.array([[self.score(row.raw)] for row in self.watched()], dtype=float).reshape(-1, 1)

    def rebase(self, since: float) -> None:
        """Drop the evidence, and make the observations that occurred from ``since`` on the reference."""
        self.rows.replace(row for row in self.rows if row.occurred_at >= since)
        self.detector.reset()
        self.detector.calibrate(np.array([self.score(row.raw) for row in self.rows], dtype=float))

    def restart(self) -> None:
        """Drop all observations, the reference and the evidence."""
        self.rows.replace(())
        self.detector.reset()


class TwoSidedSignal(Signal):
    """Signal under two e-detectors, one of a rise and one of a fall: the labelled error and the log loss.

    A fall means that the model has learnt.

    Args:
        name: Name of the signal.
        follows_model: True if it restarts with a new model version.
    """

    def __init__(self, name: str, follows_model: bool) -> None:
        super().__init__(name, labelled=True, follows_model=follows_model)
        self._fall = EDetector()

    @property
    def fall(self) -> float:
        """Evidence that the score has fallen."""
        return self._fall.value

    def update(self, row: Observation) -> None:
        """Add an observation."""
        self.rows.append(row)
        self._fall.bet(1 - self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name)))

    def rebase(self, since: float) -> None:
        """Drop the evidence in both directions."""
        super().rebase(since)
        self._fall.reset()

    def restart(self) -> None:
        """Drop all observations, the reference and the evidence."""
        super().restart()
        self._fall.reset()


class Mix(Signal):
    """Signal of the shares of the predicted labels: one e-detector of a rise for each class."""

    def __init__(self) -> None:
        super().__init__("mix", labelled=False, follows_model=True)
        self._shares = ClassShareDetector()

    @property
    def value(self) -> float:
        """Evidence, averaged over the classes."""
        return self._shares.value

    def update(self, row: Observation) -> None:
        """Add a predicted label."""
        if row.raw not in self._shares.names:
            self._shares.add(row.raw, len(self.rows))
        self.rows.append(row)
        self._shares.update(row.raw, [tie_breaker(row.event_id, f"mix {name}") for name in self._shares.names])

    def values(self) -> NDArray[np.float64]:
        """Return indicators of the classes, shape (n, classes)."""
        return np.array([[row.raw == name for name in self._shares.names] for row in self.rows], dtype=float)

    def rebase(self, since: float) -> None:
        """Drop the evidence, and make the labels predicted from ``since`` on the reference."""
        self.rows.replace(row for row in self.rows if row.occurred_at >= since)
        self._shares = ClassShareDetector(self._shares.names, [row.raw for row in self.rows])

    def restart(self) -> None:
        """Drop all observations, the reference and the evidence."""
        self.rows.replace(())
        self._shares = ClassShareDetector()


class ReferenceSignal(Signal, ABC):
    """Signal that is scored against a reference, which it learns from the older half of its observations.

    The newer half is scored, and new scores are ranked among these. A new score is therefore exchangeable with them.
    The reference is learnt again each time the number of observations has doubled.

    Args:
        name: Name of the signal.
        follows_model: True if it restarts with a new model version.
    """

    def __init__(self, name: str, follows_model: bool) -> None:
        super().__init__(name, labelled=False, follows_model=follows_model)
        self._next_fit = FIRST_FIT
        # Number of the oldest kept observations that are not scored, because the reference was learnt from them.
        self._learnt = 0

    def update(self, row: Observation) -> None:
        """Add an observation; there is no evidence before `FIRST_FIT` of them."""
        if self._learnt and len(self.rows) == MAX_ROWS:
            self._learnt = max(1, self._learnt - 1)
        self.rows.append(row)
        if self._learnt:
            self.detector.update(self.score(row.raw), tie_breaker(row.event_id, self.name))
        if len(self.rows) >= self._next_fit:
            self._fit()

    def watched(self) -> list[Observation]:
        """Return the kept observations that have been scored."""
        return list(self.rows)[self._learnt :] if self._learnt else []

    def rebase(self, since: float) -> None:
        """Learn the reference again from the observations that occurred from ``since`` on."""
        rows = [row for row in self.rows if row.occurred_at >= since]
        self.restart()
        self.rows.replace(rows)
        if len(rows) >= FIRST_FIT:
            self._fit()

    def restart(self) -> None:
        """Drop all observations, the reference and the evidence."""
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
    """Signal of rare words: the mean over a text's words of the negative log document frequency, scaled to [0, 1]."""

    def __init__(self) -> None:
        super().__init__("vocabulary", follows_model=False)
        # Rarity of each known word; that of any other word is 1.
        self._rarity: dict[str, float] = {}
        # The same as MessagePack: it is stored with each batch, has thousands of words, and changes seldom.
        self._packed = b""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, with the words in packed form only."""
        return {**super().__getstate__(), "_rarity": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rarity = msgspec.msgpack.decode(self._packed, type=dict[str, float]) if self._packed else {}

    def learn(self, raws: Iterable[Any]) -> None:
        """Learn the rarity of each word from the number of texts in which it occurs."""
        texts = list(raws)
        frequency = Counter(word for text in texts for word in words(text))
        most = len(texts) + 1
        self._rarity = {word: log(most / (count + 1), most) for word, count in frequency.items()}
        self._packed = msgspec.msgpack.encode(self._rarity)

    def score(self, raw: Any) -> float:
        """Return the mean rarity: 1 if no word of the text is known, 0 for a text without words."""
        found = words(raw)
        if not found:
            return 0.0
        return sum(self._rarity.get(word, 1.0) for word in found) / len(found)


class Embedding(ReferenceSignal):
    """Signal of unusual embeddings: the distance of a text from the texts with the same predicted label.

    It is the Mahalanobis distance to the label's mean under the pooled covariance, which is shrunk (Ledoit and Wolf,
    2004). These are the per-label Gaussians of DriftLens (Greco et al., arXiv 2406.17813), for single texts in place of
    windows.
    """

    def __init__(self) -> None:
        super().__init__("embedding", follows_model=True)
        self._means: dict[str, NDArray[np.float64]] = {}
        self._precision = np.zeros((0, 0))

    def learn(self, raws: Iterable[Any]) -> None:
        """Learn the mean of each predicted label, and the precision matrix that they share."""
        rows = [(label, unpacked(body)) for label, body in raws]
        self._means = {"": np.mean([vector for _, vector in rows], axis=0)}
        for name in sorted({label for label, _ in rows}):
            members = [vector for label, vector in rows if label == name]
            # The mean of a label with few texts is shrunk to the mean of all, by ten pseudo-observations.
            weight = len(members) / (len(members) + 10)
            self._means[name] = weight * np.mean(members, axis=0) + (1 - weight) * self._means[""]
        residuals = np.array([vector - self._means[label] for label, vector in rows])
        covariance, _ = ledoit_wolf(residuals, assume_centered=True)
        size = len(covariance)
        floor = 1e-6 * max(float(np.trace(covariance)) / size, 1e-12)
        self._precision = np.linalg.inv(covariance + floor * np.eye(size))

    def score(self, raw: Any) -> float:
        """Return x / (x + d), where x is the squared distance and d the number of dimensions."""
        label, body = raw
        gap = unpacked(body) - self._means.get(label, self._means[""])
        distance = float(gap @ self._precision @ gap)
        return distance / (distance + len(gap))


class Projection:
    """Fixed random projection of embeddings, shape (d,), to at most `PROJECTED` dimensions, packed as float16.

    Source: Johnson and Lindenstrauss, 1984.
    """

    def __init__(self) -> None:
        self._matrix: Matrix | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, without the matrix, which is the same each time it is made."""
        return {"_matrix": None}

    def pack(self, embedding: Matrix) -> bytes:
        """Return the projected embedding; the projection depends on d alone."""
        size = embedding.shape[0]
        if size <= PROJECTED:
            return embedding.astype(np.float16).tobytes()
        if self._matrix is None or self._matrix.shape[0] != size:
            normal = np.random.default_rng(size).standard_normal((size, PROJECTED))
            self._matrix = np.asarray(normal / np.sqrt(PROJECTED), dtype=np.float32)
        return np.asarray(embedding @ self._matrix, dtype=np.float16).tobytes()


def unpacked(body: bytes) -> NDArray[np.float64]:
    """Return a packed embedding as an array, shape (d,)."""
    return np.frombuffer(body, dtype=np.float16).astype(np.float64)


def words(text: str) -> set[str]:
    """Return the distinct words of a text in lower case, with three characters or more.

    Numbers are left out, because nearly each one is new.
    """
    return {word for word in WORD.findall(text.lower()) if not word.isdigit()}
