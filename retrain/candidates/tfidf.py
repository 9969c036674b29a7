"""The words of a text as columns beside its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

FEATURES_PER_TEXT = 4
"""So many words and word pairs are read for each text, the most frequent: short texts have fewer that occur twice, long
ones ten times as many, which do harm."""


def fit_tfidf(texts: Sequence[str]) -> tuple[TfidfVectorizer, Any] | None:
    """TF-IDF of words and word pairs that occur in two texts or more, and the columns (n, v) of ``texts``, sparse.

    None where no word occurs twice.
    """
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=2,
        max_features=FEATURES_PER_TEXT * len(texts),
        sublinear_tf=True,
        strip_accents="unicode",
        dtype=np.float32,
    )
    try:
        columns = vectorizer.fit_transform(texts)
    except ValueError:
        return None
    columns.sort_indices()  # as `transform` has them, so that sums come out the same
    return vectorizer, columns
