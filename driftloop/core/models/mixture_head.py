"""Head of a bundle that is a mixture of experts, stored as one safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from driftloop.core.models.classifier import Matrix
from driftloop.core.models.expert_features import COLUMNS, FeatureMap, Features, Kernel, WordHasher
from driftloop.core.models.first_stage import are_columns
from driftloop.core.models.guest import Guest
from driftloop.core.models.head import Head
from driftloop.core.models.mixture import Mixture

_SHAPES = {"embedding": 3, "columns": 1, "words": 3, "bias": 2, "weights": 1, "idf": 1}
_KERNEL = {"mean": 1, "directions": 2, "landmarks": 2, "projection": 2, "width": 1}
"""Dimensions of each part of the file. The second are the fields of `Kernel`."""

Tokenise = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Returns the encoder's tokens of n texts."""


class MixtureHead:
    """A mixture over widened embeddings and hashed tokens.

    Args:
        mixture: The mixture.
        feature_map: Map that its experts were fitted with.
        tokenise: Tokeniser of the encoder.
        guests: Guests of the mixture.
    """

    def __init__(
        self, mixture: Mixture, feature_map: FeatureMap, tokenise: Tokenise, guests: Sequence[Guest] = ()
    ) -> None:
        self.mixture = mixture
        self.feature_map = feature_map
        self.tokenise = tokenise
        self.guests = tuple(guests)

    @property
    def classes(self) -> tuple[str, ...]:
        """The k classes, in the order of the columns of `predict_proba`."""
        return self.mixture.classes

    def features(self, texts: Sequence[str], embeddings: Matrix, *, ask_guests: bool = True) -> Features:
        """Return the features of n texts.

        Args:
            texts: n texts.
            embeddings: Their embeddings, of shape (n, d).
            ask_guests: Include the probabilities of the guests. They are needed for predictions only.
        """
        asked = self.guests if ask_guests else ()
        guests = {guest.name: guest.predict_proba(texts, embeddings, self.classes) for guest in asked}
        return self.feature_map.transform(embeddings, self.tokenise(texts), guests)

    def predict_proba(self, texts: Sequence[str], embeddings: Matrix) -> Matrix:
        """Return class probabilities of n texts.

        Args:
            texts: n texts.
            embeddings: Their embeddings, of shape (n, d).

        Returns:
            Shape (n, k), float32.
        """
        return self.mixture.predict_proba(self.features(texts, embeddings))

    def save(self, path: Path) -> None:
        """Write the head as one safetensors file. The names of experts and classes are not in it."""
        mixture = self.mixture
        used = np.flatnonzero(mixture.words.any(axis=(1, 2))).astype(np.int32)
        save_file(
            {
                "embedding": np.ascontiguousarray(mixture.embedding),
                "columns": used,
                "words": np.ascontiguousarray(mixture.words[used]),
                "bias": np.ascontiguousarray(mixture.bias),
                "weights": np.ascontiguousarray(mixture.weights),
                "idf": np.ascontiguousarray(self.feature_map.words.idf),
                **{name: np.ascontiguousarray(getattr(self.feature_map.kernel, name)) for name in _KERNEL},
            },
            path,
        )


AnyHead = Head | MixtureHead
"""Head of a bundle."""


def load_mixture_head(
    path: Path,
    experts: Sequence[str],
    classes: Sequence[str],
    dimension: int,
    tokenise: Tokenise,
    guests: Sequence[Guest] = (),
) -> MixtureHead:
    """Read a file of `MixtureHead.save`.

    Args:
        path: The file.
        experts: Names of the m experts.
        classes: The k classes.
        dimension: Dimension of an embedding, d.
        tokenise: Tokeniser of the encoder.
        guests: Guests of the mixture, which are among the experts.

    Raises:
        ValueError: The file is damaged, or does not fit the names.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the mixture cannot be read ({error})") from error
    if {name: value.ndim for name, value in found.items()} != _SHAPES | _KERNEL:
        raise ValueError("the mixture lacks a part, or has one of another shape")
    columns, m, k = found["columns"], len(experts), len(classes)
    (q, p), r = found["landmarks"].shape, found["projection"].shape[1]
    if not are_columns(columns, COLUMNS):
        raise ValueError("the mixture's columns are not increasing numbers")
    shapes = {name: value.shape for name, value in found.items()}
    expected = {
        "mean": (dimension,),
        "directions": (dimension, p),
        "landmarks": (q, p),
        "projection": (q, r),
        "width": (1,),
        "embedding": (dimension + r, m, k),
        "columns": columns.shape,
        "words": (len(columns), m, k),
        "bias": (m, k),
        "weights": (m,),
        "idf": (COLUMNS,),
    }
    if shapes != expected:
        raise ValueError(f"the mixture is not one of {m} experts for {k} classes and {dimension} dimensions")
    numbers = [value for name, value in found.items() if name != "columns"]
    if not all(value.dtype.kind == "f" and np.isfinite(value).all() for value in numbers):
        raise ValueError("the mixture has numbers that are not finite")
    if (found["weights"] < 0).any() or not np.isclose(found["weights"].sum(), 1, atol=1e-3):
        raise ValueError("the mixture's weights are not shares of a whole")
    names = tuple(guest.name for guest in guests)
    if not set(names) <= set(experts) or len(set(names)) < len(names):
        raise ValueError(f"the guests {', '.join(names)} are not among the experts")
    if found["width"][0] <= 0:
        raise ValueError("the kernel of the mixture has no width")
    mixture = Mixture(experts, classes, dimension + r)
    mixture.guests = names
    mixture.weights = found["weights"].astype(np.float64)
    mixture.embedding = found["embedding"].astype(np.float32)
    mixture.bias = found["bias"].astype(np.float32)
    mixture.words[columns] = found["words"]
    kernel = Kernel(**{name: found[name].astype(np.float32) for name in _KERNEL})
    return MixtureHead(mixture, FeatureMap(WordHasher(found["idf"].astype(np.float32)), kernel), tokenise, guests)
