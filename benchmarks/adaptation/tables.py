"""The rows of the adaptation benchmark, and the tables made of them: one for each scenario, and a summary.

The tables are Markdown, so that what is printed can stand in a page as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import bootstrap

from driftloop.core.errors import DriftloopError
from serving.simulation.drift_scoring import MAX_DELAY

BLOCK = 250
"""Events to a point of the accuracy curve, and to a draw of the bootstrap where there are too few seeds."""
FEW_SEEDS = 3
SHIPPED = "on-drift"
CEILING = "iid"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system on one stream. The same command gives the same row again."""

    scenario: str
    seed: int
    system: str
    events: int
    counted_from: int
    accuracy: float
    """Prequential, of the events from ``counted_from`` on."""
    blocks: list[float]
    """Accuracy of each `BLOCK` events from the first event on."""
    retrainings: int
    """Decisions that answered a drift or began a search; for policies without rounds, all of them."""
    refreshes: int
    """Further rounds within a drift: the same recipe on more labels."""
    fits: int
    """Both together; for an online learner, the labels that it learnt one at a time."""
    swaps: int
    """Models that took over after the first, those brought back included."""
    rollbacks: int
    drifts: list[int] | None
    """True positions; None where nobody knows them."""
    detected: int | None
    """None where nothing watched, or nobody knows the drifts; so too the next ones."""
    delays: list[int]
    """Labelled events from each detected drift to its detection."""
    false_alarms: int | None
    repeats: int | None
    """Further alerts within a drift's span."""
    quiet_events: int
    """Events that belong to no drift's span: what false alarms are counted over."""
    alerts: list[tuple[int, str, str]]
    """Position, signal and verdict of each alert."""
    swapped_at: list[int]
    recoveries: list[int | None] = []
    """Of each drift back to a concept seen before, as `benchmarks.adaptation.recurrence` measures it."""


class Measured(msgspec.Struct, frozen=True):
    """A row, and the CPU seconds that it cost; apart, because a second run repeats the row only."""

    row: Row
    cpu: dict[str, float]
    """Of `watch` (detectors), `retrain` (fitting and judging), and of the `whole` run, predictions included."""


def key(row: Row) -> tuple[str, int, str]:
    """What a row is the only one of."""
    return row.scenario, row.seed, row.system


def write(path: Path, measured: Sequence[Measured]) -> None:
    """Write the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")


def read(path: Path) -> list[Measured]:
    """The rows that `write` wrote.

    Raises:
        DriftloopError: no such file, or not one of these.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Measured])
    except (OSError, msgspec.DecodeError) as error:
        raise DriftloopError(f"{path} holds no rows of this benchmark ({error}): name one written by --out.") from error


def make_tables(measured: Sequence[Measured], *, cpu: bool = False) -> dict[str, str]:
    """A table by the name of its scenario, and one named `summary` where there are several scenarios."""
    scenarios: dict[str, list[Measured]] = {}
    for one in measured:
        scenarios.setdefault(one.row.scenario, []).append(one)
    tables = {name: _scenario_table(name, rows, cpu) for name, rows in scenarios.items()}
    if len(scenarios) > 1:
        tables["summary"] = _summary(scenarios)
    return tables


