"""Generated texts for checks and tests: easy ones with labels, and hostile ones that break careless code."""

from __future__ import annotations

import random

LABELS = ("negative", "neutral", "positive")
WORDS = {
    "negative": ("awful", "late", "broken", "angry"),
    "neutral": ("gate", "report", "tuesday", "map"),
    "positive": ("great", "love", "happy", "thanks"),
}
FILLER = ("the", "flight", "was", "a", "car", "and", "so", "today", "my", "crew")
HOSTILE = (
    "",
    "x" * 10_000,
    "great 😀🎉👩‍👩‍👧",
    "nul\x00byte",
    "\u202eright to left\u202c שלום",
    "\ud7ff\ufffd",
    "\n\t ",
)


def sentences(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Generate texts with two words that reveal the label.

    Args:
        n: Number of texts.
        seed: Seed of the generator.

    Returns:
        The texts and their labels.
    """
    rng = random.Random(seed)
    labels = [rng.choice(LABELS) for _ in range(n)]
    texts = []
    for label in labels:
        words = rng.choices(FILLER, k=6) + rng.choices(WORDS[label], k=2)
        rng.shuffle(words)
        texts.append(" ".join(words))
    return texts, labels
