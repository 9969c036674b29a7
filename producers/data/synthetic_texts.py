"""Texts made from word distributions, with a Bayes accuracy that is known exactly.

A text has a class, a topic, and 1 to ``sentences`` sentences. Each sentence is a frame with slots for class words and
topic words. A class word is drawn from the words of the text's class with probability ``signal``, and otherwise from
those of all classes. Some words of a class are the same in all topics, the others belong to one topic. Topic words
depend on the topic alone. The words are English, so that a sentence encoder can use them.

Given the topic, the posterior of the class follows from the number of class words of each class in the text. The best
possible accuracy is the mean of its maximum (Duda, Hart and Stork, Pattern Classification, 2nd ed., section 2.3).
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.core.errors import DriftloopError
from producers.data.table import Table
from producers.scenarios import transforms
from producers.scenarios.scenario_schema import SyntheticSpec

CLASSES: dict[str, str] = {
    "praise": "excellent superb delightful brilliant wonderful charming reliable generous flawless impressive "
    "refreshing elegant splendid helpful friendly pleasant",
    "complaint": "terrible broken awful useless rude faulty disappointing overpriced dirty slow unreliable dreadful "
    "noisy damaged careless shabby",
    "question": "wondering unsure asking curious unclear puzzled confused doubtful inquiring whether somehow undecided "
    "uncertain guessing seeking perplexed",
    "warning": "beware dangerous urgent hazardous risky alarming unsafe toxic threatening severe harmful critical "
    "perilous suspicious fraudulent dire",
    "news": "announced reported confirmed published scheduled launched appointed approved signed revealed opened "
    "merged elected unveiled declared postponed",
}
"""Words of each class, by its name. A stream with n classes has the first n."""
TOPICS: dict[str, str] = {
    "travel": "hotel flight airport luggage beach passport train cruise resort ticket",
    "food": "restaurant pizza dessert chef menu breakfast coffee soup bakery dinner",
    "technology": "laptop phone software battery screen keyboard router printer camera tablet",
    "sport": "football stadium coach match tennis league goalkeeper marathon referee trophy",
    "money": "bank mortgage insurance loan invoice pension credit tax budget savings",
}
_FRAMES = (
    "the {topic} was {word} and the {topic} {word}",
    "{word} {topic} , {word} {topic}",
    "about the {topic} : {word} , {word} , {word}",
    "we had a {topic} that seemed {word} to us",
    "my {topic} and my {topic} are {word}",
    "a {word} {topic} again this week",
)
_WORD = re.compile(r"[a-z]+")


def make(spec: SyntheticSpec) -> Table:
    """Make the texts of ``spec``. The same ``spec`` gives the same texts on every machine.

    Topics come in turn, as segments of equal length. The shares of the classes are the same in all of them.

    Raises:
        DriftloopError: ``shares`` does not have one entry for each class, or does not add up to 1.
    """
    shares = _shares(spec)
    names, topics = list(CLASSES)[: spec.classes], list(TOPICS)[: spec.topics]
    lexicon = _lexicon(spec)
    texts: list[str] = []
    labels: list[str] = []
    segments: list[str] = []
    for number in range(spec.events):
        chance = transforms.generator(spec.seed, "synthetic", number)
        topic = topics[number * spec.topics // spec.events]
        label = chance.choices(names, weights=shares)[0]
        texts.append(_text(chance, spec, lexicon[topic], label, TOPICS[topic].split()))
        labels.append(label)
        segments.append(topic)
    content = msgspec.msgpack.encode((texts, labels, segments))
    return Table(
        texts=texts,
        labels=labels,
        segments=segments,
        rows=list(range(spec.events)),
        revision=hashlib.sha256(content).hexdigest(),
        skipped=0,
    )


def posteriors(
    spec: SyntheticSpec, texts: Sequence[str], segments: Sequence[str], shares: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the probability of each class given a text and its topic.

    Args:
        spec: Settings that the texts were made with.
        texts: Texts of any origin.
        segments: Topic of each text.
        shares: Share of each class in the source of the texts. Default: those of ``spec``.

    Returns:
        Shape (n, classes), columns in the order of `CLASSES`.
    """
    names = list(CLASSES)[: spec.classes]
    prior = np.log(np.maximum(_shares(spec) if shares is None else shares, 1e-300))
    lexicon = _lexicon(spec)
    column_of = {topic: {word: n for n, name in enumerate(names) for word in lexicon[topic][name]} for topic in lexicon}
    counts = np.zeros((len(texts), spec.classes))
    for row, (text, topic) in enumerate(zip(texts, segments, strict=True)):
        for word in _WORD.findall(text.lower()):
            if (column := column_of[topic].get(word)) is not None:
                counts[row, column] += 1
    # All classes have the same number of words, so only a word's class carries information.
    other = (1 - spec.signal) / spec.classes
    own = spec.signal + other
    scores = (
        prior + counts * math.log(own) + (counts.sum(axis=1, keepdims=True) - counts) * math.log(max(other, 1e-300))
    )
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def bayes_accuracy(
    spec: SyntheticSpec, texts: Sequence[str], segments: Sequence[str], shares: Sequence[float] | None = None
) -> float:
    """Return the highest expected accuracy of any classifier that knows the topics.

    Args:
        spec: Settings that the texts were made with.
        texts: Texts of any origin.
        segments: Topic of each text.
        shares: Share of each class in the source of the texts. Default: those of ``spec``.
    """
    return float(posteriors(spec, texts, segments, shares).max(axis=1).mean())


def _shares(spec: SyntheticSpec) -> list[float]:
    shares = spec.shares or [1 / spec.classes] * spec.classes
    if len(shares) != spec.classes or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise DriftloopError(
            f"`shares` of the synthetic data is {shares}: give {spec.classes} numbers, one for each class, that "
            "add up to 1."
        )
    return shares


def _lexicon(spec: SyntheticSpec) -> dict[str, dict[str, list[str]]]:
    """Return the words of each class in each topic. The share ``shared`` of them is the same in all topics."""
    topics = list(TOPICS)[: spec.topics]
    out: dict[str, dict[str, list[str]]] = {topic: {} for topic in topics}
    for name in list(CLASSES)[: spec.classes]:
        words = CLASSES[name].split()
        common = words[: round(spec.shared * len(words))]
        own = words[len(common) :]
        each = len(own) // spec.topics
        for number, topic in enumerate(topics):
            part = own[number * each : (number + 1) * each]
            out[topic][name] = [*common, *part] or own[number : number + 1]
    return out


def _text(
    chance: random.Random,
    spec: SyntheticSpec,
    lexicon: dict[str, list[str]],
    label: str,
    topic_words: Sequence[str],
) -> str:
    all_words = [word for words in lexicon.values() for word in words]
    sentences = []
    for _ in range(chance.randint(1, spec.sentences)):
        frame = chance.choice(_FRAMES)
        while "{word}" in frame:
            pool = lexicon[label] if chance.random() < spec.signal else all_words
            frame = frame.replace("{word}", chance.choice(pool), 1)
        while "{topic}" in frame:
            frame = frame.replace("{topic}", chance.choice(topic_words), 1)
        sentences.append(frame.capitalize())
    return ". ".join(sentences) + "."
