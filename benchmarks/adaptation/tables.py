"""Tables of the adaptation benchmark: one for each scenario, and a summary.

They are Markdown, so that the printed table can be put into a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from benchmarks.adaptation.results import BLOCK, Measured, Row, key
from driftloop.core.errors import DriftloopError
from serving.simulation.drift_scoring import MAX_DELAY

MIN_SEEDS = 3
"""Seeds from which intervals are taken over seeds and not over blocks."""
SHIPPED = "mixture"
"""The shipped default."""
SINGLE = "on-drift"
"""The default of a single champion."""
CEILING = "iid"


def make_tables(measured: Sequence[Measured], *, cpu: bool = False) -> dict[str, str]:
    """Make the tables.

    Args:
        measured: Rows of any scenarios, seeds and systems.
        cpu: Add columns of CPU seconds.

    Returns:
        A table by the name of its scenario, and one named `summary` for several scenarios.
    """
    scenarios: dict[str, list[Measured]] = {}
    for one in measured:
        scenarios.setdefault(one.row.scenario, []).append(one)
    tables = {name: _scenario_table(name, rows, cpu) for name, rows in scenarios.items()}
    if len(scenarios) > 1:
        tables["summary"] = _summary(scenarios)
    return tables


def put_into(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between the lines ``<!-- table NAME -->`` and ``<!-- end -->`` of a page.

    Args:
        page: A Markdown file.
        tables: Tables by name. Tables without such lines in the page are skipped.

    Raises:
        DriftloopError: The page has such lines for no table.
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
    "mean delay", "median delay", "normalised delay", "false alarms per 10,000", "repeats", "regret", "share",
)  # fmt: skip
COUNTS = ("retrainings", "refreshes", "fits", "swaps", "rollbacks")
RECOVERY_HEAD = "recovered after"
CPU_HEADS = ("watch CPU s", "retrain CPU s")


def _scenario_table(name: str, measured: Sequence[Measured], cpu: bool) -> str:
    rows = [one.row for one in measured]
    recurring = any(row.recoveries for row in rows)
    lines = []
    for system in dict.fromkeys(row.system for row in rows):
        own = [row for row in rows if row.system == system]
        cells = _cells(own, rows)
        if recurring:
            cells.append(_recovery_cell([time for row in own for time in row.recoveries]))
        if cpu:
            cells += _cpu_cells([one for one in measured if one.row.system == system])
        lines.append(cells)
    heads = (*HEADS, *((RECOVERY_HEAD,) if recurring else ()), *(CPU_HEADS if cpu else ()))
    return "\n\n".join(
        [_title(name, rows), markdown(heads, lines), *_remarks(measured, cpu), *_worth_of_guests(measured)]
    )


def _title(name: str, rows: Sequence[Row]) -> str:
    drifts = "unknown" if rows[0].drifts is None else len(rows[0].drifts)
    seeds = ", ".join(map(str, sorted({row.seed for row in rows})))
    return (
        f"**{name}**: {rows[0].events} events, drifts: {drifts}, seeds: {seeds}. Accuracy counts from event "
        f"{rows[0].counted_from} on. The 95% intervals are bootstrapped over {MIN_SEEDS} or more seeds, otherwise over "
        f"blocks of {BLOCK} events."
    )


def _cells(rows: Sequence[Row], everyone: Sequence[Row]) -> list[str]:
    """Return the cells of one system, as means over its seeds."""
    return [
        f"`{rows[0].system}`",
        str(len(rows)),
        f"{accuracy(rows):.4f}{_interval(rows)}",
        *(_mean([getattr(row, name) for row in rows]) for name in COUNTS),
        *_detection_cells([row for row in rows if row.detected is not None and row.drifts is not None]),
        _signed(regret(rows, everyone), 4),
        _signed(share(rows, everyone), 2, plus=False),
    ]


def _detection_cells(watched: Sequence[Row]) -> list[str]:
    """Return drifts found, mean, median and normalised delay, false alarms, and repeats."""
    if not watched:
        return ["-"] * 6
    found = sum(row.detected or 0 for row in watched)
    drifts = sum(len(row.drifts or ()) for row in watched)
    delays = [delay for row in watched for delay in row.delays]
    quiet = sum(row.quiet_events for row in watched)
    false_alarms = sum(row.false_alarms or 0 for row in watched)
    # A drift that was not found counts as the maximum delay.
    total_delay = sum(delays) + (drifts - found) * MAX_DELAY
    return [
        f"{found}/{drifts}",
        f"{np.mean(delays):.0f}" if delays else "-",
        f"{np.median(delays):.0f}" if delays else "-",
        f"{total_delay / MAX_DELAY / drifts:.3f}" if drifts else "-",
        f"{10_000 * false_alarms / quiet:.2f}" if quiet else "-",
        _mean([row.repeats or 0 for row in watched]),
    ]


def _cpu_cells(measured: Sequence[Measured]) -> list[str]:
    return [f"{np.mean([one.cpu[part] for one in measured]):.1f}" for part in ("watch", "retrain")]


def _cpu(measured: Sequence[Measured]) -> float:
    """Return the CPU seconds for 1,000 events."""
    seconds = sum(one.cpu["watch"] + one.cpu["retrain"] for one in measured)
    return 1000 * seconds / sum(one.row.events for one in measured)


GUEST_HEADS = ("system", "added", "compared", "better when compared", "joined", "CPU s per 1,000 events")


def _worth_of_guests(measured: Sequence[Measured]) -> list[str]:
    """Return what candidates added to a mixture and cost, as a table; nothing if none was compared."""
    alone = [one.row for one in measured if one.row.system == SHIPPED]
    lines = []
    for system in dict.fromkeys(one.row.system for one in measured if one.row.guests):
        own = [one for one in measured if one.row.system == system]
        guests = [guest for one in own for guest in one.row.guests]
        lines.append(
            [
                f"`{system}`",
                _signed(_lead([one.row for one in own], alone), 4),
                str(len(guests)),
                _signed(float(np.mean([guest.together - guest.alone for guest in guests])), 3),
                str(sum(guest.joined for guest in guests)),
                f"{_cpu(own):.1f}",
            ]
        )
    title = f"Candidates as guests of the mixture. *Added* is accuracy over that of `{SHIPPED}` on the same seeds."
    return [title, markdown(GUEST_HEADS, lines)] if lines else []


def _recovery_cell(recoveries: Sequence[int | None]) -> str:
    """Return median and worst recovery time of a known concept, and the number of concepts that never recovered."""
    counts = [time for time in recoveries if time is not None]
    never = len(recoveries) - len(counts)
    parts = [f"{np.median(counts):.0f} (worst {max(counts)})"] if counts else []
    return ", ".join([*parts, f"{never} of {len(recoveries)} never"] if never else parts) or "-"


def _interval(rows: Sequence[Row]) -> str:
    """Return the 95% interval of the mean accuracy, by 1,000 resamples of the seeds, or of blocks for few seeds."""
    draws = [row.accuracy for row in rows]
    if len(rows) < MIN_SEEDS:
        draws = [block for row in rows for block in row.blocks[-(-row.counted_from // BLOCK) :]]
    if len(draws) < MIN_SEEDS:
        return ""
    found = bootstrap((draws,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(7))
    low, high = found.confidence_interval
    return f" [{low:.3f}, {high:.3f}]"


def accuracy(rows: Sequence[Row]) -> float:
    """Return the mean accuracy over the seeds."""
    return float(np.mean([row.accuracy for row in rows]))


def regret(rows: Sequence[Row], everyone: Sequence[Row]) -> float | None:
    """Return the accuracy of the oracle minus that of the system, on the seeds that both have.

    Args:
        rows: Rows of one system on one scenario.
        everyone: Rows of all systems.

    Returns:
        Below 0 if the system beat the oracle. None without a common seed.
    """
    return _lead([row for row in everyone if key(row)[::2] == (rows[0].scenario, "oracle")], rows)


def share(rows: Sequence[Row], everyone: Sequence[Row]) -> float | None:
    """Return the position of the system between never retraining (0) and the ceiling (1), on the means.

    Args:
        rows: Rows of one system on one scenario.
        everyone: Rows of all systems.

    Returns:
        None without a common seed, or if the ceiling is not higher.
    """
    triples = [
        (row.accuracy, _accuracy_of("never", row, everyone), _accuracy_of(CEILING, row, everyone)) for row in rows
    ]
    known = [(own, low, high) for own, low, high in triples if low is not None and high is not None]
    if not known:
        return None
    own, low, high = np.mean(known, axis=0)
    return float((own - low) / (high - low)) if high - low > 0.005 else None


def _accuracy_of(system: str, row: Row, everyone: Sequence[Row]) -> float | None:
    wanted = (row.scenario, row.seed, system)
    return next((one.accuracy for one in everyone if key(one) == wanted), None)


def _is_hindsight(system: str) -> bool:
    return system in ("oracle", CEILING, "iid-concepts")


def _is_mixture(system: str) -> bool:
    return system.partition("?")[0] == SHIPPED


def _is_reference(system: str) -> bool:
    """Return True for a simpler way to run the loop that has no hindsight."""
    return system not in (SINGLE, "cost-aware") and not _is_hindsight(system) and not _is_mixture(system)


def _remarks(measured: Sequence[Measured], cpu: bool) -> list[str]:
    """Compare the defaults with the other systems, each on the seeds that both have."""
    rows = [one.row for one in measured]
    by = {name: [row for row in rows if row.system == name] for name in dict.fromkeys(row.system for row in rows)}
    remarks = [*_shipped_remarks(measured, by, cpu), *_single_remarks(by)]
    if (gap := _lead(by.get("oracle", []), by.get(CEILING, []))) is not None and gap > 0:
        remarks.append(
            f"`{CEILING}` is below the oracle here, so one model for all data is no ceiling: concepts contradict one "
            "another, or one of them is easier to learn alone."
        )
    return [" ".join(remarks)] if remarks else []


def _shipped_remarks(measured: Sequence[Measured], by: Mapping[str, Sequence[Row]], cpu: bool) -> list[str]:
    """Compare the shipped default with all systems that have no hindsight, and with those of no more CPU."""
    others = [name for name in by if not _is_mixture(name) and not _is_hindsight(name)]
    leads = {name: lead for name in others if (lead := _lead(by.get(SHIPPED, []), by[name])) is not None}
    if not leads:
        return []
    best = min(leads, key=lambda name: leads[name])
    remarks = [f"`{SHIPPED}` is {_compared(leads[best])} the best other system, `{best}`."]
    if cpu:
        spent = {name: _cpu([one for one in measured if one.row.system == name]) for name in (SHIPPED, *leads)}
        cheap = [name for name in leads if spent[name] <= spent[SHIPPED]]
        if cheap:
            best = min(cheap, key=lambda name: leads[name])
            remarks.append(f"It is {_compared(leads[best])} the best one of no more CPU, `{best}`.")
    return remarks


def _single_remarks(by: Mapping[str, Sequence[Row]]) -> list[str]:
    """Compare the default of a single champion with the references."""
    ours = by.get(SINGLE, [])
    leads = {name: lead for name in by if _is_reference(name) and (lead := _lead(ours, by[name])) is not None}
    remarks = []
    for what, count in (("retrainings", _retrainings), ("fits, refreshes included", _fits)):
        fewer = [name for name in leads if count(by[name]) <= count(ours)]
        if fewer:
            best = min(fewer, key=lambda name: leads[name])
            remarks.append(f"`{SINGLE}` is {_compared(leads[best])} the best reference with as few {what}, `{best}`.")
    if leads:
        best = min(leads, key=lambda name: leads[name])
        fits = _mean([row.fits for row in by[best]])
        remarks.append(f"It is {_compared(leads[best])} the best reference of any cost, `{best}` with {fits} fits.")
    return remarks


def _compared(lead: float) -> str:
    if abs(lead) < 5e-5:
        return "level with"
    return f"{lead:.4f} ahead of" if lead > 0 else f"{-lead:.4f} BEHIND"


def _lead(ours: Sequence[Row], theirs: Sequence[Row]) -> float | None:
    """Return the mean lead in accuracy of the first system, on the seeds that both have."""
    other = {row.seed: row.accuracy for row in theirs}
    gaps = [row.accuracy - other[row.seed] for row in ours if row.seed in other]
    return float(np.mean(gaps)) if gaps else None


def _retrainings(rows: Sequence[Row]) -> float:
    # An online learner retrains with each label.
    return float(np.mean([row.fits if row.system.startswith("online:") else row.retrainings for row in rows]))


def _fits(rows: Sequence[Row]) -> float:
    return float(np.mean([row.fits for row in rows]))


def _summary(scenarios: Mapping[str, Sequence[Measured]]) -> str:
    """Return accuracy, retrainings and refreshes of each system on each scenario, as means over its seeds."""
    systems = list(dict.fromkeys(one.row.system for rows in scenarios.values() for one in rows))
    lines = [[f"`{system}`"] for system in systems]
    for measured in scenarios.values():
        by = {system: [one.row for one in measured if one.row.system == system] for system in systems}
        best = max((accuracy(rows) for name, rows in by.items() if rows and not _is_hindsight(name)), default=1.0)
        for line, (system, rows) in zip(lines, by.items(), strict=True):
            line.append(_summary_cell(system, rows, best))
    title = "**summary**: accuracy (retrainings + refreshes), means over the seeds. The best without hindsight is bold."
    return f"{title}\n\n{markdown(('system', *scenarios), lines)}"


def _summary_cell(system: str, rows: Sequence[Row], best: float) -> str:
    if not rows:
        return "-"
    shown = f"{accuracy(rows):.3f}"
    if accuracy(rows) >= best and not _is_hindsight(system):
        shown = f"**{shown}**"
    if system.startswith("online:"):
        return f"{shown} (every label)"
    counts = "+".join(_mean([getattr(row, name) for row in rows]) for name in ("retrainings", "refreshes"))
    return f"{shown} ({counts})"


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with columns of even width.

    Args:
        heads: Heads of the columns.
        lines: Cells of each line.
    """
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    rows = [heads, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows)


def _mean(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"


def _signed(value: float | None, digits: int, *, plus: bool = True) -> str:
    return "-" if value is None else f"{value:{'+' if plus else ''}.{digits}f}"
