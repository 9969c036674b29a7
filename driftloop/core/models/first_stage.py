"""First stage of a cascade: a linear model over the encoder's tokens that answers the texts it is sure of.

It costs a hundredth of the encoder, because it only sums the weights of tokens. The encoder answers the other texts
(Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001; for networks,
Teerapittayanon et al., "BranchyNet", arXiv 1709.01686). `retrain.promotion.first_stage` fits the first stage and
chooses its threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from driftloop.core.models.classifier import Matrix, softmax

FIRST_ROUTE, SECOND_ROUTE = "first-stage", "second-stage"
"""Routes of a cascade's predictions: the first stage was sure, or it was not and the encoder answered. If the first
stage was not used, the route is that of the encoder."""
CASCADE_ROUTES = frozenset({FIRST_ROUTE, SECOND_ROUTE})
COLUMNS = 1 << 18
"""Hash values of tokens and pairs of tokens (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning",
2009)."""
_SHAPES = {"columns": 1, "idf": 1, "weights": 2, "bias": 1, "threshold": 1}


@dataclass(frozen=True)
class FirstStage:
    """Linear model over TF-IDF of m hashed tokens and pairs of tokens, for k classes."""

    columns: NDArray[np.int32]
    """Shape (m,), increasing: hash values with a weight."""
    idf: Matrix
    """Shape (m,): inverse document frequencies."""
    weights: Matrix
    """Shape (k, m), float32."""
    bias: Matrix
    """Shape (k,)."""
    threshold: float
    """Minimum probability of a final answer."""

    def predict_proba(self, tokens: Sequence[Sequence[int]]) -> Matrix:
        """Return class probabilities for the tokens of n texts. Shape (n, k), float32."""
        counts = count_tokens(tokens)
        at = self._places[counts.indices]
        known = at >= 0
        rows = np.repeat(np.arange(len(tokens)), np.diff(counts.indptr))[known]
        found = sp.csr_matrix(
            (self.idf[at[known]], (rows, at[known])), shape=(len(tokens), len(self.columns)), dtype=np.float32
        )
        return softmax(np.asarray(normalise_rows(found) @ self.weights.T) + self.bias)

    def is_sure(self, probabilities: Matrix) -> NDArray[np.bool_]:
        """Return True for each row whose answer is final. Shape (n,)."""
        return np.asarray(probabilities.max(axis=1, initial=0.0) >= self.threshold)

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        """The column of each hash value, -1 without one."""
        places = np.full(COLUMNS, -1, dtype=np.int32)
        places[self.columns] = np.arange(len(self.columns), dtype=np.int32)
        return places

    def save(self, path: Path) -> None:
        """Write the first stage as one safetensors file."""
        whole = {name: np.ascontiguousarray(getattr(self, name)) for name in _SHAPES if name != "threshold"}
        save_file(whole | {"threshold": np.asarray([self.threshold], dtype=np.float64)}, path)


def load_first_stage(path: Path, classes: int) -> FirstStage:
    """Read a file of `FirstStage.save`.

    Args:
        path: The file.
        classes: Number of classes, k.

    Raises:
        ValueError: The file is damaged or has another number of classes.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the first stage cannot be read ({error})") from error
    if {name: value.ndim for name, value in found.items()} != _SHAPES:
        raise ValueError("the first stage lacks a part, or has one of another shape")
    columns, m = found["columns"], len(found["columns"])
    if not are_columns(columns, COLUMNS):
        raise ValueError("the first stage's columns are not increasing numbers")
    if found["idf"].shape != (m,) or found["weights"].shape != (classes, m) or found["bias"].shape != (classes,):
        raise ValueError(f"the first stage is not one for {classes} classes")
    if not all(np.isfinite(found[name]).all() for name in ("idf", "weights", "bias")):
        raise ValueError("the first stage has weights that are not finite")
    return FirstStage(columns, found["idf"], found["weights"], found["bias"], float(found["threshold"][0]))


def are_columns(columns: NDArray[Any], limit: int) -> bool:
    """Return True if an array (m,) holds increasing whole numbers from 0 to below ``limit``.

    Args:
        columns: The array.
        limit: Number of columns.
    """
    rising = columns.dtype == np.int32 and bool((np.diff(columns) > 0).all())
    return rising and (not len(columns) or 0 <= columns[0] <= columns[-1] < limit)


def inverse_document_frequency(occurs: NDArray[Any], texts: int) -> Matrix:
    """Return the smoothed inverse document frequency of m columns, shape (m,), as scikit-learn defines it.

    Args:
        occurs: Number of texts with each column, shape (m,).
        texts: Number of all texts.
    """
    return np.asarray(np.log((1 + texts) / (1 + occurs)) + 1, dtype=np.float32)


def count_tokens(tokens: Iterable[Sequence[int]]) -> sp.csr_matrix:
    """Mark the tokens, and pairs of neighbouring tokens, in n texts with ones. Shape (n, `COLUMNS`).

    The start and end tokens of the encoder count like others. They form pairs with the first and the last word.
    """
    numbers, ends = [np.zeros(0, dtype=np.uint64)], [0]
    for ids in tokens:
        one = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
        found = np.unique(np.concatenate([_hashed(one), _hashed(one[:-1] * _PAIR + one[1:])]))
        numbers.append(found)
        ends.append(ends[-1] + len(found))
    indices = np.concatenate(numbers).astype(np.int32)
    return sp.csr_matrix((np.ones(len(indices), dtype=np.float32), indices, ends), shape=(len(ends) - 1, COLUMNS))


def normalise_rows(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Scale rows to length 1. Empty rows stay empty. Unlike scikit-learn's function, it accepts an empty matrix."""
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.maximum(lengths, 1e-9)) @ rows)


_PAIR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def _hashed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash to values below `COLUMNS` (after SplitMix, Steele et al., 2014)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * _MIX
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(COLUMNS)
