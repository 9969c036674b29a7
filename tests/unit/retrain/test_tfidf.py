"""TF-IDF columns beside an embedding."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from driftloop.core.models.head import stack_columns
from retrain.candidates.tfidf import FEATURES_PER_TEXT, fit_tfidf


def test_vocabulary_keeps_most_frequent_terms_up_to_limit() -> None:
    rare = " ".join(f"w{number:03}" for number in range(300))
    read = fit_tfidf([rare, rare, "often", "often", "often"])
    assert read is not None
    vectorizer, columns = read
    assert columns.shape == (5, 5 * FEATURES_PER_TEXT), "of 600 words and pairs"
    assert "often" in vectorizer.vocabulary_ and len(vectorizer.vocabulary_) == 5 * FEATURES_PER_TEXT


def test_texts_without_common_words_have_no_columns() -> None:
    assert fit_tfidf(["alpha beta", "gamma delta"]) is None
    assert fit_tfidf(["", "?"]) is None


def test_transformed_columns_equal_fitted_columns() -> None:
    texts = ["good news today", "bad news today", "good day"]
    embeddings = np.eye(3, dtype=np.float32)
    read = fit_tfidf(texts)
    assert read is not None
    vectorizer, columns = read
    fitted = stack_columns(embeddings, columns)
    assert sp.issparse(fitted) and fitted.shape == (3, 3 + columns.shape[1])
    again = stack_columns(embeddings, vectorizer.transform(texts))
    np.testing.assert_array_equal(fitted.indices, again.indices, "sums are made in the same order")
    np.testing.assert_array_equal(fitted.data, again.data)
    np.testing.assert_array_equal(fitted[:, :3].toarray(), embeddings)
