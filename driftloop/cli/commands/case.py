"""`driftloop case`: shows the cases of a stream, one for each alert."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_json, add_run, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import open_console, write, write_json
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from driftloop.core.settings import Settings
    from serving.cases.model import Case

DESCRIPTION = """\
Each alert opens a case. Without an id, this command lists all cases of the stream. With an id, it shows one case; the
first characters of the id are enough. A case has
  the signals that fired, and the likely start of the change
  the words, topics and classes that moved, with examples, and those that lost accuracy
  the decision of the policy
  the models that were trained, with the offsets of their events
  the gate's verdict on each candidate
  the outcome

reads   drift-alerts, outcomes, retraining; with --replay also bundles from MLflow and embeddings from Redis
writes  nothing except missing topics and the page
"""

MORE = """
examples
  driftloop case                               all cases
  driftloop case 3f9c12ab                      one case
  driftloop case 3f9c12ab --html case.html     as a page without scripts, to share
  driftloop case 3f9c12ab --json               for programs; serving/cases/model.py explains each field
  driftloop case 3f9c12ab --replay             repeat its decisions and its training, and compare

what a replay compares
  The policy decides again on the messages of each decision, with the settings of that time. Linear heads are fitted
  again on the same outcomes and compared bit by bit. A search is limited by the clock, so it cannot be repeated
  exactly, and the replay reports that. Embeddings that have expired in Redis are computed again; their last bits may
  differ, and so may the heads. The command exits with 1 if something differs.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("case", run, "everything about an alert and its outcome", DESCRIPTION, MORE, stack_options())
    verb.add_argument("id", nargs="?", metavar="ID", help="of the case, or its first characters (default: list all)")
    add_json(verb)
    verb.add_argument("--html", metavar="FILE", help="write a page")
    verb.add_argument("--replay", action="store_true", help="repeat its decisions and training, and compare")
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Show all cases, or one as text, JSON or a page, or replay it. Return 1 if a replay differs."""
    from driftloop.core import topics
    from serving.cases import builder, terminal
    from serving.cases.model import find

    terminate_as_interrupt()
    if arguments.id is None and (arguments.replay or arguments.html):
        raise DriftloopError("`--html` and `--replay` need a case id; run `driftloop case` to list the ids.")
    settings = find_settings(StackOptions.of(arguments), arguments.run)
    topics.create(settings)
    cases = builder.cases(builder.read_case_history(settings))
    if arguments.id is None:
        if arguments.json:
            write_json(cases)
        else:
            terminal.show_all(cases, open_console())
        return 0
    chosen = find(cases, arguments.id)
    if arguments.html:
        _write_page(chosen, Path(arguments.html))
    if arguments.replay:
        return _replay(settings, chosen.case_id)
    if arguments.json:
        write_json(chosen)
    elif not arguments.html:
        terminal.show(chosen, open_console())
    return 0


def _replay(settings: Settings, case_id: str) -> int:
    """Replay a case and print the result of each step. Return 1 if a step differs."""
    from retrain import reproduce

    results = {True: "the same", False: "differs", None: "not compared"}
    differs = False
    for step in reproduce.reproduce_case(settings, case_id):
        write(f"{results[step.same]:<13} {step.subject}: {step.detail}")
        differs = differs or step.same is False
    write("Something differs." if differs else "Nothing differs.")
    return 1 if differs else 0


def _write_page(chosen: Case, file: Path) -> None:
    from serving.cases import html

    try:
        file.write_text(html.render(chosen), encoding="utf-8")
    except OSError as error:
        raise DriftloopError(f"{file} cannot be written: {error.strerror}; choose another file.") from error
    sys.stderr.write(f"driftloop: The case is in {escape_control_chars(str(file))}.\n")
