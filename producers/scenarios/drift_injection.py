"""Injected drifts in texts and labels: label swaps, replaced words and noise, abrupt or gradual.

The seed, the injection's number and the event's row decide each event. So neither a limit nor another injection
changes it. The changes of each injection are kept as the truth for detectors and explanations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import msgspec

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.row import Row
from producers.scenarios.scenario_schema import (
    InjectSpec,
    LabelSwapSpec,
    NoiseSpec,
    PriorSpec,
    TopicSpec,
    VocabularySpec,
)
from producers.scenarios.word_replacement import WORD, choose_words, named_words, new_word, word_replacer


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about a drift, for a benchmark that scores alerts and explanations."""

    kind: str
    """Kind of the injection, or `order` for a border between two segments of `order`."""
    onset: int
    """Position of the first event that can be different."""
    end: int | None = None
    """Position from which the old state comes back. None if it does not."""
    width: int = 0
    """Events over which the change grows. 0 if it is abrupt."""
    classes: tuple[str, ...] = ()
    """Labels whose share, texts or meaning change, the largest change first. Empty if all change alike."""
    segments: tuple[str, ...] = ()
    """Segments that change. Empty if all do."""
    words: tuple[str, ...] = ()
    """Words that disappear or change their meaning, the most frequent first."""
    replacements: tuple[str, ...] = ()
    """Replacement of each of `words`."""


TextSpec = LabelSwapSpec | VocabularySpec | NoiseSpec
KINDS: tuple[str, ...] = tuple(one.__struct_config__.tag for one in get_args(InjectSpec))
"""Values of `kind` of an `inject` entry."""


def kind(spec: InjectSpec) -> str:
    """Return the kind of an injection as a scenario file names it."""
    return str(spec.__struct_config__.tag)


def intensity(spec: InjectSpec, position: int) -> float:
    """Return the probability in [0, 1] that an event is changed: a linear ramp of ``width`` events.

    Args:
        spec: The injection.
        position: Position of the event in the stream.
    """

    def ramp(start: int) -> float:
        if not spec.width:
            return float(position >= start)
        return min(max((position - start + 0.5) / spec.width, 0.0), 1.0)

    return ramp(spec.start) - (0.0 if spec.end is None else ramp(spec.end))


def borders(spec: InjectSpec) -> list[int]:
    """Return the drift positions of an injection: its onset and, if it ends, its end."""
    return [spec.start] if spec.end is None else [spec.start, spec.end]


def inject(rows: Sequence[Row], spec: TextSpec, seed: int, number: int = 0) -> tuple[list[Row], Injection]:
    """Apply an injection and return the changed stream and the truth about it.

    Args:
        rows: The stream in order. Positions are list indices.
        spec: A label swap, a vocabulary shift or noise.
        seed: Seed of the scenario.
        number: Index of the injection in the scenario. Two with the same settings hit different events.

    Raises:
        DriftloopError: A label, segment or word does not occur, or the onset lies beyond the end.
    """
    check_span(spec, len(rows))
    if spec.segment and spec.segment not in {row.segment for row in rows}:
        found = sorted({row.segment for row in rows})
        raise unknown_name_error("segment", spec.segment, spec, found)
    change, truth = _make_change(rows, spec, seed, number)
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
    """Check that an injection lies inside the stream and that its two ramps do not overlap.

    Args:
        spec: The injection.
        total: Number of events of the stream.

    Raises:
        DriftloopError: The injection does not fit.
    """
    injection = f"The injection {kind(spec)!r} from position {spec.start} on"
    if spec.start >= total:
        raise DriftloopError(f"{injection} begins beyond the end of the stream ({total} events): give a lower `start`.")
    if spec.end is not None and spec.end < spec.start + max(spec.width, 1):
        raise DriftloopError(
            f"{injection} ends at {spec.end}, before its ramp is complete: set `end` to "
            f"{spec.start + max(spec.width, 1)} or more, or lower `width`."
        )


def unknown_name_error(what: str, name: str, spec: InjectSpec, found: Sequence[str]) -> DriftloopError:
    """Return the error for a label or segment that the stream does not have.

    Args:
        what: `label` or `segment`.
        name: The unknown name.
        spec: The injection that uses it.
        found: Names that the stream has.
    """
    return DriftloopError(
        f"The {what} {name!r} of the injection {kind(spec)!r} does not occur in the stream: use one of "
        f"{', '.join(map(repr, found))}."
    )


_Change = Callable[[Row], Row]


def _make_change(rows: Sequence[Row], spec: TextSpec, seed: int, number: int) -> tuple[_Change, Injection]:
    """Return the function that changes one row, and the truth about the injection."""
    if isinstance(spec, LabelSwapSpec):
        renamed = _renamed_labels(spec, sorted({row.label for row in rows}))
        truth = _truth(spec, classes=tuple(dict.fromkeys([*renamed, *renamed.values()])))
        return lambda row: row._replace(label=renamed.get(row.label, row.label)), truth
    if isinstance(spec, VocabularySpec):
        words = named_words(rows, spec) if spec.words else choose_words(rows, spec, seed, number)
        replace = word_replacer(words)
        moved = _truth(spec, words=tuple(words), replacements=tuple(words.values()))
        return lambda row: row._replace(text=replace(row.text)), moved
    return lambda row: row._replace(text=_add_noise(row, spec, seed, number)), _truth(spec)


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
    """Return the truth about an injection that selects rows.

    Args:
        spec: The injection.
        before: Label shares before it.
    """
    if isinstance(spec, TopicSpec):
        return _truth(
            spec,
            classes=(spec.label,) if spec.label else (),
            segments=(spec.segment,) if spec.segment else (),
        )
    moved = {label: abs(spec.shares.get(label, 0.0) - before.get(label, 0.0)) for label in {**before, **spec.shares}}
    return _truth(spec, classes=tuple(sorted(moved, key=lambda label: (-round(moved[label], 9), label))))


def _renamed_labels(spec: LabelSwapSpec, labels: Sequence[str]) -> dict[str, str]:
    if bool(spec.swap) == bool(spec.relabel) or len(spec.swap) not in (0, 2) or len(set(spec.swap)) != len(spec.swap):
        raise DriftloopError(
            "The injection 'label-swap' needs either `swap`, a list of two different labels, or `relabel`, a table of "
            "old labels and new ones."
        )
    renamed = dict(spec.relabel) if spec.relabel else dict(zip(spec.swap, reversed(spec.swap), strict=True))
    for label in [*renamed, *renamed.values()]:
        if label not in labels:
            raise unknown_name_error("label", label, spec, labels)
    return renamed


def _add_noise(row: Row, spec: NoiseSpec, seed: int, number: int) -> str:
    if spec.texts < 1 and transforms.generator(seed, "hit", number, row.row).random() >= spec.texts:
        return row.text
    if spec.of == "typos":
        return transforms.mistype(row.text, spec.share, transforms.generator(seed, "typos", row.row))
    chance = transforms.generator(seed, "tokens", number, row.row)
    return WORD.sub(lambda match: new_word(chance, set()) if chance.random() < spec.share else match.group(), row.text)
