"""Drift cases on a terminal or in a log: a table of all cases, and one case in full."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from driftloop.core.terminal_text import escape_control_chars
from serving.cases.model import AccuracySpan, Candidate, Case, Movement, Round, SliceImpact
from serving.cases.reasons import CHECK_COLUMNS, as_sentence, check_rows, comparison_rows, first_sentence, has_more

NAME, REASON, SHORT, EXAMPLE = 40, 400, 120, 100
SLICES = 8
"""Segments and classes in a table; the most affected come first."""


def show_all(cases: Sequence[Case], console: Console) -> None:
    """Print one line for each case.

    Args:
        cases: The cases of the stream.
        console: Where they are printed.
    """
    if not cases:
        console.print(Text("No drift has been detected on this stream."))
        return
    table = _table("case", "position", "kind", "severity", "retrainings", "outcome")
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
        table.add_row(*_cells(*cells, limit=80))
    console.print(table)


def show(case: Case, console: Console) -> None:
    """Print one case in full. Control characters in text from a topic are escaped.

    Args:
        case: The case.
        console: Where it is printed.
    """
    console.print()
    _print(console, f"Case {case.case_id}: {headline(case)}", style="bold")
    _print(console, case.came_of_it.words)
    facts = Table.grid(padding=(0, 2))
    for name, value in alert_facts(case):
        facts.add_row(Text(name, style="dim"), Text(escape_control_chars(value)))
    console.print(Padding(facts, (1, 0, 0, 0)))
    _section(console, "Changed segments, classes and words", _movements(case.moved) if case.moved else None)
    _section(console, "Accuracy by segment", _slices(case.segments) if case.segments else None)
    _section(console, "Accuracy by class", _slices(case.classes) if case.classes else None)
    for number, one in enumerate(case.rounds, 1):
        _round(console, number, one)
    swaps = _table("version", "action", "from position", "reason")
    for swap in case.swaps:
        where = str(swap.position) if swap.position >= 0 else "–"
        swaps.add_row(*_cells(swap.version, swap.action, where, first_sentence(swap.reason), limit=SHORT))
    _section(console, "Champions", swaps if case.swaps else None)


def headline(case: Case) -> str:
    """Return the detected change in one line."""
    kinds = {
        "covariate": "the texts changed",
        "label": "the mix of labels changed",
        "concept": "the meaning of labels changed",
    }
    change = kinds.get(case.kind, "drift of unknown kind")
    return f"{change} near position {case.onset}, detected at position {case.position}"


def alert_facts(case: Case) -> list[tuple[str, str]]:
    """Return the alert's facts as pairs of a name and a value, for every view of a case."""
    onset = f"position {case.onset}"
    if case.onset_low >= 0:
        onset += f", between {case.onset_low} and {case.onset_high}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in case.fired.items())
    rows = [
        ("detected", f"{_time(case.detected_at)} at position {case.position}, on version {case.model_version}"),
        ("likely onset", onset),
        ("detector", f"{case.detector}; {case.signal} moved by {case.severity:+.3f} over {case.window} observations"),
        ("signals", shares),
        ("kind of drift", case.kind),
    ]
    rows += [
        (name, f"{_share(share)} on {share.labelled} labelled events")
        for name, share in (
            ("accuracy before the drift", case.came_of_it.before),
            ("accuracy from the onset", case.came_of_it.until),
            ("accuracy after the promotion", case.came_of_it.since),
        )
    ]
    estimates = [one for one in case.estimated_accuracy if isinstance(one.get("estimate"), int | float)]
    if estimates:
        last = estimates[-1]
        positions = f"positions {last.get('start')} to {last.get('end')}"
        rows.append(("estimated accuracy", f"{last['estimate']:.3f} for {positions}, computed without labels"))
    return rows


def training_data(one: Round) -> str:
    """Return the offsets that a round was trained on as a sentence; empty if the topic does not tell them."""
    if one.first_offset < 0:
        return ""
    return f"Trained on offsets {one.first_offset} to {one.last_offset} of the topic outcomes."


def _round(console: Console, number: int, one: Round) -> None:
    console.print()
    _print(console, f"Retraining {number}: {one.kind}, {one.state} ({one.run_id})", style="bold")
    _print(console, f"Reason: {one.reason}", REASON)
    if one.first_offset >= 0:
        _print(console, training_data(one))
    for candidate in one.candidates:
        _candidate(console, candidate)


def _candidate(console: Console, one: Candidate) -> None:
    version = f" v{one.version}" if one.version else ""
    reason = f": {first_sentence(one.reason)}" if one.reason else ""
    _print(console, f"  {one.name}{version} {one.state}{reason}", REASON)
    if one.checks:
        table = _table(*CHECK_COLUMNS)
        for row in check_rows(one.checks):
            table.add_row(*_cells(*row, limit=REASON))
        console.print(Padding(table, (0, 0, 0, 4)))
    if one.figures:
        figures = "; ".join(f"{name} {value}" for name, value in comparison_rows(one))
        _print(console, f"    Comparison: {figures}", 2 * REASON)
    if has_more(one.reason):
        _print(console, f"    Full reason: {as_sentence(one.reason)}", 2 * REASON, style="dim")


def _movements(moved: Sequence[Movement]) -> Table:
    table = _table("type", "name", "measure", "before", "after", "example")
    for one in moved:
        example = escape_control_chars(one.texts[0], EXAMPLE) if one.texts else ""
        row = _cells(one.what, one.name, one.measure, _number(one.before), _number(one.after), limit=NAME)
        table.add_row(*row, Text(example))
    return table


def _slices(slices: Sequence[SliceImpact]) -> Table:
    table = _table("name", "before", "events", "from the onset", "events", "correct predictions lost")
    for one in slices[:SLICES]:
        before, after = one.before, one.after
        cells = (one.name, _share(before), str(before.labelled), _share(after), str(after.labelled), f"{one.lost:.0f}")
        table.add_row(*_cells(*cells, limit=NAME))
    return table


def _print(console: Console, text: str, limit: int | None = None, style: str = "") -> None:
    console.print(Text(escape_control_chars(text, limit), style=style), soft_wrap=True)


def _section(console: Console, title: str, content: RenderableType | None) -> None:
    if content is not None:
        console.print(Text(f"\n{title}", style="bold"))
        console.print(content)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))


def _cells(*values: str, limit: int) -> list[Text]:
    return [Text(escape_control_chars(value, limit)) for value in values]


def _accuracies(case: Case) -> str:
    outcome = case.came_of_it
    known = [_share(share) for share in (outcome.before, outcome.until, outcome.since) if share.accuracy is not None]
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
