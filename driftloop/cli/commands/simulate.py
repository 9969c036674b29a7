"""`driftloop simulate`: runs the whole loop on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from driftloop.cli.arguments import Verbs, add_rate_and_limit, stack_options
from driftloop.cli.options import StackOptions

DESCRIPTION = """\
Runs the whole loop on this machine. Kafka, Valkey and MLflow run as child processes, together with the scorer, the
monitor, the retraining worker and a replay of the scenario. The terminal and the live page show events per second, lag,
the rolling accuracy of each model version, alerts (▲), true drifts (△) and promotions (●). The live page opens in your
browser if this machine has a graphical display. The run ends when every event is predicted, every label is joined and
no retraining is running. It leaves summary.json and a report in the run directory.

The scenario is one of these:
  tweets               six sources one after another, five true drifts
  tweets-short         the first two sources, one true drift, 90 seconds
  tweets-gradual, tweets-recurring, tweets-typos, tweets-label-shift      other kinds of drift
  tweets-stationary    no drift, as a control
  a TOML file          your own, which names a CSV file, a folder or a dataset of the Hugging Face Hub
  a project folder     made by `driftloop init`: its scenario.toml and, without --settings, its driftloop.toml

reads   predictions, outcomes, drift-alerts, model-updates, retraining, dead-letters (to show them)
writes  nothing itself; its child processes `replay`, `score`, `monitor`, `retrain` and `serve` write
"""

MORE = """
examples
  driftloop simulate                           the tweets, at 40 events/s
  driftloop simulate tweets-short --plain      lines instead of a live picture, for logs
  driftloop simulate mine.toml --rate max      your own data, at full speed
  driftloop simulate my-project                the project that `driftloop init my-project` made
  driftloop simulate tweets --settings mine.toml     with the settings in that file
  driftloop simulate --resume runs/DIR         continue a run that was stopped or killed
  DRIFTLOOP_RETRAIN__POLICY=never driftloop simulate     without retraining, for comparison

the run directory (--out, default runs/TIME-SCENARIO)
  summary.json   the figures; serving/simulation/summary.py explains each field
  report.pdf     the report to read, also as report.html; `driftloop report` writes both again
  report.json    the data of the report, besides summary.json
  run.json       scenario and settings, for --resume
  logs/          one log for each process
  kafka/ valkey/ mlflow/    their data

your own stack
  If DRIFTLOOP_KAFKA, DRIFTLOOP_REDIS and DRIFTLOOP_MLFLOW are all set (or with --stack own), only driftloop's five
  processes are started. `--stack embedded` ignores the three variables.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    summary = "run the whole loop on this machine and watch it"
    verb = verbs.add("simulate", run, summary, DESCRIPTION, MORE, stack_options())
    verb.add_argument("scenario", nargs="?", metavar="SCENARIO", help="name, TOML file or project (default: tweets)")
    add_rate_and_limit(verb)
    where = verb.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="a new run directory (default: runs/TIME-SCENARIO)")
    where.add_argument("--resume", metavar="DIR", help="continue the run in DIR, with its scenario and settings")
    verb.add_argument(
        "--stack",
        choices=("auto", "own", "embedded"),
        default="auto",
        help="auto: own if all three addresses are set",
    )
    verb.add_argument("--plain", action="store_true", help="print lines; the default if output is no terminal")
    verb.add_argument("--no-page", action="store_true", help="without the live page")
    verb.add_argument("--no-open", action="store_true", help="do not open the live page in a browser")
    verb.add_argument("--keep", action="store_true", help="keep the stack running at the end, until Ctrl-C")


def run(arguments: argparse.Namespace) -> int:
    """Run the simulation and return the exit status."""
    from driftloop.cli.simulation.prepare import SimulateOptions
    from driftloop.cli.simulation.session import simulate
    from driftloop.cli.simulation.stage import TerminalStage

    options = SimulateOptions(
        stack=StackOptions.of(arguments),
        scenario=arguments.scenario,
        rate=arguments.rate,
        limit=arguments.limit,
        out=Path(arguments.out) if arguments.out else None,
        resume=None if arguments.resume is None else Path(arguments.resume),
        stack_kind=arguments.stack,
        page=not arguments.no_page,
        keep=arguments.keep,
    )
    return simulate(options, TerminalStage(plain=arguments.plain, open_browser=not arguments.no_open))
