"""Stream order: rows of the table in sequence, the parts of the stream, and the drifts between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from driftloop.core.errors import DriftloopError
from producers.data.table import Table
from producers.scenarios import transforms
from producers.scenarios.drift_injection import Injection, check_span, selection_truth
from producers.scenarios.drift_selection import SelectSpec, select
from producers.scenarios.scenario_schema import PriorSpec, ScenarioSpec, TopicSpec

Segments = list[tuple[str, int, int]]
"""(name, start, end) of each part of a stream, end exclusive."""
_Parts = list[tuple[str, list[int]]]  # name and rows of each part


class StreamOrder(NamedTuple):
    """Rows of the table in stream order, the parts of the stream, and the drifts that follow from the order."""

    rows: list[int]
    segments: Segments
    drifts: list[Injection]


def arrange(spec: ScenarioSpec, table: Table) -> StreamOrder:
    """Put the rows of the table in the order of the scenario, at most `limit` of them.

    Args:
        spec: The scenario.
        table: Its data.

    Raises:
        DriftloopError: Keys contradict one another, names do not occur, or there are too few rows.
    """
    _check_modes(spec)
    if spec.order:
        parts = _in_order(spec, table)
    elif spec.label_mix:
        parts = _in_label_mix(spec, table)
    elif spec.mix:
        parts = [("all", _shuffled(spec, table))]
    else:
        parts = _as_stored(table)
    parts, selected = _apply_selections(spec, table, parts)
    edges = [0, *accumulate(len(rows) for _, rows in parts)]
    segments = [(name, *edge) for (name, _), edge in zip(parts, pairwise(edges), strict=True)]
    stream = [row for _, rows in parts for row in rows]
    return StreamOrder(stream[: spec.limit], segments, [*_border_drifts(spec, segments), *selected])


def _check_modes(spec: ScenarioSpec) -> None:
    if sum(map(bool, (spec.order, spec.mix, spec.label_mix))) > 1:
        raise DriftloopError(f"The scenario {spec.name} can have only one of `order`, `mix` and `label_mix`.")
    if spec.transition and len(spec.order) < 2:
        raise DriftloopError(f"`transition` in the scenario {spec.name} needs an `order` of two segments or more.")
    if spec.label_mix and _selections(spec):
        raise DriftloopError(
            f"The scenario {spec.name} cannot have both `label_mix` and an injection of the kind prior or topic: "
            "write the label mix as injections of the kind prior."
        )


def _in_order(spec: ScenarioSpec, table: Table) -> _Parts:
    """Play the segments of `order` in turn, blended at their borders."""
    if not any(table.segments):
        raise DriftloopError(
            f"`order` in the scenario {spec.name} needs a segment column: set `segment` in the [dataset] table."
        )
    pools = transforms.pools(range(len(table.texts)), table.segments, spec.cut, spec.shuffle, spec.seed)
    order = [(entry, None) if isinstance(entry, str) else (entry.segment, entry.count) for entry in spec.order]
    phases = transforms.take_turns(pools, order)
    rows, borders = transforms.blend(phases, spec.transition, spec.seed)
    return [
        (name, rows[start:end])
        for (name, _), (start, end) in zip(order, pairwise([0, *borders, len(rows)]), strict=True)
    ]


def _in_label_mix(spec: ScenarioSpec, table: Table) -> _Parts:
    """Draw shuffled rows so that their labels have the shares of `label_mix`."""
    pool = _shuffled(spec, table)
    starts = [phase.start for phase in spec.label_mix]
    if spec.limit is None or starts[0] != 0 or sorted({*starts, spec.limit}) != [*starts, spec.limit]:
        raise DriftloopError(
            f"`label_mix` in the scenario {spec.name} needs a `limit`, and starts that rise from 0 and stay below it."
        )
    for phase in spec.label_mix:
        if not math.isclose(sum(phase.shares.values()), 1.0, abs_tol=1e-6):
            raise DriftloopError(
                f"The shares of `label_mix` from position {phase.start} on add up to "
                f"{sum(phase.shares.values()):g}: they must add up to 1."
            )
    shares = [(phase.start, phase.shares) for phase in spec.label_mix]
    rows = transforms.shift_labels(pool, table.labels, shares, spec.limit, spec.seed)
    edges = [*starts, len(rows)]
    return [(f"mix-{n + 1}", rows[start:end]) for n, (start, end) in enumerate(pairwise(edges))]


def _shuffled(spec: ScenarioSpec, table: Table) -> list[int]:
    """Shuffle the rows of all segments together, after `cut`."""
    pools = transforms.pools(range(len(table.texts)), table.segments, spec.cut, spec.shuffle, spec.seed)
    rows = sorted(row for pool in pools.values() for row in pool)
    transforms.generator(spec.seed, "mix").shuffle(rows)
    return rows


def _as_stored(table: Table) -> _Parts:
    """Keep the order of the data. A part is a run of one segment, or everything if segments are interleaved."""
    runs = transforms.runs(table.segments)
    if len(runs) > len(set(table.segments)):
        runs = [("all", 0, len(table.segments))]
    return [(name, list(range(start, end))) for name, start, end in runs]


def _apply_selections(spec: ScenarioSpec, table: Table, parts: _Parts) -> tuple[_Parts, list[Injection]]:
    """Apply the injections that select rows. Return the parts that are left and the truth of each injection."""
    selections = _selections(spec)
    if not selections:
        return parts, []
    counts = Counter(table.labels[row] for _, rows in parts for row in rows)
    shares = {label: count / counts.total() for label, count in counts.items()}
    taken = select([rows for _, rows in parts], table.labels, table.segments, selections, spec.limit, spec.seed)
    parts = [(name, rows) for (name, _), rows in zip(parts, taken, strict=True) if rows]
    for one in selections:
        check_span(one, sum(len(rows) for _, rows in parts))
    return parts, [selection_truth(one, shares) for one in selections]


def _selections(spec: ScenarioSpec) -> Sequence[SelectSpec]:
    return [one for one in spec.inject if isinstance(one, PriorSpec | TopicSpec)]


def _border_drifts(spec: ScenarioSpec, segments: Segments) -> list[Injection]:
    """Return the drifts at the borders between parts that the scenario defines."""
    if spec.order:
        return [
            Injection(kind="order", onset=start, width=spec.transition, segments=(name, old))
            for (old, _, _), (name, start, _) in pairwise(segments)
            if name != old
        ]
    return [
        selection_truth(PriorSpec(start=phase.start, shares=phase.shares), before.shares)
        for before, phase in pairwise(spec.label_mix)
    ]
