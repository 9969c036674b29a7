"""Drifts by selection of rows: other label shares (`prior`), and texts held back until an onset (`topic`).

Before the first onset the stream is unchanged, except that it lacks the rows held back. From then on each position
draws a kind of row: its label, and the injections that hold it back. The next row of that kind in stream order comes.
So the order inside a kind stays, and no row comes twice.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.drift_injection import intensity, kind, unknown_name_error
from producers.scenarios.scenario_schema import PriorSpec, TopicSpec

SelectSpec = PriorSpec | TopicSpec
_RowKind = tuple[str, tuple[bool, ...]]  # a label, and for each topic injection True if it holds the row back


def select(
    parts: Sequence[Sequence[int]],
    labels: Sequence[str],
    segments: Sequence[str],
    specs: Sequence[SelectSpec],
    limit: int | None,
    seed: int,
) -> list[list[int]]:
    """Select the rows of each part of a stream, in order.

    After the first onset a part ends when it has no row left of the kind that was drawn. A part without any row of a
    label keeps the proportions of the other labels.

    Args:
        parts: Rows of the table, in stream order.
        labels: Label of every row of the table.
        segments: Segment of every row of the table.
        specs: The injections. Their positions count from the first row of the result.
        limit: Maximum number of rows. None: no limit.
        seed: Seed of the scenario.

    Raises:
        DriftloopError: Shares do not add up, a label or segment does not occur, or there are too few rows for
            ``limit``.
    """
    everything = [row for part in parts for row in part]
    known_labels = sorted({labels[row] for row in everything})
    known_segments = sorted({segments[row] for row in everything})
    for spec in specs:
        if isinstance(spec, PriorSpec):
            _check_prior(spec, known_labels)
        else:
            _check_topic(spec, known_labels, known_segments)
            _check_no_part_is_held(
                spec, [{_is_held(spec, labels[row], segments[row]) for row in part} for part in parts]
            )
    chance = transforms.generator(seed, "select")
    out: list[list[int]] = []
    position = 0
    for part in parts:
        left = math.inf if limit is None else limit - position
        out.append(_select_part(part, labels, segments, specs, position, left, chance))
        position += len(out[-1])
    if limit is not None and position < min(limit, len(everything)):
        raise DriftloopError(
            f"The injections {', '.join(repr(kind(spec)) for spec in specs)} use up a kind of row at "
            f"position {position}, before the `limit` of {limit}: lower `limit` or their shares, or begin later."
        )
    return out


def _select_part(
    part: Sequence[int],
    labels: Sequence[str],
    segments: Sequence[str],
    specs: Sequence[SelectSpec],
    position: int,
    left: float,
    chance: random.Random,
) -> list[int]:
    """Select at most ``left`` rows of one part, which begins at ``position`` of the stream."""
    topics = [spec for spec in specs if isinstance(spec, TopicSpec)]
    kinds = {row: (labels[row], tuple(_is_held(spec, labels[row], segments[row]) for spec in topics)) for row in part}
    queues: defaultdict[_RowKind, deque[int]] = defaultdict(deque)
    for row in part:
        queues[kinds[row]].append(row)
    natural = {found: len(queue) / len(part) for found, queue in queues.items()}
    first_onset = min(spec.start for spec in specs)
    unchanged = iter([row for row in part if not any(kinds[row][1])])
    weights: dict[tuple[float, ...], dict[_RowKind, float]] = {}  # cached by the intensities, which repeat
    out: list[int] = []
    while len(out) < left:
        at = position + len(out)
        wanted: _RowKind | None
        if at < first_onset:
            row = next(unchanged, -1)
            wanted = kinds.get(row)
        else:
            strengths = tuple(intensity(spec, at) for spec in specs)
            if strengths not in weights:
                weights[strengths] = _weights(natural, specs, strengths)
            wanted = _draw(weights[strengths], chance)
        if wanted is None or not queues[wanted]:
            break
        out.append(queues[wanted].popleft())
    return out


def _draw(weights: Mapping[_RowKind, float], chance: random.Random) -> _RowKind | None:
    if not any(weights.values()):
        return None
    return chance.choices(list(weights), weights=list(weights.values()))[0]


def _weights(
    natural: Mapping[_RowKind, float], specs: Sequence[SelectSpec], strengths: Sequence[float]
) -> dict[_RowKind, float]:
    """Return the probability of each kind of row: the natural one, changed by each injection in turn."""
    weights = dict(natural)
    number = 0
    for spec, strength in zip(specs, strengths, strict=True):
        if isinstance(spec, TopicSpec):
            weights = _weights_with_topic(weights, spec, number, strength)
            number += 1
        else:
            weights = _weights_with_prior(weights, spec, strength)
    return weights


def _weights_with_topic(
    weights: Mapping[_RowKind, float], spec: TopicSpec, number: int, strength: float
) -> dict[_RowKind, float]:
    """Scale the rows that the topic injection ``number`` holds back to its share."""
    held = sum(weight for found, weight in weights.items() if found[1][number])
    wanted = strength * (held if spec.share is None else spec.share)
    factors = {True: wanted / held if held else 0.0, False: (1 - wanted) / (1 - held) if held < 1 else 0.0}
    return {found: weight * factors[found[1][number]] for found, weight in weights.items()}


def _weights_with_prior(weights: Mapping[_RowKind, float], spec: PriorSpec, strength: float) -> dict[_RowKind, float]:
    """Scale the labels to the shares of a prior injection."""
    now: defaultdict[str, float] = defaultdict(float)
    for (label, _), weight in weights.items():
        now[label] += weight
    wanted_shares = {label: spec.shares.get(label, 0.0) for label, share in now.items() if share}
    factor = {label: 1 - strength + strength * wanted / now[label] for label, wanted in wanted_shares.items()}
    return {found: weight * factor.get(found[0], 0.0) for found, weight in weights.items()}


def _is_held(spec: TopicSpec, label: str, segment: str) -> bool:
    """Return True if the injection holds back rows of this label and segment."""
    return (not spec.segment or segment == spec.segment) and (not spec.label or label == spec.label)


def _check_prior(spec: PriorSpec, labels: Sequence[str]) -> None:
    for label in spec.shares:
        if label not in labels:
            raise unknown_name_error("label", label, spec, labels)
    if not math.isclose(sum(spec.shares.values()), 1.0, abs_tol=1e-6):
        raise DriftloopError(
            f"The shares of the injection 'prior' from position {spec.start} on add up to "
            f"{sum(spec.shares.values()):g}: they must add up to 1."
        )


def _check_topic(spec: TopicSpec, labels: Sequence[str], segments: Sequence[str]) -> None:
    if not spec.segment and not spec.label:
        raise DriftloopError("The injection 'topic' needs a `segment`, a `label`, or both: name the rows to hold back.")
    if spec.segment and spec.segment not in segments:
        raise unknown_name_error("segment", spec.segment, spec, segments)
    if spec.label and spec.label not in labels:
        raise unknown_name_error("label", spec.label, spec, labels)


def _check_no_part_is_held(spec: TopicSpec, held: Sequence[set[bool]]) -> None:
    if {True} in held:
        raise DriftloopError(
            f"The injection 'topic' from position {spec.start} on holds back a whole part of the stream, whose place "
            "already fixes when it begins: set `mix = true` instead of `order`, or hold back other rows."
        )
