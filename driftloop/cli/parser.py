"""The parser of the whole command line, built from the commands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from driftloop.cli.arguments import EXIT_CODES, ArgumentParser, HelpPage, Verbs
from driftloop.cli.commands import (
    ask,
    audit,
    backfill,
    bench,
    case,
    check,
    compare,
    demo,
    doctor,
    init,
    models,
    monitor,
    replay,
    report,
    retrain,
    score,
    serve,
    simulate,
    topics,
    watch,
)

HELP = """\
driftloop adapts a machine-learning model to a live stream that changes. A model scores the stream, drift is detected,
new models are trained, and a model that is proven better is promoted without a restart.

    replay ──► events ──► score ──► predictions ─┐
       └─────────────────────────► labels ───────┴──► monitor ──► outcomes, drift-alerts
    score ◄── model-updates ◄── retrain ◄───────────────────────────────┘

Start with `driftloop simulate`. It needs only this package and shows the whole loop on real tweets.
"""

COMMANDS = (
    simulate,
    demo,
    replay,
    score,
    monitor,
    retrain,
    serve,
    topics,
    watch,
    audit,
    report,
    case,
    models,
    ask,
    init,
    check,
    compare,
    backfill,
    bench,
    doctor,
)
"""The modules of the commands, in the order of `driftloop --help`. Each adds its verbs in `add_parser`."""


def build() -> ArgumentParser:
    """Return the parser of the whole command line."""
    root = ArgumentParser(prog="driftloop", description=HELP, epilog=EXIT_CODES, formatter_class=HelpPage)
    root.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = Verbs(root)
    for command in COMMANDS:
        command.add_parser(verbs)
    return root


def verbs() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each verb by its name."""
    for action in build()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise LookupError("the command line has no verbs")
