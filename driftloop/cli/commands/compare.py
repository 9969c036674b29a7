"""`driftloop compare`: compares two model versions on the newest labelled events."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_json, add_run, count, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import ThrottledProgress, open_console, write, write_json
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from retrain.evaluation.version_comparison import Comparison, EventComparison, GroupComparison

DESCRIPTION = """\
Compares two registered versions: their records in the registry, and their results on the newest labelled events that
neither was trained on. It prints accuracy, agreement, and the results for each class and each segment. It also prints
how likely such a difference is between two equal models (McNemar's test, and the gate's paired bootstrap). The
signatures of the bundles are verified, as in the scorer. The command exits with 1 if there is no event to compare on.

reads   outcomes; MLflow
writes  nothing except bundles in the user cache
"""

MORE = """
examples
  driftloop compare 3 7
  driftloop compare 3 7 --newest 500
  driftloop compare 3 7 --json | jq .agreement
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("compare", run, "two versions of the model, side by side", DESCRIPTION, MORE, stack_options())
    verb.add_argument("one", metavar="A", help="number of the first version")
    verb.add_argument("other", metavar="B", help="number of the second version")
    verb.add_argument("--newest", metavar="N", type=count, default=2000, help="most events (default: 2000)")
    add_json(verb)
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison. Return 1 if no event was found to compare the versions on."""
    from retrain.evaluation import version_comparison

    terminate_as_interrupt()
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    progress = ThrottledProgress().report
    comparison = version_comparison.compare(settings, arguments.one, arguments.other, arguments.newest, progress)
    if arguments.json:
        write_json(comparison)
    else:
        _show(comparison)
    return 0 if comparison.events else 1


def _show(comparison: Comparison) -> None:
    _show_records(comparison)
    for version in comparison.unknown:
        write(f"Version {version} has no record of its training events: every event counts as new to it.")
    if comparison.events is None:
        write("No labelled event is newer than the training events of both: wait for some, then compare again.")
    else:
        _show_events(comparison, comparison.events)


def _show_records(comparison: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    heads = ("", f"version {comparison.one}", f"version {comparison.other}")
    table = Table(*heads, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for field in comparison.written:
        mark = "≠ " if field.one != field.other else "  "
        values = (Text(escape_control_chars(text, 60)) for text in (field.one, field.other))
        table.add_row(Text(mark + escape_control_chars(field.name, 40)), *values)
    open_console().print(table)


def _show_events(comparison: Comparison, events: EventComparison) -> None:
    percent = f"{100 * events.confidence:g}%"
    low, high = events.gain_interval
    brier_low, brier_high = (-events.brier_gain_interval[1], -events.brier_gain_interval[0])
    write("")
    write(
        f"On {events.rows} labelled events that neither was trained on (positions {events.first_position} to "
        f"{events.last_position}):"
    )
    write(f"  accuracy    {events.accuracy[0]:.3f} against {events.accuracy[1]:.3f}")
    write(f"  difference  {events.gain:+.3f} [{low:+.3f}, {high:+.3f}] ({percent} interval, paired bootstrap)")
    write(f"  Brier score between {brier_low:+.3f} and {brier_high:+.3f} ({percent} interval)")
    write(f"  agreement   {events.agreement:.3f}")
    write(
        f"  McNemar     only version {comparison.one} is right on {events.only_one_right}, only version "
        f"{comparison.other} on {events.only_other_right}: p = {events.chance:.3f}"
    )
    _show_groups("class (recall)", events.classes)
    _show_groups("segment", events.segments)


def _show_groups(title: str, groups: Sequence[GroupComparison]) -> None:
    if not groups:
        return
    names = [escape_control_chars(group.name, 40) for group in groups]
    width = max(len(title), *map(len, names))
    write("")
    write(f"  {title:<{width}}  events   one  other  p")
    for name, group in zip(names, groups, strict=True):
        chance = "too few events" if group.chance is None else f"{group.chance:.3f}"
        write(f"  {name:<{width}}  {group.rows:>6}  {group.one:.2f}   {group.other:.2f}  {chance}")
