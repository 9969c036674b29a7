"""`driftloop backfill`: in words what another version would have said.

The room is imported where it is needed, as in `cli`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli.commands.case import write_json
from driftloop.cli.options import Progress, find_settings, terminate_as_interrupt, write
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from serving.backfill import Backfill, SegmentChange

LABEL, SHOWN = 40, 160
"""Characters of a label and of a text that are shown."""
MOVES = 20


def backfill(arguments: argparse.Namespace) -> int:
    """Print what would have changed."""
    from serving import backfill as history

    terminate_as_interrupt()
    wanted = history.OffsetSelection(arguments.start, arguments.end, arguments.partition)
    out = Path(arguments.out) if arguments.out else None
    found = history.backfill(find_settings(arguments), arguments.model, wanted, out, Progress().say)
    if arguments.json:
        write_json(found)
        return 0
    _show(found)
    if out is not None:
        write(f"The {found.events} predictions are in {out}.")
    write("No topic was written to, and the store is as it was.")
    return 0


def _show(found: Backfill) -> None:
    spans = ", ".join(f"{span.start} to {span.end} (partition {span.partition})" for span in found.spans)
    write(f"{found.events} events at the offsets {spans} scored with version {found.version}.")
    if found.unscored:
        write(f"{found.unscored} messages could not be scored: no events, too long, or the model fails on them.")
    if not found.compared:
        write("None of them has a prediction: there is nothing to compare with.")
        return
    by = ", ".join(f"{n} by version {escape_control_chars(version, 20)}" for version, n in found.answered_by.items())
    write(f"{found.compared} of them have a prediction ({by}).")
    write("")
    write(f"{found.changed} answers would have changed, {100 * found.changed / found.compared:.1f}%.")
    _show_moves(found)
    _show_accuracy(found)
    if [part.name for part in found.segments] != [""]:
        _show_segments(found.segments)
    for example in found.examples:
        known = f", and is {escape_control_chars(example.label, LABEL)}" if example.label else ""
        write(
            f"{escape_control_chars(example.was, LABEL)} → {escape_control_chars(example.becomes, LABEL)}{known}: {escape_control_chars(example.text, SHOWN)}"
        )
    if found.examples:
        write("")


def _show_moves(found: Backfill) -> None:
    for move in found.moves[:MOVES]:
        write(
            f"  {move.events:>6}  {escape_control_chars(move.was, LABEL)} → {escape_control_chars(move.becomes, LABEL)}"
        )
    if len(found.moves) > MOVES:
        write(f"  and {len(found.moves) - MOVES} other pairs of labels")
    write("")


def _show_accuracy(found: Backfill) -> None:
    left_out = f" ({found.trained_on} that one of the models was trained on are left out)" if found.trained_on else ""
    if found.accuracy is None or found.accuracy_was is None:
        write(f"None of them has a label that says how right the answers are{left_out}.")
    else:
        gain = found.accuracy - found.accuracy_was
        write(
            f"On {found.labelled} labelled events the accuracy was {found.accuracy_was:.3f} and would have been "
            f"{found.accuracy:.3f} ({gain:+.3f}){left_out}."
        )
    write("")


def _show_segments(parts: list[SegmentChange]) -> None:
    names = [escape_control_chars(part.name, LABEL) or "(none)" for part in parts]
    width = max(7, *map(len, names))
    write(f"  {'segment':<{width}}  events  changed  labelled  accuracy was, would be")
    for name, part in zip(names, parts, strict=True):
        known = "–" if part.accuracy is None else f"{part.accuracy_was:.3f}, {part.accuracy:.3f}"
        write(f"  {name:<{width}}  {part.compared:>6}  {part.changed:>7}  {part.labelled:>8}  {known}")
    write("")
