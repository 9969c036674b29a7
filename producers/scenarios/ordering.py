"""The order of a stream: which rows of the table come where, and where one part of the stream ends."""

from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate, pairwise
from typing import NamedTuple

from driftloop.core.errors import DriftloopError
from producers.data.table import Table
from producers.scenarios import transforms
from producers.scenarios.drift_injection import Injection, check_span, selection_truth
from producers.scenarios.drift_selection import select
from producers.scenarios.scenario_schema import PriorSpec, ScenarioSpec, TopicSpec

Segments = list[tuple[str, int, int]]
"""(name, start, end) of each part of a stream, end exclusive."""
_Parts = list[tuple[str, list[int]]]


class StreamOrder(NamedTuple):
    """Rows of the table in stream order, the parts of the stream, and the drifts that follow from the order."""

    rows: list[int]
    segments: Segments
    drifts: list[Injection]


def arrange(spec: ScenarioSpec, table: Table) -> StreamOrder:
    """Put the rows of the table in the order that the scenario asks for, no more than its `limit`.

    Raises:
        DriftloopError: keys that contradict one another, names that do not occur, or too few rows.
    """
    if sum(map(bool, (spec.order, spec.mix, spec.label_mix))) > 1:
        raise DriftloopError(f"The scenario {spec.name} can have only one of `order`, `mix` and `label_mix`.")
    if spec.transition and len(spec.order) < 2:
        raise DriftloopError(f"`transition` in the scenario {spec.name} needs an `order` of two segments or more.")
    parts = _parts(spec, table)
    chosen = [one for one in spec.inject if isinstance(one, PriorSpec | TopicSpec)]
    truths: list[Injection] = []
    if chosen:
        if spec.label_mix:
            raise DriftloopError(
                f"The scenario {spec.name} cannot have both `label_mix` and an injection of the kind prior or topic: "
                "write the label mix as injections of the kind prior."
            )
        counts = Counter(table.labels[row] for _, rows in parts for row in rows)
        shares = {label: count / counts.total() for label, count in counts.items()}
        taken = select([rows for _, rows in parts], table.labels, table.segments, chosen, spec.limit, spec.seed)
        parts = [(name, rows) for (name, _), rows in zip(parts, taken, strict=True) if rows]
        for one in chosen:
            check_span(one, sum(len(rows) for _, rows in parts))
            truths.append(selection_truth(one, shares))
    edges = [0, *accumulate(len(rows) for _, rows in parts)]
    segments = [(name, *edge) for (name, _), edge in zip(parts, pairwise(edges), strict=True)]
    stream = [row for _, rows in parts for row in rows]
    return StreamOrder(stream[: spec.limit], segments, [*_borders(spec, segments), *truths])


def _parts(spec: ScenarioSpec, table: Table) -> _Parts:
    everything = range(len(table.texts))
    if spec.order:
        return _ordered(spec, table)
    if spec.mix or spec.label_mix:
        pools = transforms.pools(everything, table.segments, spec.cut, spec.shuffle, spec.seed)
        rows = sorted(row for pool in pools.values() for row in pool)
        transforms.generator(spec.seed, "mix").shuffle(rows)
        return _label_shifted(spec, table, rows) if spec.label_mix else [("all", rows)]
    names = table.segments
    found = transforms.runs(names)
    if len(found) > len(set(names)):
        found = [("all", 0, len(names))]  # the segments come interleaved: there are no parts to speak of
    return [(name, list(range(start, end))) for name, start, end in found]


def _borders(spec: ScenarioSpec, segments: Segments) -> list[Injection]:
    """The drifts at the borders between parts, where the scenario says what the parts are."""
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


def _ordered(spec: ScenarioSpec, table: Table) -> _Parts:
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


def _label_shifted(spec: ScenarioSpec, table: Table, pool: list[int]) -> _Parts:
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
