"""`driftloop init`: makes a project from the user's own data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, rate, stack_options
from driftloop.cli.options import SCENARIO, SETTINGS, terminate_as_interrupt
from driftloop.cli.output import write
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from producers.data.project_scaffold import Plan

DESCRIPTION = """\
Makes a folder with a scenario and a settings file for your own file of labelled texts: CSV, TSV, JSON lines or Parquet,
compressed or not. The command reads the file first. It refuses a file that cannot become a stream, with one sentence,
and prints notes about the data. The data is copied into the folder, so that the folder is complete and can be moved.
Then `driftloop simulate DIR` runs without further preparation. Existing files are never overwritten.

reads   the file; a copy of its rows is kept in the user cache
writes  DIR with scenario.toml, driftloop.toml and the data
"""

MORE = """
examples
  driftloop init my-project --csv reviews.csv --text body --label stars
  driftloop init my-project --data reviews.parquet --text body --label stars --segment shop --rate 20
  driftloop init my-project --csv old.csv --text body --label stars --encoding latin-1

defaults
  The rows keep the order of the file, which should be the order in which they arose. A file that is sorted by its label
  is shuffled. The first model is trained on a fifth of the rows, at least 50 and at most 500. A label arrives after a
  twentieth of the rows, at most 200 events. With few rows, the linear head is the only candidate. The two files contain
  all of these values, with comments.
"""

SHOWN_LABELS = 10
"""Most labels that are named."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("init", run, "make a project from your own data", DESCRIPTION, MORE, stack_options())
    verb.add_argument("folder", metavar="DIR", help="the new folder")
    verb.add_argument("--csv", "--data", dest="data", metavar="FILE", required=True, help="the labelled texts")
    verb.add_argument("--text", metavar="COL", required=True, help="the column with the texts")
    verb.add_argument("--label", metavar="COL", required=True, help="the column with the labels")
    verb.add_argument("--segment", metavar="COL", default="", help="the column with the segment of a row")
    verb.add_argument("--rate", metavar="R", type=rate, default="40", help="events per second, or max (default: 40)")
    verb.add_argument("--encoding", metavar="NAME", default="utf-8", help="of a text file (default: utf-8)")


def run(arguments: argparse.Namespace) -> int:
    """Read the data, write the project, print the next commands, and return the exit status."""
    from producers.data import project_scaffold
    from producers.scenarios.scenario_schema import DatasetSpec

    terminate_as_interrupt()
    folder = Path(arguments.folder).expanduser()
    if folder.exists() or folder.is_symlink():  # checked before a long file is read
        raise DriftloopError(f"{folder} exists already: choose another folder, nothing is overwritten.")
    spec = DatasetSpec(
        text=arguments.text, label=arguments.label, segment=arguments.segment, encoding=arguments.encoding
    )
    plan = project_scaffold.plan(Path(arguments.data).expanduser(), spec, arguments.rate)
    project_scaffold.write(plan, folder, SCENARIO, SETTINGS)
    _show_plan(folder, plan)
    _show_next_commands(folder, plan)
    return 0


def _show_plan(folder: Path, plan: Plan) -> None:
    labels = ", ".join(escape_control_chars(label, 40) for label in plan.labels[:SHOWN_LABELS])
    more = f" and {len(plan.labels) - SHOWN_LABELS} more" if len(plan.labels) > SHOWN_LABELS else ""
    write(f"{folder}: {plan.rows} texts with {len(plan.labels)} labels ({labels}{more}).")
    write(f"The first {plan.bootstrap} train the first model; a label follows its event after {plan.delay} events.")
    for note in plan.notes:
        write(f"note: {note}")


def _show_next_commands(folder: Path, plan: Plan) -> None:
    import shlex

    project, settings = shlex.quote(str(folder)), shlex.quote(str(folder / SETTINGS))
    write("")
    write("Next:")
    write(f"  driftloop simulate {project}")
    write(f"  driftloop simulate {project} --rate max --limit {min(plan.rows, 3 * plan.bootstrap)}")
    write(f"  driftloop doctor --settings {settings}")
    write("The first is short for")
    write(f"  driftloop simulate {shlex.quote(str(folder / SCENARIO))} --settings {settings}")
