"""Drift cases on a terminal or in a log: a table of all of them, and one in full."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from driftloop.core.terminal_text import escape_control_chars
from serving.cases.model import AccuracySpan, Case, Movement, Round, SliceImpact

NAME, REASON, SHORT, EXAMPLE = 40, 400, 120, 100
SLICES = 8
"""Segments and classes shown, those that lost most first."""


def show_all(cases: Sequence[Case], console: Console) -> None:
    """Print one line for each case."""
    if not cases:
        console.print(Text("No drift has been detected on this stream."))
        return
    table = _table("case", "position", "kind", "severity", "retrainings", "what came of it")
    for case in cases:
        verdict = case.came_of_it.verdict
        swap = f" v{case.swaps[-1].version}" if case.swaps else ""
        cells = (
            case.case_id,
            str(case.position),
            case.kind,
            f"{case.severity:+.3f}",
            str(len(case.rounds)),
            f"{verdict}{swap}{_accuracies(case)}",
        )
        table.add_row(*(Text(escape_control_chars(cell, 80)) for cell in cells))
    console.print(table)


def show(case: Case, console: Console) -> None:
    """Print one case in full; whatever came from a topic is text in it."""
    console.print(
        Text(f"\ncase {escape_control_chars(case.case_id)}: {escape_control_chars(headline(case))}", style="bold"),
        soft_wrap=True,
    )
    console.print(Text(escape_control_chars(case.came_of_it.words)), soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    for name, value in facts_of(case):
        facts.add_row(Text(name, style="dim"), Text(escape_control_chars(value)))
    console.print(Padding(facts, (1, 0, 0, 0)))
    _section(console, "What moved", _moved(case.moved) if case.moved else None)
    _section(console, "Segments", _slices(case.segments) if case.segments else None)
    _section(console, "Classes", _slices(case.classes) if case.classes else None)
    for number, one in enumerate(case.rounds, 1):
        _round(console, number, one)
    swaps = _table("version", "action", "from position", "why")
    for swap in case.swaps:
        where = str(swap.position) if swap.position >= 0 else "-"
        swaps.add_row(*_cells(swap.version, swap.action, where, swap.reason, limit=SHORT))
    _section(console, "Champions", swaps if case.swaps else None)


def headline(case: Case) -> str:
    """What was noticed, in one line."""
    kinds = {
        "covariate": "the texts changed",
        "label": "the mix of labels changed",
        "concept": "labels changed meaning",
    }
    what = kinds.get(case.kind, "drift of an unknown kind")
    return f"{what} about position {case.onset}, noticed at {case.position}"


def facts_of(case: Case) -> list[tuple[str, str]]:
    """The alert's facts as pairs of a name and a value, for every view of a case."""
    onset = f"position {case.onset}"
    if case.onset_low >= 0:
        onset += f", between {case.onset_low} and {case.onset_high}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in case.fired.items())
    rows = [
        ("detected", f"{_time(case.detected_at)} at position {case.position}, on version {case.model_version}"),
        ("onset", onset),
        ("detector", f"{case.detector}; {case.signal} moved by {case.severity:+.3f} over {case.window} observations"),
        ("fired", shares),
        ("kind", case.kind),
    ]
    rows += [
        (name, f"{_share(share)} on {share.labelled} labelled events")
        for name, share in (
            ("accuracy before", case.came_of_it.before),
            ("from the onset", case.came_of_it.until),
            ("after the answer", case.came_of_it.since),
        )
    ]
    estimates = [one for one in case.estimated_accuracy if isinstance(one.get("estimate"), int | float)]
    if estimates:
        last = estimates[-1]
        said = f"{last['estimate']:.3f} for positions {last.get('start')} to {last.get('end')}, before any label"
        rows.append(("estimated", said))
    return rows


def decision_of(one: Round) -> str:
    """What a round rested on, in one line."""
    parts = [one.reason]
    if one.first_offset >= 0:
        parts.append(f"trained on offsets {one.first_offset} to {one.last_offset} of outcomes")
    return "; ".join(parts)


def _round(console: Console, number: int, one: Round) -> None:
    title = f"Round {number}: {one.kind}, {one.state} ({escape_control_chars(one.run_id)})"
    console.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    console.print(Text(escape_control_chars(decision_of(one), REASON)), soft_wrap=True)
    for candidate in one.candidates:
        version = f" v{candidate.version}" if candidate.version else ""
        line = f"{candidate.name}{version} {candidate.state}: {candidate.reason}"
        console.print(Text("  " + escape_control_chars(line, REASON)), soft_wrap=True)
        for check in candidate.checks:
            console.print(Text(f"    {escape_control_chars(words_of(check), REASON)}"), soft_wrap=True)


def words_of(check: dict[str, Any]) -> str:
    """One of the gate's checks in words."""
    mark = "✓" if check.get("passed") else "✗"
    return f"{mark} {check.get('name', '')}: {check.get('words', '')}"


def _moved(moved: Sequence[Movement]) -> Table:
    table = _table("what", "name", "measure", "before", "after", "example")
    for one in moved:
        example = escape_control_chars(one.texts[0], EXAMPLE) if one.texts else ""
        row = _cells(one.what, one.name, one.measure, _number(one.before), _number(one.after), limit=NAME)
        table.add_row(*row, Text(example))
    return table


def _slices(slices: Sequence[SliceImpact]) -> Table:
    table = _table("name", "before", "events", "from the onset", "events", "right answers lost")
    for one in slices[:SLICES]:
        before, after = one.before, one.after
        cells = (one.name, _share(before), str(before.labelled), _share(after), str(after.labelled), f"{one.lost:.0f}")
        table.add_row(*_cells(*cells, limit=NAME))
    return table


def _section(console: Console, title: str, content: RenderableType | None) -> None:
    if content is not None:
        console.print(Text(f"\n{title}", style="bold"))
        console.print(content)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))


def _cells(*values: str, limit: int) -> list[Text]:
    return [Text(escape_control_chars(value, limit)) for value in values]


def _accuracies(case: Case) -> str:
    came = case.came_of_it
    known = [_share(share) for share in (came.before, came.until, came.since) if share.accuracy is not None]
    return f": {' → '.join(known)}" if known else ""


def _share(share: AccuracySpan) -> str:
    return _number(share.accuracy)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return str(seconds)
