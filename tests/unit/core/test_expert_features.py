"""Features of the experts: the kernel's values, and what experts can learn from them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from driftloop.core.models.expert_features import LANDMARKS, FeatureMap, Kernel
from retrain.mixture.softmax_regression import fit_softmax_regression


def embeddings(n: int, dimension: int = 6, seed: int = 7) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, dimension))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("emphasis", [1.0, 2.0])
def test_values_approximate_the_kernel(emphasis: float) -> None:
    """On texts that are no landmarks; scikit-learn computes the kernel itself."""
    rows = embeddings(1000)
    kernel = Kernel.fit(rows, emphasis)
    values = kernel.transform(embeddings(200, seed=8))
    exact = rbf_kernel(embeddings(200, seed=8), gamma=1 / float(kernel.width[0]))
    assert len(kernel.landmarks) == LANDMARKS and values.shape[1] <= LANDMARKS
    assert np.abs(values @ values.T - emphasis**2 * exact).max() < 0.05 * emphasis**2


@pytest.mark.parametrize("rows", [embeddings(1), embeddings(2), np.repeat(embeddings(3), 50, axis=0), np.ones((9, 6))])
def test_few_or_equal_texts_give_finite_values(rows: np.ndarray) -> None:
    values = Kernel.fit(np.asarray(rows, dtype=np.float32)).transform(embeddings(20))
    assert np.isfinite(values).all() and 1 <= values.shape[1] <= len(np.unique(rows, axis=0))
    assert (np.linalg.norm(values, axis=1) <= 2.01).all()


def test_experts_learn_what_no_plane_separates() -> None:
    """Two classes, each on two opposite sides; the control has values without length."""
    rows = embeddings(1200, dimension=3)
    labels = np.where(rows[:, 0] * rows[:, 1] > 0, "same", "other")
    tokens = [[5]] * len(rows)
    right = []
    for emphasis in (2.0, 0.0):
        features = FeatureMap.fit(rows[:1000], tokens[:1000], emphasis).transform(rows, tokens)
        weights = fit_softmax_regression(features, labels.tolist())
        scores = features.embeddings[1000:] @ weights.embedding + weights.bias
        right.append(float((np.asarray(weights.classes)[scores.argmax(axis=1)] == labels[1000:]).mean()))
    assert right[0] > 0.9 and right[1] < 0.65
