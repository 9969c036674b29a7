"""Words beside an embedding."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from driftloop.core.models.head import beside
from retrain.candidates.tfidf import PER_TEXT, fit_words


def test_the_most_frequent_are_read_and_no_more() -> None:
    rare = " ".join(f"w{number:03}" for number in range(300))
    read = fit_words([rare, rare, "often", "often", "often"])
    assert read is not None
    vectorizer, columns = read
    assert columns.shape == (5, 5 * PER_TEXT), "of 600 words and pairs"
    assert "often" in vectorizer.vocabulary_ and len(vectorizer.vocabulary_) == 5 * PER_TEXT


def test_texts_without_a_word_in_common_have_none() -> None:
    assert fit_words(["alpha beta", "gamma delta"]) is None
    assert fit_words(["", "?"]) is None


def test_a_model_reads_what_its_head_was_fitted_on() -> None:
    texts = ["good news today", "bad news today", "good day"]
    embeddings = np.eye(3, dtype=np.float32)
    read = fit_words(texts)
    assert read is not None
    vectorizer, columns = read
    fitted = beside(embeddings, columns)
    assert sp.issparse(fitted) and fitted.shape == (3, 3 + columns.shape[1])
    again = beside(embeddings, vectorizer.transform(texts))
    np.testing.assert_array_equal(fitted.indices, again.indices, "sums are made in the same order")
    np.testing.assert_array_equal(fitted.data, again.data)
    np.testing.assert_array_equal(fitted[:, :3].toarray(), embeddings)
