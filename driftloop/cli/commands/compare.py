"""`driftloop compare`: two versions in words.

The room is imported where it is needed, as in `cli`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftloop.cli.commands.case import write_json
from driftloop.cli.options import Progress, find_settings, open_console, terminate_as_interrupt, write
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from retrain.evaluation.version_comparison import Comparison, Group, OnEvents


def compare(arguments: argparse.Namespace) -> int:
    """Print the comparison; 1 where there is no event to compare the two on."""
    from retrain.evaluation import version_comparison

    terminate_as_interrupt()
    found = version_comparison.compare(
        find_settings(arguments), arguments.one, arguments.other, arguments.newest, Progress().say
    )
    if arguments.json:
        write_json(found)
    else:
        _show(found)
    return 0 if found.events else 1


def _show(found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "", f"version {found.one}", f"version {found.other}", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    for field in found.written:
        mark = "≠ " if field.one != field.other else "  "
        table.add_row(
            Text(mark + escape_control_chars(field.name, 40)),
            *(Text(escape_control_chars(text, 60)) for text in (field.one, field.other)),
        )
    open_console().print(table)
    for version in found.unknown:
        write(f"Version {version} does not say what it was trained on: every event counts as new to it.")
    if found.events is None:
        write("No labelled event is newer than what both were trained on: wait for some, then compare again.")
    else:
        _show_events(found, found.events)


def _show_events(found: Comparison, events: OnEvents) -> None:
    percent = f"{100 * events.confidence:g}%"
    low, high = events.gain_interval
    write("")
    write(
        f"On {events.rows} labelled events that neither was trained on (positions {events.first_position} to "
        f"{events.last_position}):"
    )
    write(f"  accuracy    {events.accuracy[0]:.3f} against {events.accuracy[1]:.3f}")
    write(f"  difference  {events.gain:+.3f} [{low:+.3f}, {high:+.3f}] ({percent} interval, paired bootstrap)")
    low, high = (-events.brier_gain_interval[1], -events.brier_gain_interval[0])
    write(f"  Brier score between {low:+.3f} and {high:+.3f} ({percent} interval)")
    write(f"  agreement   {events.agreement:.3f}")
    write(
        f"  McNemar     only version {found.one} is right on {events.only_one_right}, only version {found.other} on "
        f"{events.only_other_right}: p = {events.chance:.3f}"
    )
    _show_groups("class (recall)", events.classes)
    _show_groups("segment", events.segments)


def _show_groups(what: str, groups: Sequence[Group]) -> None:
    if not groups:
        return
    width = max(len(what), *(len(escape_control_chars(group.name, 40)) for group in groups))
    write("")
    write(f"  {what:<{width}}  events   one  other  p")
    for group in groups:
        chance = "too few to tell" if group.chance is None else f"{group.chance:.3f}"
        write(
            f"  {escape_control_chars(group.name, 40):<{width}}  {group.rows:>6}  {group.one:.2f}   {group.other:.2f}  {chance}"
        )
