"""Summary of a simulation on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from driftloop.core.terminal_text import escape_control_chars
from serving.simulation.drift_scoring import MAX_DELAY
from serving.simulation.summary import RetrainingRun, Summary


def show(summary: Summary, file: Path, console: Console) -> None:
    """Print a summary.

    Args:
        summary: Summary to print.
        file: Path of `summary.json`, which has all of it.
        console: Console to print on.
    """
    console.print(Text(f"\n{escape_control_chars(summary.scenario)}: {_headline(summary)}", style="bold"))
    if summary.missing:
        console.print(Text(f"Incomplete: {summary.missing}.", style="yellow"))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(summary):
        facts.add_row(Text(name, style="dim"), Text(value))
    console.print(facts)
    if summary.accuracy.per_segment:
        console.print(_segments(summary))
    if summary.drifts:
        console.print(_drifts(summary))
    if summary.retrainings:
        console.print(_retrainings(summary.retrainings))
    console.print(Text(f"Full summary: {file}"), soft_wrap=True)


def _headline(summary: Summary) -> str:
    accuracy = summary.accuracy.prequential
    shown = "no labelled event counts yet" if accuracy is None else f"prequential accuracy {accuracy:.3f}"
    return f"{summary.predictions - summary.duplicates} of {summary.events} events predicted, {shown}"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    accuracy, latency = summary.accuracy, summary.latency
    rows = [
        ("counted", f"{accuracy.counted} labelled events; {accuracy.warm_up} of the warm-up do not count"),
        ("after 2,000 events", _number(accuracy.prequential_after_2000)),
    ]
    if summary.drifts_known:
        found = sum(drift.detected_position is not None for drift in summary.drifts)
        rows.append(
            (
                "drifts",
                f"{found} of {len(summary.drifts)} detected within {MAX_DELAY} labelled events, "
                f"{summary.false_alarms} false alarms, {summary.repeat_alerts} repeats",
            )
        )
    else:
        rows.append(("alerts", f"{len(summary.alerts)}; the scenario does not define its drifts"))
    queued = f"; {summary.queued} events waited for the first model" if summary.queued else ""
    rolled = f", {summary.rollbacks} rolled back" if summary.rollbacks else ""
    rows += [
        (
            "models",
            f"{len(summary.retrainings)} retrainings and {len(summary.refreshes)} refreshes, "
            f"{summary.promotions} promoted{rolled}",
        ),
        ("dead letters", f"{summary.dead_letters}; duplicates {summary.duplicates}"),
        ("latency", f"p50 {_ms(latency.p50)}, p95 {_ms(latency.p95)}, p99 {_ms(latency.p99)}{queued}"),
        ("speed", f"{summary.events_per_second:.1f} events/s over {summary.seconds:.0f} s in total"),
        ("first prediction", _seconds(summary.first_prediction_seconds)),
        ("first promotion", _seconds(summary.first_promotion_seconds)),
        ("peak memory", f"{summary.peak_memory_mb / 1024:.2f} GB"),
    ]
    restarts = ", ".join(f"{name} {count}" for name, count in summary.restarts.items() if count)
    return [*rows, ("restarts", restarts)] if restarts else rows


def _segments(summary: Summary) -> Table:
    table = Table("segment", "accuracy", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name, share in summary.accuracy.per_segment.items():
        table.add_row(Text(escape_control_chars(name, 40) or "-"), f"{share:.3f}")
    return table


def _drifts(summary: Summary) -> Table:
    table = Table("true drift", "detected", "delay", "by", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for drift in summary.drifts:
        if drift.detected_position is None:
            table.add_row(str(drift.true_position), "no", "", "")
        else:
            by = Text(escape_control_chars(drift.detector or ""))
            table.add_row(str(drift.true_position), str(drift.detected_position), f"{drift.delay} labelled", by)
    return table


def _retrainings(runs: list[RetrainingRun]) -> Table:
    table = Table("at", "verdict", "candidates", "seconds", "why", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for run in runs:
        verdict = f"{run.verdict} v{run.version}" if run.version else run.verdict
        where = str(run.position) if run.position >= 0 else "-"
        names = Text(escape_control_chars(", ".join(run.candidates), 40))
        table.add_row(
            where,
            Text(escape_control_chars(verdict)),
            names,
            f"{run.seconds:.1f}",
            Text(escape_control_chars(run.reason, 60)),
        )
    return table


def _number(value: float | None) -> str:
    return "nothing counted yet" if value is None else f"prequential accuracy {value:.3f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"after {value:.1f} s"
