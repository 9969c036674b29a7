"""TF-IDF features: the words of a text as columns beside its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

FEATURES_PER_TEXT = 4
"""Words and word pairs kept for each text, the most frequent ones.

Short texts have fewer that occur twice. Long texts have ten times as many, which harm the model.
"""


def fit_tfidf(texts: Sequence[str]) -> tuple[TfidfVectorizer, Any] | None:
    """Fit TF-IDF on the words and word pairs that occur in two texts or more.

    Returns:
        The vectorizer and the sparse columns of ``texts``, shape (n, v). `None` if no word occurs twice.
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
    columns.sort_indices()  # in the order of `transform`, so that sums are the same to the last bit
    return vectorizer, columns
