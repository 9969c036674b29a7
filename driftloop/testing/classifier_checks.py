"""Checks that every classifier passes; `driftloop.testing.checks` runs them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from driftloop.core.models.classifier import Classifier, Predictions
from driftloop.core.models.sample_texts import HOSTILE, sentences
from driftloop.testing.checks import CheckFailed, expect, failure_reason

TEXTS = [*sentences(70, seed=5)[0], *HOSTILE]
SUM, AGREE = 1e-5, 1e-4
"""Tolerance of the sum of a row, and of two predictions for the same text."""


def check_interface(model: Classifier) -> None:
    """It has `labels`, two or more, `version`, `embed` and `predict`."""
    expect(isinstance(model, Classifier), "one of labels, version, embed and predict is missing")
    expect(isinstance(model.labels, tuple), f"its labels are a {type(model.labels).__name__}, not a tuple")
    expect(len(set(model.labels)) == len(model.labels) > 1, f"its labels are {model.labels}, not two or more")
    expect(isinstance(model.version, str), f"its version is {model.version!r}, not a string")


def check_rows_sum_to_one(model: Classifier) -> None:
    """Each text gets an embedding, and probabilities of all labels in float32 that sum to 1."""
    answers = model.predict(TEXTS)
    n, k = len(TEXTS), len(model.labels)
    expect(answers.classes == model.labels, f"its answers are over {answers.classes}, its labels are {model.labels}")
    expect(answers.probabilities.shape == (n, k), f"probabilities of shape {answers.probabilities.shape}, not {(n, k)}")
    expect(answers.probabilities.dtype == np.float32, f"probabilities of the type {answers.probabilities.dtype}")
    expect(
        answers.embeddings.ndim == 2 and len(answers.embeddings) == n, f"embeddings of shape {answers.embeddings.shape}"
    )
    expect(answers.embeddings.dtype == np.float32, f"embeddings of the type {answers.embeddings.dtype}")
    _expect_shares(answers)
    expect(bool(answers.route), "the answer has no route")
    expect(answers.cost_ms > 0, f"the answer cost {answers.cost_ms} ms")


def check_distinguishes_texts(model: Classifier) -> None:
    """Different texts get different probabilities."""
    spread = float(model.predict(TEXTS[:70]).probabilities.std(axis=0).max())
    expect(spread > 0.01, f"the probabilities of 70 texts hardly differ (standard deviation {spread:.4f})")


def check_empty_list(model: Classifier) -> None:
    """An empty list of texts gives zero rows of the same width."""
    answers, width = model.predict([]), model.embed(TEXTS[:1]).shape[1]
    expect(
        answers.probabilities.shape == (0, len(model.labels)), f"probabilities of shape {answers.probabilities.shape}"
    )
    expect(answers.embeddings.shape == (0, width), f"embeddings of shape {answers.embeddings.shape}, not {(0, width)}")
    expect(model.embed([]).shape == (0, width), f"`embed` gave the shape {model.embed([]).shape}, not {(0, width)}")
    expect(answers.labels == [], f"labels {answers.labels}")


def check_hostile_texts(model: Classifier) -> None:
    """An empty text, a very long text and unusual characters are each classified alone."""
    for text in HOSTILE:
        try:
            _expect_shares(model.predict([text]))
        except Exception as error:
            raise CheckFailed(f"{ascii(text)[:20]}: {failure_reason(error)}") from error


def check_given_embeddings(model: Classifier) -> None:
    """Given embeddings and computed embeddings lead to the same probabilities."""
    embeddings = model.embed(TEXTS)
    given, computed = model.predict(TEXTS, embeddings), model.predict(TEXTS)
    _expect_close(given.probabilities, computed.probabilities, "the answers")
    _expect_close(given.embeddings, embeddings, "the embeddings")


def check_refuses_other_embeddings(model: Classifier) -> None:
    """Two embeddings for three texts raise a ValueError."""
    try:
        model.predict(TEXTS[:3], model.embed(TEXTS[:2]))
    except ValueError:
        return
    expect(False, "two embeddings were taken for three texts")


def check_order_and_neighbours(model: Classifier) -> None:
    """The order of the texts and their neighbours do not change the probabilities."""
    together = model.predict(TEXTS).probabilities
    order = np.random.default_rng(1).permutation(len(TEXTS))
    _expect_close(model.predict([TEXTS[i] for i in order]).probabilities, together[order], "in another order, answers")
    alone = np.vstack([model.predict([text]).probabilities for text in TEXTS[-12:]])
    _expect_close(alone, together[-12:], "alone, answers")


CHECKS: tuple[Callable[[Classifier], None], ...] = (
    check_interface,
    check_rows_sum_to_one,
    check_distinguishes_texts,
    check_empty_list,
    check_hostile_texts,
    check_given_embeddings,
    check_refuses_other_embeddings,
    check_order_and_neighbours,
)


def _expect_shares(answers: Predictions) -> None:
    expect(bool(np.isfinite(answers.probabilities).all()), "a probability is not a number")
    expect(bool((answers.probabilities >= 0).all()), "a probability is below 0")
    gap = float(np.abs(answers.probabilities.sum(axis=1) - 1).max(initial=0.0))
    expect(gap <= SUM, f"a row of probabilities is {gap:.4g} away from the sum of 1")


def _expect_close(one: np.ndarray, other: np.ndarray, what: str) -> None:
    expect(one.shape == other.shape, f"{what} have the shape {one.shape}, not {other.shape}")
    gap = float(np.abs(one - other).max(initial=0.0))
    expect(gap <= AGREE, f"{what} differ by {gap:.4g}")
