"""The first stage of a cascade: a linear model over the encoder's tokens, which answers what it is sure of.

It costs a hundredth of what the encoder does: no token is embedded, its weights are only added up. What it is not sure
of goes on to the encoder (Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", 2001;
for networks, Teerapittayanon et al., "BranchyNet", arXiv 1709.01686). `retrain.promotion.first_stage` fits it, and chooses how sure
it has to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from driftloop.core.models.classifier import Matrix, softmax

FIRST_ROUTE, SECOND_ROUTE = "first-stage", "second-stage"
"""Routes of a cascade's answers: the first stage was sure, or was not and the encoder was asked. An answer that the
encoder was asked for anyway has the encoder's own route."""
CASCADE_ROUTES = frozenset({FIRST_ROUTE, SECOND_ROUTE})
COLUMNS = 1 << 18
"""Numbers that tokens and pairs of tokens are hashed to (Weinberger et al., "Feature Hashing for Large Scale Multitask
Learning", 2009)."""
_SHAPES = {"columns": 1, "idf": 1, "weights": 2, "bias": 1, "threshold": 1}


@dataclass(frozen=True)
class FirstStage:
    """A linear model over TF-IDF of m hashed tokens and pairs of tokens, for k classes."""

    columns: NDArray[np.int32]
    """Shape (m,), rising: the hashed numbers that it has weights for."""
    idf: Matrix
    """Shape (m,)."""
    weights: Matrix
    """Shape (k, m), float32."""
    bias: Matrix
    """Shape (k,)."""
    threshold: float
    """Probability from which on its answer is final."""

    def predict_proba(self, tokens: Sequence[Sequence[int]]) -> Matrix:
        """Probabilities of shape (n, k), float32."""
        counts = count_tokens(tokens)
        at = self._places[counts.indices]
        known = at >= 0
        rows = np.repeat(np.arange(len(tokens)), np.diff(counts.indptr))[known]
        found = sp.csr_matrix(
            (self.idf[at[known]], (rows, at[known])), shape=(len(tokens), len(self.columns)), dtype=np.float32
        )
        return softmax(np.asarray(normalise_rows(found) @ self.weights.T) + self.bias)

    def is_sure(self, probabilities: Matrix) -> NDArray[np.bool_]:
        """Of which rows its answer is final; shape (n,)."""
        return np.asarray(probabilities.max(axis=1, initial=0.0) >= self.threshold)

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        """The column of each hashed number, -1 where it has none."""
        places = np.full(COLUMNS, -1, dtype=np.int32)
        places[self.columns] = np.arange(len(self.columns), dtype=np.int32)
        return places

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        whole = {name: np.ascontiguousarray(getattr(self, name)) for name in _SHAPES if name != "threshold"}
        save_file(whole | {"threshold": np.asarray([self.threshold], dtype=np.float64)}, path)


def load_first_stage(path: Path, classes: int) -> FirstStage:
    """Read what `FirstStage.save` wrote, for so many classes.

    Raises:
        ValueError: it is no such file.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the first stage cannot be read ({error})") from error
    if {name: value.ndim for name, value in found.items()} != _SHAPES:
        raise ValueError("the first stage lacks a part, or has one of another shape")
    columns, m = found["columns"], len(found["columns"])
    rising = columns.dtype == np.int32 and bool((np.diff(columns) > 0).all())
    if not rising or (m and not 0 <= columns[0] <= columns[-1] < COLUMNS):
        raise ValueError("the first stage's columns are not numbers that rise")
    if found["idf"].shape != (m,) or found["weights"].shape != (classes, m) or found["bias"].shape != (classes,):
        raise ValueError(f"the first stage is not one for {classes} classes")
    if not all(np.isfinite(found[name]).all() for name in ("idf", "weights", "bias")):
        raise ValueError("the first stage has weights that are not finite")
    return FirstStage(columns, found["idf"], found["weights"], found["bias"], float(found["threshold"][0]))


def count_tokens(tokens: Iterable[Sequence[int]]) -> sp.csr_matrix:
    """Which tokens, and pairs of neighbouring ones, occur in n texts: ones of shape (n, `COLUMNS`).

    The marks that an encoder puts around every text are tokens like others: they make pairs with the first and the last
    word.
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
    """The rows, each of length 1; an empty one stays empty. Unlike scikit-learn's, it takes no rows, or no columns."""
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.maximum(lengths, 1e-9)) @ rows)


_PAIR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def _hashed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers below `COLUMNS`, as if drawn by lot (after Steele et al.'s SplitMix, 2014)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * _MIX
    return (mixed ^ (mixed >> np.uint64(31))) % np.uint64(COLUMNS)
