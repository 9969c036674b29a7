"""Word replacement for vocabulary shifts: the choice of words, and their replacements."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.row import Row
from producers.scenarios.scenario_schema import VocabularySpec

WORD = re.compile(r"\b\w\w+\b")
"""A word as in scikit-learn: two or more letters, digits or underscores."""


def choose_words(rows: Sequence[Row], spec: VocabularySpec, seed: int, number: int = 0) -> dict[str, str]:
    """Choose ``spec.count`` words of the affected rows and return each with its replacement.

    Args:
        rows: The stream in order.
        spec: The vocabulary shift.
        seed: Seed of the scenario.
        number: Index of the injection in the scenario.

    Returns:
        Old word to new word, the most frequent word first.

    Raises:
        DriftloopError: The texts have too few words.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.feature_selection import chi2

    affected = _affected(rows, spec)
    # The loss of a word that occurs in less than one text in a thousand is no drift.
    counter = CountVectorizer(binary=True, token_pattern=WORD.pattern, min_df=max(2, len(affected) // 1000))
    try:
        counts = counter.fit_transform(row.text for row in affected)
        names = counter.get_feature_names_out().tolist()
    except ValueError:  # no text, or no word that is frequent enough
        names = []
    least = max(spec.count, 2) if spec.by == "each other" else spec.count
    if len(names) < least:
        raise DriftloopError(
            f"The injection 'vocabulary' from position {spec.start} on asks for {least} words where {len(names)} are "
            "frequent: lower `count`, or name the words in `words`."
        )
    frequency = np.asarray(counts.sum(axis=0)).ravel()
    score = chi2(counts, [row.label for row in affected])[0] if spec.pick == "informative" else frequency
    best = sorted(range(len(names)), key=lambda word: (-score[word], names[word]))[: spec.count]
    old = [names[word] for word in sorted(best, key=lambda word: (-frequency[word], names[word]))]
    chance = transforms.generator(seed, "vocabulary", number)
    if spec.by == "each other":
        order = list(old)
        chance.shuffle(order)
        replacement = dict(zip(order, [*order[1:], order[0]], strict=True))  # one cycle: no word keeps its place
        return {word: replacement[word] for word in old}
    taken = set(names)
    return {word: new_word(chance, taken) for word in old}


def named_words(rows: Sequence[Row], spec: VocabularySpec) -> dict[str, str]:
    """Return the words that a spec names, each with its replacement.

    Args:
        rows: The stream in order.
        spec: The vocabulary shift.

    Raises:
        DriftloopError: A word does not occur in the affected rows.
    """
    present = {word.lower() for row in _affected(rows, spec) for word in WORD.findall(row.text)}
    for word in spec.words:
        if word.lower() not in present:
            raise DriftloopError(
                f"The word {word!r} of the injection 'vocabulary' does not occur from position {spec.start} on: name "
                "single words of the texts, two letters or longer, in `words`."
            )
    return spec.words


def _affected(rows: Sequence[Row], spec: VocabularySpec) -> list[Row]:
    return [row for row in rows[spec.start : spec.end] if not spec.segment or row.segment == spec.segment]


def new_word(chance: random.Random, taken: set[str]) -> str:
    """Make up a word and add it to the words taken.

    Args:
        chance: Random generator.
        taken: Words that must not be returned.
    """
    while True:
        word = "".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3))
        if word not in taken:
            taken.add(word)
            return word


def word_replacer(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces words in a text and keeps their capitals."""
    lower = {old.lower(): new for old, new in words.items()}

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        new = lower.get(word.lower())
        if new is None:
            return word
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return lambda text: WORD.sub(swap, text)
