"""Texts made from word distributions, with a Bayes accuracy that is known exactly.

A text has a class and a topic, and 1 to ``sentences`` sentences. Each sentence is a frame with slots for telling words
and topic words. A telling word is drawn from the words of the text's class with probability ``signal``, and from those
of all classes otherwise; a class's words are partly the same in all topics and partly the topic's own. Topic words
depend on the topic alone. The words are English, so that a sentence encoder has something to go by.

Given the topic, the posterior of the class follows from how many telling words of each class a text has, and the best
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
"""The names of the classes, in the order in which they are used, and their words."""
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
    """The texts of ``spec``; the same ones for the same ``spec`` on every machine.

    Topics come in turn, as segments of equal length; the shares of the classes are the same in all of them.

    Raises:
        DriftloopError: ``shares`` has not one entry for each class, or does not add up to 1.
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
    """Probability of each class given a text and its topic, shape (n, classes), in the order of `CLASSES`.

    ``shares`` are those of the classes where the texts come from; default: the ones of ``spec``.
    """
    names = list(CLASSES)[: spec.classes]
    prior = np.log(np.maximum(_shares(spec) if shares is None else shares, 1e-300))
    lexicon = _lexicon(spec)
    place = {topic: {word: n for n, name in enumerate(names) for word in lexicon[topic][name]} for topic in lexicon}
    counts = np.zeros((len(texts), spec.classes))
    for row, (text, topic) in enumerate(zip(texts, segments, strict=True)):
        for word in _WORD.findall(text.lower()):
            if (column := place[topic].get(word)) is not None:
                counts[row, column] += 1
    # All classes have as many words, so that only the class that a word belongs to tells anything.
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
    """The accuracy that no classifier can beat in expectation on these texts, their topics known."""
    return float(posteriors(spec, texts, segments, shares).max(axis=1).mean())


def _shares(spec: SyntheticSpec) -> list[float]:
    shares = spec.shares or [1 / spec.classes] * spec.classes
    if len(shares) != spec.classes or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise DriftloopError(
            f"`shares` of the synthetic data needs {spec.classes} numbers, one for each class, that add up to 1, not "
            f"{shares}."
        )
    return shares


def _lexicon(spec: SyntheticSpec) -> dict[str, dict[str, list[str]]]:
    """The words of each class in each topic: the same number everywhere, ``shared`` of them the same everywhere."""
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
    everything = [word for words in lexicon.values() for word in words]
    sentences = []
    for _ in range(chance.randint(1, spec.sentences)):
        frame = chance.choice(_FRAMES)
        while "{word}" in frame:
            pool = lexicon[label] if chance.random() < spec.signal else everything
            frame = frame.replace("{word}", chance.choice(pool), 1)
        while "{topic}" in frame:
            frame = frame.replace("{topic}", chance.choice(topic_words), 1)
        sentences.append(frame.capitalize())
    return ". ".join(sentences) + "."
