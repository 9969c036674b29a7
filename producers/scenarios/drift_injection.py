"""Drifts injected into texts and labels at a known onset: label swaps, replaced words, noise; gradual where wanted.

Each event's part is decided from the seed, the injection's number and the event's row, so that neither a limit nor
another injection changes it. What an injection moved is kept as the truth to judge detectors and explanations by.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.scenario_schema import (
    InjectSpec,
    LabelSwapSpec,
    NoiseSpec,
    PriorSpec,
    TopicSpec,
    VocabularySpec,
)

WORD = re.compile(r"\b\w\w+\b")
"""scikit-learn's notion of a word: two letters, digits or underscores, or more."""


class Row(NamedTuple):
    """One event to be: its text, true label, segment, and 0-based row in the dataset's split."""

    text: str
    label: str
    segment: str
    row: int


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """What truly moved at a drift, for a benchmark to check alerts and explanations against."""

    kind: str
    """`order` for a border between two segments of `order`, otherwise the kind of the injection."""
    onset: int
    """Position of the first event that can be different."""
    end: int | None = None
    """Position from which the old state comes back; None: it stays."""
    width: int = 0
    """Events over which the change comes; 0: at once."""
    classes: tuple[str, ...] = ()
    """Labels whose share, texts or meaning move, the most moved first; empty: all alike."""
    segments: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Words that go or come to mean something else, the most frequent first."""
    replacements: tuple[str, ...] = ()
    """What each of `words` is replaced by."""


TextSpec = LabelSwapSpec | VocabularySpec | NoiseSpec
KINDS: tuple[str, ...] = tuple(one.__struct_config__.tag for one in get_args(InjectSpec))
"""What `kind` of an `inject` entry can be."""


def kind(spec: InjectSpec) -> str:
    """The kind as a scenario file names it."""
    return str(spec.__struct_config__.tag)


def intensity(spec: InjectSpec, position: int) -> float:
    """Probability in [0, 1] that the event at ``position`` is in the moved state: a linear ramp of ``width`` events."""

    def risen(start: int) -> float:
        if not spec.width:
            return float(position >= start)
        return min(max((position - start + 0.5) / spec.width, 0.0), 1.0)

    return risen(spec.start) - (0.0 if spec.end is None else risen(spec.end))


def borders(spec: InjectSpec) -> list[int]:
    """The drift positions of an injection: its onset and, where it ends, its end."""
    return [spec.start] if spec.end is None else [spec.start, spec.end]


def inject(rows: Sequence[Row], spec: TextSpec, seed: int, number: int = 0) -> tuple[list[Row], Injection]:
    """The rows, with those that the injection moves replaced, and the truth about it; positions are list indices.

    Args:
        rows: the stream in order.
        spec: a label swap, a vocabulary shift or noise.
        seed: the scenario's.
        number: the injection's place in the scenario: two with the same settings hit different events.

    Raises:
        DriftloopError: a label, segment or word that does not occur, or an onset beyond the end.
    """
    check_span(spec, len(rows))
    if spec.segment and spec.segment not in {row.segment for row in rows}:
        found = sorted({row.segment for row in rows})
        raise unknown("segment", spec.segment, spec, found)
    change, truth = _change(rows, spec, seed, number)
    out = list(rows)
    for at in range(spec.start, len(rows)):
        row = rows[at]
        probability = intensity(spec, at)
        if probability and (not spec.segment or row.segment == spec.segment):
            chance = transforms.generator(seed, "inject", number, row.row)
            if probability == 1 or chance.random() < probability:
                out[at] = change(row)
    return out, msgspec.structs.replace(truth, segments=(spec.segment,) if spec.segment else ())


def check_span(spec: InjectSpec, total: int) -> None:
    """See that the injection lies inside a stream of ``total`` events, and that its parts do not overlap.

    Raises:
        DriftloopError: it does not.
    """
    what = f"The injection {kind(spec)!r} from position {spec.start} on"
    if spec.start >= total:
        raise DriftloopError(f"{what} begins beyond the end of the stream ({total} events): give a lower `start`.")
    if spec.end is not None and spec.end < spec.start + max(spec.width, 1):
        raise DriftloopError(
            f"{what} ends at {spec.end}, before it has come fully: set `end` to {spec.start + max(spec.width, 1)} or "
            "more, or lower `width`."
        )


def unknown(what: str, name: str, spec: InjectSpec, found: Sequence[str]) -> DriftloopError:
    """The error for a label or segment that the stream does not have."""
    return DriftloopError(
        f"The {what} {name!r} of the injection {kind(spec)!r} does not occur in the stream: there is "
        f"{', '.join(map(repr, found))}."
    )


_Change = Callable[[Row], Row]


def _change(rows: Sequence[Row], spec: TextSpec, seed: int, number: int) -> tuple[_Change, Injection]:
    if isinstance(spec, LabelSwapSpec):
        renamed = _renaming(spec, sorted({row.label for row in rows}))
        truth = _truth(spec, classes=tuple(dict.fromkeys([*renamed, *renamed.values()])))
        return lambda row: row._replace(label=renamed.get(row.label, row.label)), truth
    if isinstance(spec, VocabularySpec):
        words = _named_words(rows, spec) if spec.words else choose_words(rows, spec, seed, number)
        replace = _replacer(words)
        moved = _truth(spec, words=tuple(words), replacements=tuple(words.values()))
        return lambda row: row._replace(text=replace(row.text)), moved
    return lambda row: row._replace(text=_noisy(row, spec, seed, number)), _truth(spec)


def _truth(
    spec: InjectSpec,
    *,
    classes: tuple[str, ...] = (),
    segments: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    replacements: tuple[str, ...] = (),
) -> Injection:
    return Injection(
        kind=kind(spec),
        onset=spec.start,
        end=spec.end,
        width=spec.width,
        classes=classes,
        segments=segments,
        words=words,
        replacements=replacements,
    )


def selection_truth(spec: PriorSpec | TopicSpec, before: Mapping[str, float]) -> Injection:
    """The truth about an injection that chooses which rows come; ``before`` has the label shares it changes."""
    if isinstance(spec, TopicSpec):
        return _truth(
            spec,
            classes=(spec.label,) if spec.label else (),
            segments=(spec.segment,) if spec.segment else (),
        )
    moved = {label: abs(spec.shares.get(label, 0.0) - before.get(label, 0.0)) for label in {**before, **spec.shares}}
    return _truth(spec, classes=tuple(sorted(moved, key=lambda label: (-round(moved[label], 9), label))))


def _renaming(spec: LabelSwapSpec, labels: Sequence[str]) -> dict[str, str]:
    if bool(spec.swap) == bool(spec.relabel) or len(spec.swap) not in (0, 2) or len(set(spec.swap)) != len(spec.swap):
        raise DriftloopError(
            "The injection 'label-swap' needs either `swap`, a list of two different labels, or `relabel`, a table of "
            "old labels and new ones."
        )
    renamed = dict(spec.relabel) if spec.relabel else dict(zip(spec.swap, reversed(spec.swap), strict=True))
    for label in [*renamed, *renamed.values()]:
        if label not in labels:
            raise unknown("label", label, spec, labels)
    return renamed


def choose_words(rows: Sequence[Row], spec: VocabularySpec, seed: int, number: int = 0) -> dict[str, str]:
    """From ``spec.count`` words of the affected rows to their replacements, the most frequent word first.

    Raises:
        DriftloopError: the texts have too few words.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.feature_selection import chi2

    affected = _affected(rows, spec)
    # A word of one text in a thousand or less is too rare for its loss to be a drift.
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
        turned = dict(zip(order, [*order[1:], order[0]], strict=True))  # one cycle: no word keeps its place
        return {word: turned[word] for word in old}
    taken = set(names)
    return {word: _new_word(chance, taken) for word in old}


