"""Heads: what turns an embedding, and the text's words where the head uses them, into class probabilities.

A head is stored with skops, and only types that skops or `TRUSTED` names are loaded: a file cannot name code to run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from driftloop.core.models.classifier import Matrix

# skops imports every module of scikit-learn, and some of those import what scoring has no use for wherever it is
# installed: torch alone takes two seconds and 200 MB.
_LEFT_OUT = [package for package in ("torch", "dask", "pytest") if package not in sys.modules]
sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type]
try:
    import skops.io
finally:
    for package in _LEFT_OUT:
        del sys.modules[package]

TRUSTED = frozenset(
    {
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
    }
)
"""What the candidates' estimators are made of beyond the types that skops trusts by itself. Whole packages are not on
it: they hold functions that run what they are given, such as `builtins.eval`."""
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""Most bytes that a head's file may unpack to."""
ADDRESS_ATTRIBUTES = frozenset({"_stop_words_id"})
"""Attributes in which scikit-learn remembers where in memory something lay; they come with the first prediction."""


@dataclass(frozen=True)
class Head:
    """A fitted scikit-learn estimator over embeddings, with or without TF-IDF columns beside them."""

    estimator: Any
    """Has `classes_` (k strings) and `predict_proba`."""
    vectorizer: TfidfVectorizer | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of `predict_proba`."""
        return tuple(str(label) for label in self.estimator.classes_)

    def features(self, texts: Sequence[str], embeddings: Matrix) -> Any:
        """Embeddings of shape (n, d), or a sparse matrix (n, d + v) where the head reads words too."""
        if self.vectorizer is None:
            return embeddings
        return stack_columns(embeddings, self.vectorizer.transform(texts))

    def predict_proba(self, texts: Sequence[str], embeddings: Matrix) -> Matrix:
        """Probabilities of shape (n, k), float32."""
        found = self.estimator.predict_proba(self.features(texts, embeddings))
        return np.asarray(found, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write the head as one skops file.

        The words are one string in it: skops describes every entry of a dictionary by itself, half a second for 4,000.
        """
        vectorizer, words = copy.copy(self.vectorizer), ""
        if vectorizer is not None:
            words = json.dumps(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__))
            del vectorizer.vocabulary_
        skops.io.dump({"estimator": self.estimator, "vectorizer": vectorizer, "words": words}, path)


def stack_columns(embeddings: Matrix, words: Any) -> Any:
    """A sparse matrix (n, d + v) of embeddings (n, d) and the sparse TF-IDF columns (n, v) of the same texts."""
    return sp.hstack([sp.csr_matrix(embeddings), words], format="csr")


def load_head(path: Path) -> Head:
    """Read a head.

    Raises:
        ValueError: the file names a type that is not trusted, or unpacks to more than `UNPACKED`.
        Exception: it is no such file; skops, zipfile and NumPy raise types of their own.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise ValueError(f"the head unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    strange = {str(name) for name in skops.io.get_untrusted_types(file=path)} - TRUSTED
    if strange:
        raise ValueError(f"the head names types that are not trusted: {', '.join(sorted(strange))}")
    found = skops.io.load(path, trusted=sorted(TRUSTED))
    vectorizer = found["vectorizer"]
    if vectorizer is not None and not hasattr(vectorizer, "vocabulary_"):
        vectorizer.vocabulary_ = {word: column for column, word in enumerate(json.loads(found.get("words", "")))}
    return Head(found["estimator"], vectorizer)


def weights_digest(head: Head) -> str:
    """SHA-256 over all that a head has learnt and its settings: two fits of the same are equal, wherever stored.

    The file cannot be compared: skops names its members by addresses in memory, and a zip carries the time of day.
    """
    digest = hashlib.sha256()
    for part in _content_bytes({"estimator": head.estimator, "vectorizer": head.vectorizer}):
        digest.update(part)
    return digest.hexdigest()


def _content_bytes(value: Any) -> Iterator[bytes]:
    """What makes up a value, in an order that does not depend on how it came to be."""
    if isinstance(value, np.ndarray) and value.dtype.names:  # a tree's nodes, with arbitrary bytes between the fields
        yield from _content_bytes({name: value[name] for name in value.dtype.names})
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        yield f"{value.dtype.str}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, np.ndarray | np.generic):
        yield from _content_bytes(value.tolist())
    elif sp.issparse(value):
        rows = value.tocsr()
        yield from _content_bytes([rows.shape, rows.data, rows.indices, rows.indptr])
    elif isinstance(value, dict):
        yield f"{len(value)} pairs".encode()
        for key in sorted(value, key=str):
            yield from _content_bytes(str(key))
            yield from _content_bytes(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} items".encode()
        for item in value:
            yield from _content_bytes(item)
    elif value is None or isinstance(value, str | bytes | int | float | type):
        yield repr(value).encode()
        yield b";"
    else:
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}".encode()
        state = vars(value) if hasattr(value, "__dict__") else value.__getstate__()
        if isinstance(state, dict):
            state = {key: part for key, part in state.items() if key not in ADDRESS_ATTRIBUTES}
        yield from _content_bytes(state)
