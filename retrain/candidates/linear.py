"""The regularised linear head: seconds to fit, and the first answer to a drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from driftloop.classifiers.bundle import verify_bundle, write_bundle
from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.classifiers.heads import Head
from retrain.candidates.base import CannotFit, Task
from retrain.window import Window

MIN_ROWS = 20
VALIDATION = 0.25
"""Newest share of the rows after the onset that recipes are compared on."""


@dataclass(frozen=True)
class Recipe:
    """How much the rows before the drift count, and how strongly the weights are held back."""

    old_weight: float
    """Weight of a row before the onset; rows after it weigh 1."""
    inverse_penalty: float
    """scikit-learn's C."""


RECIPES = tuple(Recipe(old, c) for old in (0.0, 0.05, 0.3, 1.0) for c in (3.0,))


class LinearHead:
    """Multinomial logistic regression over embeddings and TF-IDF of words and word pairs.

    The recipe is the one with the least log loss on the newest rows, when trained on the rows before them:
    a window after an abrupt drift forgets what came before, one after a false alarm keeps it.
    """

    name = "linear"
    quick = True

    def fit(self, window: Window, task: Task, out: Path) -> None:
        """Choose a recipe, fit it on the whole window and write the bundle; see `Candidate.fit`."""
        head, recipe = learn(window, task.budget.seed)
        _write(head, recipe, window, task, out)

    def refit(self, window: Window, fitted: Path, task: Task, out: Path) -> bool:
        """Fit the recipe that the bundle ``fitted`` was made with on the whole of ``window``."""
        chosen = verify_bundle(fitted, task.signing_key).lineage.parameters
        recipe = Recipe(float(chosen["old_weight"]), float(chosen["C"]))
        _write(fit_head(window, recipe, task.budget.seed), recipe, window, task, out)
        return True

    def rescue(self, window: Window, task: Task, out: Path) -> bool:
        """Nothing is kept half-way."""
        return False


def _write(head: Head, recipe: Recipe, window: Window, task: Task, out: Path) -> None:
    lineage = msgspec.structs.replace(
        task.lineage, parameters={"old_weight": recipe.old_weight, "C": recipe.inverse_penalty}
    )
    write_bundle(
        out,
        encoder=OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores),
        head=head,
        labels=head.classes,
        lineage=lineage,
        key=task.signing_key,
    )


def learn(window: Window, seed: int = 7) -> tuple[Head, Recipe]:
    """Choose a recipe and fit it on the whole window.

    Raises:
        CannotFit: one class only, or fewer than `MIN_ROWS` rows.
    """
    if len(window.classes) < 2:
        raise CannotFit(f"all {len(window)} labels are '{window.classes[0] if window.classes else ''}'")
    if len(window) < MIN_ROWS:
        raise CannotFit(f"{len(window)} labelled events are fewer than {MIN_ROWS}")
    recipe = choose_recipe(window)
    return fit_head(window, recipe, seed), recipe


def choose_recipe(window: Window) -> Recipe:
    """The recipe with the least log loss on the newest rows."""
    cut = len(window) - max(int((len(window) - window.onset) * VALIDATION), 5)
    train, newest = window.take(slice(0, cut)), window.take(slice(cut, None))
    scored: list[tuple[float, Recipe]] = []
    for recipe, weights in usable(train):
        if len({label for label, weight in zip(train.labels, weights, strict=True) if weight > 0}) < 2:
            continue
        head = fit_head(train, recipe)
        probabilities = head.predict_proba(newest.texts, newest.embeddings)
        scored.append((_loss(head.classes, probabilities, newest.labels), recipe))
    return min(scored, key=lambda pair: pair[0])[1] if scored else RECIPES[-1]


def usable(window: Window) -> Iterator[tuple[Recipe, NDArray[np.float64]]]:
    """The recipes that differ on this window, each with its row weights of shape (n,)."""
    for recipe in RECIPES:
        if window.onset == 0 and recipe.old_weight != 1.0:
            continue
        if recipe.old_weight == 0.0 and len(window) - window.onset < MIN_ROWS:
            continue
        yield recipe, row_weights(window, recipe)


def row_weights(window: Window, recipe: Recipe) -> NDArray[np.float64]:
    """Shape (n,): `old_weight` before the onset, 1 after it."""
    weights = np.ones(len(window))
    weights[: window.onset] = recipe.old_weight
    return weights


def fit_head(window: Window, recipe: Recipe, seed: int = 7) -> Head:
    """Fit one head; a class that the window's kept rows do not hold is not among its classes."""
    weights = row_weights(window, recipe)
    kept = np.flatnonzero(weights > 0)
    rows = window.take(kept.tolist())
    if len(rows.classes) < 2:
        kept, rows = np.arange(len(window)), window
        weights = np.ones(len(window))
    vectorizer: TfidfVectorizer | None = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode", dtype=np.float32
    )
    try:
        assert vectorizer is not None  # noqa: S101 - for the type checker
        vectorizer.fit(rows.texts)
    except ValueError:  # no word occurs twice
        vectorizer = None
    head = Head(LogisticRegression(C=recipe.inverse_penalty, max_iter=100, tol=1e-3, random_state=seed), vectorizer)
    head.estimator.fit(head.features(rows.texts, rows.embeddings), np.asarray(rows.labels), sample_weight=weights[kept])
    return head


def _loss(classes: tuple[str, ...], probabilities: NDArray[np.float32], labels: tuple[str, ...]) -> float:
    """Log loss where a label that the head cannot name counts as probability zero (clipped)."""
    everything = sorted(set(classes) | set(labels))
    full = np.full((len(labels), len(everything)), 1e-6)
    for column, label in enumerate(classes):
        full[:, everything.index(label)] = probabilities[:, column]
    if len(everything) < 2 or not Counter(labels):
        return 0.0
    full = np.clip(full, 1e-6, 1)
    return float(log_loss(labels, full / full.sum(axis=1, keepdims=True), labels=everything))