def _named_words(rows: Sequence[Row], spec: VocabularySpec) -> dict[str, str]:
    there = {word.lower() for row in _affected(rows, spec) for word in WORD.findall(row.text)}
    for word in spec.words:
        if word.lower() not in there:
            raise DriftloopError(
                f"The word {word!r} of the injection 'vocabulary' does not occur from position {spec.start} on: name "
                "single words of the texts, two letters or longer, in `words`."
            )
    return spec.words


def _affected(rows: Sequence[Row], spec: VocabularySpec) -> list[Row]:
    return [row for row in rows[spec.start : spec.end] if not spec.segment or row.segment == spec.segment]


def _new_word(chance: random.Random, taken: set[str]) -> str:
    while True:
        word = "".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(3))
        if word not in taken:
            taken.add(word)
            return word


def _replacer(words: Mapping[str, str]) -> Callable[[str], str]:
    lower = {old.lower(): new for old, new in words.items()}

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        new = lower.get(word.lower())
        if new is None:
            return word
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return lambda text: WORD.sub(swap, text)


def _noisy(row: Row, spec: NoiseSpec, seed: int, number: int) -> str:
    if spec.texts < 1 and transforms.generator(seed, "hit", number, row.row).random() >= spec.texts:
        return row.text
    if spec.of == "typos":
        return transforms.mistype(row.text, spec.share, transforms.generator(seed, "typos", row.row))
    chance = transforms.generator(seed, "tokens", number, row.row)
    return WORD.sub(lambda match: _new_word(chance, set()) if chance.random() < spec.share else match.group(), row.text)