def put_into(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between the lines ``<!-- table NAME -->`` and ``<!-- end -->`` of a page that has them.

    Raises:
        DriftloopError: the page has marks for none of them.
    """
    text = page.read_text(encoding="utf-8")
    found = False
    for name, table in tables.items():
        mark = f"<!-- table {name} -->"
        pattern = re.compile(rf"{re.escape(mark)}\n.*?<!-- end -->", re.DOTALL)
        block = f"{mark}\n{table}\n<!-- end -->"
        text, count = pattern.subn(lambda _, block=block: block, text)  # type: ignore[misc]
        found = found or count > 0
    if not found:
        raise DriftloopError(
            f"{page} has no line such as <!-- table {next(iter(tables))} -->: add it where it belongs."
        )
    page.write_text(text, encoding="utf-8")


HEADS = (
    "system", "seeds", "accuracy", "retrainings", "refreshes", "fits", "swaps", "rolled back", "drifts found",
    "mean delay", "median", "normalised", "false per 10,000", "repeats", "regret", "share",
)  # fmt: skip
COUNTS = ("retrainings", "refreshes", "fits", "swaps", "rollbacks")
BACK_HEAD = "back after"
CPU_HEADS = ("watch CPU s", "retrain CPU s")


def _scenario_table(name: str, measured: Sequence[Measured], cpu: bool) -> str:
    rows = [one.row for one in measured]
    systems = list(dict.fromkeys(row.system for row in rows))
    lines = []
    recurring = any(row.recoveries for row in rows)
    for system in systems:
        own = [row for row in rows if row.system == system]
        cells = _cells(own, rows)
        if recurring:
            cells.append(_back([back for row in own for back in row.recoveries]))
        if cpu:
            spent = [one.cpu for one in measured if one.row.system == system]
            cells += [f"{np.mean([one[part] for one in spent]):.1f}" for part in ("watch", "retrain")]
        lines.append(cells)
    seeds = sorted({row.seed for row in rows})
    drifts = "nobody knows the drifts" if rows[0].drifts is None else f"drifts: {len(rows[0].drifts)}"
    title = (
        f"**{name}**: {rows[0].events} events, {drifts}; accuracy from event {rows[0].counted_from} on, with 95% "
        f"bootstrap intervals over {FEW_SEEDS} or more seeds, else over blocks of {BLOCK} events; "
        f"seeds {', '.join(map(str, seeds))}"
    )
    heads = (*HEADS, *((BACK_HEAD,) if recurring else ()), *(CPU_HEADS if cpu else ()))
    table = markdown(heads, lines)
    return "\n\n".join([title, table, *_remarks(rows)])


def _cells(rows: Sequence[Row], everyone: Sequence[Row]) -> list[str]:
    """One line: means over the seeds."""
    watched = [row for row in rows if row.detected is not None and row.drifts is not None]
    found, delays = sum(row.detected or 0 for row in watched), [delay for row in watched for delay in row.delays]
    drifts = sum(len(row.drifts or ()) for row in watched)
    quiet = sum(row.quiet_events for row in watched)
    late = (sum(delays) + (drifts - found) * MAX_DELAY) / MAX_DELAY
    return [
        f"`{rows[0].system}`",
        str(len(rows)),
        f"{accuracy(rows):.4f}{_interval(rows)}",
        *(_mean([getattr(row, name) for row in rows]) for name in COUNTS),
        f"{found}/{drifts}" if watched else "-",
        f"{np.mean(delays):.0f}" if delays else "-",
        f"{np.median(delays):.0f}" if delays else "-",
        f"{late / drifts:.3f}" if drifts else "-",
        f"{10_000 * sum(row.false_alarms or 0 for row in watched) / quiet:.2f}" if watched and quiet else "-",
        _mean([row.repeats or 0 for row in watched]) if watched else "-",
        _signed(regret(rows, everyone), 4),
        _signed(share(rows, everyone), 2, plus=False),
    ]


def _back(recoveries: Sequence[int | None]) -> str:
    """Median and worst number of labels until a known concept is back, and how many never were."""
    counts = [back for back in recoveries if back is not None]
    never = len(recoveries) - len(counts)
    parts = [f"{np.median(counts):.0f} (worst {max(counts)})"] if counts else []
    return ", ".join([*parts, f"{never} of {len(recoveries)} never"] if never else parts) or "-"


def _interval(rows: Sequence[Row]) -> str:
    """Of the mean accuracy, by the percentiles of 1,000 resamples: of seeds where there are enough, else of blocks."""
    draws = [row.accuracy for row in rows]
    if len(rows) < FEW_SEEDS:
        draws = [block for row in rows for block in row.blocks[-(-row.counted_from // BLOCK) :]]
    if len(draws) < FEW_SEEDS:
        return ""
    found = bootstrap((draws,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(7))
    low, high = found.confidence_interval
    return f" [{low:.3f}, {high:.3f}]"


def accuracy(rows: Sequence[Row]) -> float:
    """Mean over the seeds."""
    return float(np.mean([row.accuracy for row in rows]))


def regret(rows: Sequence[Row], everyone: Sequence[Row]) -> float | None:
    """Accuracy of the oracle minus that of the system, on the seeds that both have; below 0 it beat the oracle."""
    return _lead([row for row in everyone if key(row)[::2] == (rows[0].scenario, "oracle")], rows)


def share(rows: Sequence[Row], everyone: Sequence[Row]) -> float | None:
    """How much of the way from never retraining to the ceiling, on the means; None where there is no such way."""
    triples = [(row.accuracy, _of("never", row, everyone), _of(CEILING, row, everyone)) for row in rows]
    known = [(own, low, high) for own, low, high in triples if low is not None and high is not None]
    if not known:
        return None
    own, low, high = np.mean(known, axis=0)
    return float((own - low) / (high - low)) if high - low > 0.005 else None


def _of(system: str, row: Row, everyone: Sequence[Row]) -> float | None:
    wanted = (row.scenario, row.seed, system)
    return next((one.accuracy for one in everyone if key(one) == wanted), None)


def _is_hindsight(system: str) -> bool:
    return system in ("oracle", CEILING, "iid-concepts")


def _is_reference(system: str) -> bool:
    """A simpler way to run the loop: not ours, and told nothing that only hindsight knows."""
    return system not in (SHIPPED, "cost-aware") and not _is_hindsight(system)


def _remarks(rows: Sequence[Row]) -> list[str]:
    """How the shipped default stands against the references, in words, each on the seeds that both have."""
    by = {name: [row for row in rows if row.system == name] for name in dict.fromkeys(row.system for row in rows)}
    ours = by.get(SHIPPED, [])
    leads = {name: lead for name in by if _is_reference(name) and (lead := _lead(ours, by[name])) is not None}
    remarks = []
    for what, count in (("retrainings", _retrainings), ("fits, refreshes included", _fits)):
        fewer = [name for name in leads if count(by[name]) <= count(ours)]
        if fewer:
            best = min(fewer, key=lambda name: leads[name])
            remarks.append(f"`{SHIPPED}` is {_stands(leads[best])} the best reference at as few {what}, `{best}`.")
    if leads:
        best = min(leads, key=lambda name: leads[name])
        spent = _mean([row.fits for row in by[best]])
        remarks.append(f"It is {_stands(leads[best])} the best one at any cost, `{best}`, of {spent} fits.")
    if (gap := _lead(by.get("oracle", []), by.get(CEILING, []))) is not None and gap > 0:
        remarks.append(
            f"`{CEILING}` is below the oracle here: concepts contradict one another, or one of them is easier to learn "
            "alone, so that a single model for all data is no ceiling."
        )
    return [" ".join(remarks)] if remarks else []


def _stands(lead: float) -> str:
    if abs(lead) < 5e-5:
        return "level with"
    return f"{lead:.4f} ahead of" if lead > 0 else f"{-lead:.4f} BEHIND"


def _lead(ours: Sequence[Row], theirs: Sequence[Row]) -> float | None:
    """How much more accurate the first is, on the seeds that both have."""
    other = {row.seed: row.accuracy for row in theirs}
    gaps = [row.accuracy - other[row.seed] for row in ours if row.seed in other]
    return float(np.mean(gaps)) if gaps else None


def _retrainings(rows: Sequence[Row]) -> float:
    # An online learner retrains with each label.
    return float(np.mean([row.fits if row.system.startswith("online:") else row.retrainings for row in rows]))


def _fits(rows: Sequence[Row]) -> float:
    return float(np.mean([row.fits for row in rows]))


def _summary(scenarios: Mapping[str, Sequence[Measured]]) -> str:
    """Accuracy and retrainings (refreshes beside them) of each system on each scenario, as means over its seeds."""
    systems = list(dict.fromkeys(one.row.system for rows in scenarios.values() for one in rows))
    lines = [[f"`{system}`"] for system in systems]
    for measured in scenarios.values():
        by = {system: [one.row for one in measured if one.row.system == system] for system in systems}
        best = max((accuracy(rows) for name, rows in by.items() if rows and not _is_hindsight(name)), default=1.0)
        for line, (system, rows) in zip(lines, by.items(), strict=True):
            if not rows:
                line.append("-")
                continue
            shown = f"{accuracy(rows):.3f}"
            shown = f"**{shown}**" if accuracy(rows) >= best and not _is_hindsight(system) else shown
            counts = "+".join(_mean([getattr(row, name) for row in rows]) for name in ("retrainings", "refreshes"))
            line.append(f"{shown} ({'every label' if system.startswith('online:') else counts})")
    title = "**summary**: accuracy (retrainings + refreshes), means over the seeds; the best without hindsight in bold"
    return f"{title}\n\n{markdown(('system', *scenarios), lines)}"


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of even width."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    rows = [heads, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows)


def _mean(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"


def _signed(value: float | None, digits: int, *, plus: bool = True) -> str:
    return "-" if value is None else f"{value:{'+' if plus else ''}.{digits}f}"
