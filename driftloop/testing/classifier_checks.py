"""What every classifier does: the checks of `driftloop.testing.checks` for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from driftloop.core.models.classifier import Classifier, Predictions
from driftloop.core.models.sample_texts import HOSTILE, sentences
from driftloop.testing.checks import CheckFailed, expect, failure_reason

TEXTS = [*sentences(70, seed=5)[0], *HOSTILE]
SUM, AGREE = 1e-5, 1e-4
"""How far the sum of a row may be from 1, and two answers to the same text from one another."""


def has_its_parts(model: Classifier) -> None:
    """It has `labels`, two or more, `version`, `embed` and `predict`."""
    expect(isinstance(model, Classifier), "one of labels, version, embed and predict is missing")
    expect(isinstance(model.labels, tuple), f"its labels are a {type(model.labels).__name__}, not a tuple")
    expect(len(set(model.labels)) == len(model.labels) > 1, f"its labels are {model.labels}, not two or more")
    expect(isinstance(model.version, str), f"its version is {model.version!r}, not a string")


def gives_rows_that_sum_to_one(model: Classifier) -> None:
    """Each text gets a probability for each label, float32, that sum to 1, and an embedding."""
    said = model.predict(TEXTS)
    n, k = len(TEXTS), len(model.labels)
    expect(said.classes == model.labels, f"its answers are over {said.classes}, its labels are {model.labels}")
    expect(said.probabilities.shape == (n, k), f"probabilities of shape {said.probabilities.shape}, not {(n, k)}")
    expect(said.probabilities.dtype == np.float32, f"probabilities of the type {said.probabilities.dtype}")
    expect(said.embeddings.ndim == 2 and len(said.embeddings) == n, f"embeddings of shape {said.embeddings.shape}")
    expect(said.embeddings.dtype == np.float32, f"embeddings of the type {said.embeddings.dtype}")
    _expect_shares(said)
    expect(bool(said.route), "the answer does not say its route")
    expect(said.cost_ms > 0, f"the answer cost {said.cost_ms} ms")


def tells_texts_apart(model: Classifier) -> None:
    """Different texts get different answers."""
    spread = float(model.predict(TEXTS[:70]).probabilities.std(axis=0).max())
    expect(spread > 0.01, f"the probabilities of 70 texts hardly differ (standard deviation {spread:.4f})")


def answers_an_empty_list(model: Classifier) -> None:
    """No texts get no rows, of the same width."""
    said, width = model.predict([]), model.embed(TEXTS[:1]).shape[1]
    expect(said.probabilities.shape == (0, len(model.labels)), f"probabilities of shape {said.probabilities.shape}")
    expect(said.embeddings.shape == (0, width), f"embeddings of shape {said.embeddings.shape}, not {(0, width)}")
    expect(model.embed([]).shape == (0, width), f"`embed` gave the shape {model.embed([]).shape}, not {(0, width)}")
    expect(said.labels == [], f"labels {said.labels}")


def answers_hostile_texts_alone(model: Classifier) -> None:
    """An empty text, a very long one and strange characters are answered, each alone."""
    for text in HOSTILE:
        try:
            _expect_shares(model.predict([text]))
        except Exception as error:
            raise CheckFailed(f"{ascii(text)[:20]}: {failure_reason(error)}") from error


def agrees_with_embeddings_given(model: Classifier) -> None:
    """Embeddings that are given and those that it computes lead to the same answer."""
    embeddings = model.embed(TEXTS)
    given, computed = model.predict(TEXTS, embeddings), model.predict(TEXTS)
    _expect_close(given.probabilities, computed.probabilities, "the answers")
    _expect_close(given.embeddings, embeddings, "the embeddings")


def refuses_embeddings_of_other_texts(model: Classifier) -> None:
    """Two embeddings for three texts are refused with a ValueError."""
    try:
        model.predict(TEXTS[:3], model.embed(TEXTS[:2]))
    except ValueError:
        return
    expect(False, "two embeddings were taken for three texts")


def keeps_to_its_answer(model: Classifier) -> None:
    """Neither the order of the texts nor their neighbours change an answer."""
    together = model.predict(TEXTS).probabilities
    order = np.random.default_rng(1).permutation(len(TEXTS))
    _expect_close(model.predict([TEXTS[i] for i in order]).probabilities, together[order], "in another order, answers")
    alone = np.vstack([model.predict([text]).probabilities for text in TEXTS[-12:]])
    _expect_close(alone, together[-12:], "alone, answers")


CHECKS: tuple[Callable[[Classifier], None], ...] = (
    has_its_parts,
    gives_rows_that_sum_to_one,
    tells_texts_apart,
    answers_an_empty_list,
    answers_hostile_texts_alone,
    agrees_with_embeddings_given,
    refuses_embeddings_of_other_texts,
    keeps_to_its_answer,
)


def _expect_shares(said: Predictions) -> None:
    expect(bool(np.isfinite(said.probabilities).all()), "a probability is not a number")
    expect(bool((said.probabilities >= 0).all()), "a probability is below 0")
    gap = float(np.abs(said.probabilities.sum(axis=1) - 1).max(initial=0.0))
    expect(gap <= SUM, f"a row of probabilities is {gap:.4g} away from the sum of 1")


def _expect_close(one: np.ndarray, other: np.ndarray, what: str) -> None:
    expect(one.shape == other.shape, f"{what} have the shape {one.shape}, not {other.shape}")
    gap = float(np.abs(one - other).max(initial=0.0))
    expect(gap <= AGREE, f"{what} differ by {gap:.4g}")
