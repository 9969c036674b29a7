"""Drifts that choose which rows come: other label shares (`prior`), and texts held back until an onset (`topic`).

Until the first of them sets in the stream is as it was, less the rows held back. From then on each position draws
what kind of row (label; held back by which injection) comes next, and takes the next such row in the stream's order,
so that the texts inside a kind stay as they are and no row comes twice.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from driftloop.core.errors import DriftloopError
from producers.scenarios import transforms
from producers.scenarios.drift_injection import intensity, kind, unknown
from producers.scenarios.scenario_schema import PriorSpec, TopicSpec

SelectSpec = PriorSpec | TopicSpec
_Kind = tuple[str, tuple[bool, ...]]
"""A label, and for each topic injection whether it holds the row back."""


def select(
    parts: Sequence[Sequence[int]],
    labels: Sequence[str],
    segments: Sequence[str],
    specs: Sequence[SelectSpec],
    limit: int | None,
    seed: int,
) -> list[list[int]]:
    """The rows of each part of a stream that come, in order.

    Once an injection has set in, a part ends where it has no row left of a kind that is asked for. A part that lacks
    a label altogether keeps the proportions of the others.

    Args:
        parts: rows of the table, in stream order.
        labels: of every row of the table; ``segments`` likewise.
        specs: the injections; their positions count from the first row of the result.
        limit: most rows in all.
        seed: the scenario's.

    Raises:
        DriftloopError: shares that do not add up, a label or segment that does not occur, too few rows for ``limit``.
    """
    everything = [row for part in parts for row in part]
    _check(specs, [labels[row] for row in everything], [segments[row] for row in everything])
    for spec in specs:
        if isinstance(spec, TopicSpec):
            _check_parts(spec, [{_held(spec, labels[row], segments[row]) for row in part} for part in parts])
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
    topics = [spec for spec in specs if isinstance(spec, TopicSpec)]
    kinds = {row: (labels[row], tuple(_held(spec, labels[row], segments[row]) for spec in topics)) for row in part}
    queues: defaultdict[_Kind, deque[int]] = defaultdict(deque)
    for row in part:
        queues[kinds[row]].append(row)
    natural = {found: len(queue) / len(part) for found, queue in queues.items()}
    begun = min(spec.start for spec in specs)
    before = iter([row for row in part if not any(kinds[row][1])])
    weights: dict[tuple[float, ...], dict[_Kind, float]] = {}  # by the intensities: the same ones come again and again
    out: list[int] = []
    while len(out) < left:
        at = position + len(out)
        wanted: _Kind | None
        if at < begun:
            row = next(before, -1)
            wanted = kinds.get(row)
        else:
            moved = tuple(intensity(spec, at) for spec in specs)
            if moved not in weights:
                weights[moved] = _weights(natural, specs, moved)
            wanted = _draw(weights[moved], chance)
        if wanted is None or not queues[wanted]:
            break
        out.append(queues[wanted].popleft())
    return out


def _draw(weights: Mapping[_Kind, float], chance: random.Random) -> _Kind | None:
    if not any(weights.values()):
        return None
    return chance.choices(list(weights), weights=list(weights.values()))[0]


def _weights(natural: Mapping[_Kind, float], specs: Sequence[SelectSpec], moved: Sequence[float]) -> dict[_Kind, float]:
    """Probability of each kind of row: the natural one, changed by one injection after the other."""
    weights = dict(natural)
    number = 0
    for spec, strength in zip(specs, moved, strict=True):
        if isinstance(spec, TopicSpec):
            held = sum(weight for found, weight in weights.items() if found[1][number])
            wanted = strength * (held if spec.share is None else spec.share)
            factors = {True: wanted / held if held else 0.0, False: (1 - wanted) / (1 - held) if held < 1 else 0.0}
            weights = {found: weight * factors[found[1][number]] for found, weight in weights.items()}
            number += 1
            continue
        now: defaultdict[str, float] = defaultdict(float)
        for (label, _), weight in weights.items():
            now[label] += weight
        wanted_shares = {label: spec.shares.get(label, 0.0) for label, share in now.items() if share}
        factor = {label: 1 - strength + strength * wanted / now[label] for label, wanted in wanted_shares.items()}
        weights = {found: weight * factor.get(found[0], 0.0) for found, weight in weights.items()}
    return weights


def _held(spec: TopicSpec, label: str, segment: str) -> bool:
    return (not spec.segment or segment == spec.segment) and (not spec.label or label == spec.label)


def _check(specs: Sequence[SelectSpec], labels: Sequence[str], segments: Sequence[str]) -> None:
    known, places = sorted(set(labels)), sorted(set(segments))
    for spec in specs:
        if isinstance(spec, PriorSpec):
            for label in spec.shares:
                if label not in known:
                    raise unknown("label", label, spec, known)
            if not math.isclose(sum(spec.shares.values()), 1.0, abs_tol=1e-6):
                raise DriftloopError(
                    f"The shares of the injection 'prior' from position {spec.start} on add up to "
                    f"{sum(spec.shares.values()):g}: they must add up to 1."
                )
            continue
        if not spec.segment and not spec.label:
            raise DriftloopError("The injection 'topic' needs a `segment`, a `label`, or both: name what is held back.")
        if spec.segment and spec.segment not in places:
            raise unknown("segment", spec.segment, spec, places)
        if spec.label and spec.label not in known:
            raise unknown("label", spec.label, spec, known)


def _check_parts(spec: TopicSpec, held: Sequence[set[bool]]) -> None:
    if {True} in held:
        raise DriftloopError(
            f"The injection 'topic' from position {spec.start} on holds back a whole part of the stream, whose place "
            "says already when it begins: set `mix = true` instead of `order`, or hold back something else."
        )
