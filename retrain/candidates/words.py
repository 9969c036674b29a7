"""The words of a text as columns beside its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

MOST = 10_000
"""The most frequent words and word pairs that are read: of long texts there are ten times as many, and they do harm."""


def fit_words(texts: Sequence[str]) -> tuple[TfidfVectorizer, Any] | None:
    """TF-IDF of words and word pairs that occur in two texts or more, and the columns (n, v) of ``texts``, sparse.

    None where no word occurs twice.
    """
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=2,
        max_features=MOST,
        sublinear_tf=True,
        strip_accents="unicode",
        dtype=np.float32,
    )
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError:
        return None
