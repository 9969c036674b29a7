"""Simulated annotators: labels that are wrong, missing or deliberately false, with the truth known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.row import Row
from producers.scenarios.scenario_schema import AnnotatorSpec

DEFAULT_ANNOTATOR = "dataset"
"""Annotator of all events that no other annotator labels. Its labels are true."""


class Annotation(NamedTuple):
    """Label sent for one event."""

    annotator: str
    label: str | None
    """None if the label never comes."""


def annotate(
    rows: Sequence[Row], labels: Sequence[str], annotators: Sequence[AnnotatorSpec], seed: int
) -> tuple[Annotation, ...]:
    """Return one annotation for each row. Each depends on the seed and the row alone.

    Args:
        rows: The stream in order, with the true labels.
        labels: Labels that a wrong one can be drawn from.
        annotators: Annotators of the scenario. Their shares of the events add up to at most 1.
        seed: Seed of the scenario.

    Raises:
        DriftloopError: Shares exceed 1, a name occurs twice, a label is unknown, or a start lies beyond the end.
    """
    _check(annotators, labels, len(rows))
    if not annotators:
        return tuple(Annotation(DEFAULT_ANNOTATOR, row.label) for row in rows)
    return tuple(_annotate_row(annotators, row, at, labels, seed) for at, row in enumerate(rows))


def first_sent(annotations: Sequence[Annotation], start: int, stop: int) -> int:
    """Return the first position whose label is sent.

    Args:
        annotations: Annotation of each event.
        start: First position to look at.
        stop: End of the positions, exclusive.

    Returns:
        The position, or ``stop`` if no label is sent.
    """
    return next((at for at in range(start, stop) if annotations[at].label is not None), stop)


def _annotate_row(
    annotators: Sequence[AnnotatorSpec], row: Row, position: int, labels: Sequence[str], seed: int
) -> Annotation:
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
    return Annotation(DEFAULT_ANNOTATOR, row.label)


def _check(annotators: Sequence[AnnotatorSpec], labels: Sequence[str], total: int) -> None:
    names = [annotator.name for annotator in annotators]
    if len(set(names)) < len(names) or not all(names):
        raise DriftloopError(
            f"Entries of `annotators` have equal or empty names ({', '.join(map(repr, names))}): give each entry a "
            "name of its own."
        )
    shares = sum(annotator.share for annotator in annotators)
    if shares > 1 + 1e-9:
        raise DriftloopError(f"The shares of `annotators` add up to {shares:g}: they must add up to 1 or less.")
    for annotator in annotators:
        if annotator.to and annotator.to not in labels:
            raise DriftloopError(
                f"The label {annotator.to!r} in `to` of the annotator {annotator.name!r} does not occur in the stream: "
                f"use one of {', '.join(map(repr, labels))}."
            )
        if annotator.start >= total:
            raise DriftloopError(
                f"The annotator {annotator.name!r} starts at {annotator.start}, beyond the end of the stream ({total} "
                "events): give a lower `start`."
            )
