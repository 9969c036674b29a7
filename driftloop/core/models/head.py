"""Heads: classifiers over embeddings, with or without TF-IDF features of the text.

A head is stored with skops. Only types trusted by skops or in `TRUSTED` are loaded, so that a file cannot name code.
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

# skops imports every module of scikit-learn, and some of them import large packages that scoring does not need. torch
# alone takes two seconds and 200 MB.
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
"""Types of the candidates' estimators that skops does not trust by default. Whole packages are not included, because
they contain functions that run their arguments, such as `builtins.eval`."""
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""Maximum bytes of an unpacked head."""
ADDRESS_ATTRIBUTES = frozenset({"_stop_words_id"})
"""Attributes with memory addresses, which scikit-learn adds at the first prediction."""


@dataclass(frozen=True)
class Head:
    """Fitted scikit-learn estimator over embeddings, with or without TF-IDF columns."""

    estimator: Any
    """Estimator with `classes_` (k strings) and `predict_proba`."""
    vectorizer: TfidfVectorizer | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of `predict_proba`."""
        return tuple(str(label) for label in self.estimator.classes_)

    def features(self, texts: Sequence[str], embeddings: Matrix) -> Any:
        """Return the features of n texts.

        Args:
            texts: n texts.
            embeddings: Their embeddings, of shape (n, d).

        Returns:
            The embeddings, or a sparse matrix of shape (n, d + v) with v TF-IDF columns.
        """
        if self.vectorizer is None:
            return embeddings
        return stack_columns(embeddings, self.vectorizer.transform(texts))

    def predict_proba(self, texts: Sequence[str], embeddings: Matrix) -> Matrix:
        """Return class probabilities of n texts.

        Args:
            texts: n texts.
            embeddings: Their embeddings, of shape (n, d).

        Returns:
            Shape (n, k), float32.
        """
        found = self.estimator.predict_proba(self.features(texts, embeddings))
        return np.asarray(found, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write the head as one skops file.

        The vocabulary is stored as one string, because skops describes each entry of a dictionary separately. That
        takes half a second for 4,000 words.
        """
        vectorizer, words = copy.copy(self.vectorizer), ""
        if vectorizer is not None:
            words = json.dumps(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__))
            del vectorizer.vocabulary_
        skops.io.dump({"estimator": self.estimator, "vectorizer": vectorizer, "words": words}, path)


def stack_columns(embeddings: Matrix, words: Any) -> Any:
    """Join embeddings and TF-IDF columns of n texts.

    Args:
        embeddings: Shape (n, d).
        words: Sparse, of shape (n, v).

    Returns:
        A sparse matrix of shape (n, d + v).
    """
    return sp.hstack([sp.csr_matrix(embeddings), words], format="csr")


def load_head(path: Path) -> Head:
    """Read a head.

    Raises:
        ValueError: The file names an untrusted type, or unpacks to more than `MAX_UNPACKED_BYTES`.
        Exception: The file is damaged. skops, zipfile and NumPy raise their own types.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise ValueError(f"the head unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    untrusted = {str(name) for name in skops.io.get_untrusted_types(file=path)} - TRUSTED
    if untrusted:
        raise ValueError(f"the head names types that are not trusted: {', '.join(sorted(untrusted))}")
    found = skops.io.load(path, trusted=sorted(TRUSTED))
    vectorizer = found["vectorizer"]
    if vectorizer is not None and not hasattr(vectorizer, "vocabulary_"):
        vectorizer.vocabulary_ = {word: column for column, word in enumerate(json.loads(found.get("words", "")))}
    return Head(found["estimator"], vectorizer)


def weights_digest(head: Head) -> str:
    """Return a SHA-256 of a head's learnt values and settings, which is equal for equal fits.

    The files of equal heads differ: skops names members by memory addresses, and a zip file contains the time.
    """
    digest = hashlib.sha256()
    for part in _content_bytes({"estimator": head.estimator, "vectorizer": head.vectorizer}):
        digest.update(part)
    return digest.hexdigest()


def _content_bytes(value: Any) -> Iterator[bytes]:
    """Yield the content of a value in an order that is independent of its creation."""
    if isinstance(value, np.ndarray) and value.dtype.names:  # nodes of a tree, with arbitrary bytes between the fields
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
