"""`driftloop backfill`: scores past events with another model version and shows the differences."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_json, add_run, stack_options, whole_number
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import ThrottledProgress, write, write_json
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from serving.backfill.comparison import Backfill, SegmentChange

DESCRIPTION = """\
Scores past events with another version of the model and shows the difference: how many predictions would have changed,
from which label to which, and in which segment. It also shows the accuracy that this version would have had, on events
that it was not trained on. It reads outside any consumer group and writes to no topic and not to the store, so the
running loop is not affected.

reads   events from --from on, predictions, labels; MLflow
writes  nothing except FILE, and bundles in the user cache
"""

MORE = """
examples
  driftloop backfill --version 3 --from 0
  driftloop backfill --version 3 --from earliest --to 5000 --out predictions.jsonl
  driftloop backfill --version 3 --from 12000 --partition 2
  driftloop backfill --version 3 --from 0 --json | jq .changed

offsets
  Offsets are those of the topic events, separate for each partition. With several partitions and no --partition, --from
  and --to apply to each of them. `earliest` is the first offset that the broker still keeps. --to is exclusive.

FILE has one prediction per line, as on the topic predictions. It appears only when the backfill is complete.
"""

LABEL_WIDTH, TEXT_WIDTH = 40, 160
"""Most characters shown of a label and of a text."""
SHOWN_MOVES = 20
"""Most pairs of labels that are shown."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("backfill", run, "score history with another version", DESCRIPTION, MORE, stack_options())
    verb.add_argument("--version", dest="model", metavar="N", required=True, help="number of the version")
    verb.add_argument("--from", dest="start", metavar="OFFSET", type=_offset, required=True, help="or earliest")
    verb.add_argument("--to", dest="end", metavar="OFFSET", type=_offset, help="exclusive (default: the end)")
    verb.add_argument("--partition", metavar="P", type=whole_number, help="only this one (default: all)")
    verb.add_argument("--out", metavar="FILE", help="write the new predictions, as JSON lines")
    add_json(verb)
    add_run(verb)


def _offset(text: str) -> int | None:
    return None if text == "earliest" else whole_number(text)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences and return the exit status."""
    from serving.backfill.backfill import OffsetSelection, backfill

    terminate_as_interrupt()
    selection = OffsetSelection(arguments.start, arguments.end, arguments.partition)
    out = Path(arguments.out) if arguments.out else None
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    found = backfill(settings, arguments.model, selection, out, ThrottledProgress().report)
    if arguments.json:
        write_json(found)
        return 0
    _show(found)
    if out is not None:
        write(f"The {found.events} predictions are in {out}.")
    write("Nothing was written to a topic or to the store.")
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
    write(f"{found.changed} predictions would have changed, {100 * found.changed / found.compared:.1f}%.")
    _show_moves(found)
    _show_accuracy(found)
    if [segment.name for segment in found.segments] != [""]:
        _show_segments(found.segments)
    _show_examples(found)


def _show_moves(found: Backfill) -> None:
    for move in found.moves[:SHOWN_MOVES]:
        write(f"  {move.events:>6}  {_label(move.was)} → {_label(move.becomes)}")
    if len(found.moves) > SHOWN_MOVES:
        write(f"  and {len(found.moves) - SHOWN_MOVES} other pairs of labels")
    write("")


def _show_accuracy(found: Backfill) -> None:
    excluded = f" ({found.trained_on} events that one of the models was trained on are excluded)"
    note = excluded if found.trained_on else ""
    if found.accuracy is None or found.accuracy_was is None:
        write(f"None of them has a label, so the accuracy is unknown{note}.")
    else:
        gain = found.accuracy - found.accuracy_was
        write(
            f"On {found.labelled} labelled events the accuracy was {found.accuracy_was:.3f} and would have been "
            f"{found.accuracy:.3f} ({gain:+.3f}){note}."
        )
    write("")


def _show_segments(segments: list[SegmentChange]) -> None:
    names = [_label(segment.name) or "(none)" for segment in segments]
    width = max(7, *map(len, names))
    write(f"  {'segment':<{width}}  events  changed  labelled  accuracy was, would be")
    for name, part in zip(names, segments, strict=True):
        accuracy = "–" if part.accuracy is None else f"{part.accuracy_was:.3f}, {part.accuracy:.3f}"
        write(f"  {name:<{width}}  {part.compared:>6}  {part.changed:>7}  {part.labelled:>8}  {accuracy}")
    write("")


def _show_examples(found: Backfill) -> None:
    for example in found.examples:
        truth = f", and is {_label(example.label)}" if example.label else ""
        text = escape_control_chars(example.text, TEXT_WIDTH)
        write(f"{_label(example.was)} → {_label(example.becomes)}{truth}: {text}")
    if found.examples:
        write("")


def _label(name: str) -> str:
    return escape_control_chars(name, LABEL_WIDTH)
