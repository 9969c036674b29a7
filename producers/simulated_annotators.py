"""Who labels each event, and what is sent as its label: annotators err, lie, or never answer; the truth stays known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.drift_injection import Row
from producers.scenarios.scenario_schema import AnnotatorSpec

HONEST = "dataset"
"""The annotator of all events that no other labels; it is always right."""


class Annotation(NamedTuple):
    """What is sent on the labels topic for one event."""

    annotator: str
    label: str | None
    """None: the label never comes."""


def annotate(
    rows: Sequence[Row], labels: Sequence[str], annotators: Sequence[AnnotatorSpec], seed: int
) -> tuple[Annotation, ...]:
    """One annotation for each row; each is decided from the seed and the row alone.

    Args:
        rows: the stream in order, with the true labels.
        labels: every label that a wrong one can be drawn from.
        annotators: their shares of the events add up to 1 at most.
        seed: the scenario's.

    Raises:
        DriftloopError: shares over 1, a name that comes twice, an unknown label, or a start beyond the end.
    """
    _check(annotators, labels, len(rows))
    if not annotators:
        return tuple(Annotation(HONEST, row.label) for row in rows)
    return tuple(_ask(annotators, row, at, labels, seed) for at, row in enumerate(rows))


def first_sent(annotations: Sequence[Annotation], start: int, stop: int) -> int:
    """The first position from ``start`` on, below ``stop``, whose label is to come; ``stop`` where none is."""
    return next((at for at in range(start, stop) if annotations[at].label is not None), stop)


def _ask(annotators: Sequence[AnnotatorSpec], row: Row, position: int, labels: Sequence[str], seed: int) -> Annotation:
    chance = transforms.generator(seed, "annotator", row.row)
    ticket, silent, lying = (chance.random() for _ in range(3))
    for annotator in annotators:
        ticket -= annotator.share
        if ticket >= 0:
            continue
        if silent < annotator.missing:
            return Annotation(annotator.name, None)
        if position >= annotator.start and lying < annotator.flipped:
            others = [label for label in labels if label != row.label]
            return Annotation(annotator.name, annotator.to or chance.choice(others))
        return Annotation(annotator.name, row.label)
    return Annotation(HONEST, row.label)


def _check(annotators: Sequence[AnnotatorSpec], labels: Sequence[str], total: int) -> None:
    names = [annotator.name for annotator in annotators]
    if len(set(names)) < len(names) or not all(names):
        raise DriftloopError(f"Every entry of `annotators` needs a name of its own, not {', '.join(map(repr, names))}.")
    shares = sum(annotator.share for annotator in annotators)
    if shares > 1 + 1e-9:
        raise DriftloopError(f"The shares of `annotators` add up to {shares:g}: they must add up to 1 or less.")
    for annotator in annotators:
        if annotator.to and annotator.to not in labels:
            raise DriftloopError(
                f"The label {annotator.to!r} in `to` of the annotator {annotator.name!r} does not occur in the stream: "
                f"there is {', '.join(map(repr, labels))}."
            )
        if annotator.start >= total:
            raise DriftloopError(
                f"The annotator {annotator.name!r} starts at {annotator.start}, beyond the end of the stream ({total} "
                "events): give a lower `start`."
            )
