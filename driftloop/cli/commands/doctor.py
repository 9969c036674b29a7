"""`driftloop doctor`: reports missing prerequisites with their remedies, or lists all settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions
from driftloop.cli.output import write

DESCRIPTION = """\
Checks everything that `driftloop simulate` needs on this machine: Python, packages, Java, Kafka's jars, Valkey, the
encoder, disk, memory, cores and ports. For each missing prerequisite it prints how to get it. If DRIFTLOOP_KAFKA,
DRIFTLOOP_REDIS or DRIFTLOOP_MLFLOW is set, it checks that address instead. With --settings it lists all settings; with
a settings file after it, it lists their values with that file.

reads   this machine
writes  nothing
"""

MORE = """
examples
  driftloop doctor
  driftloop doctor --settings
  driftloop doctor --settings mine.toml
  driftloop doctor --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000

a settings file
  signing_key_file = "/run/secrets/key"    # DRIFTLOOP_SIGNING_KEY_FILE: safer than the secret itself in the file
  [retrain]
  policy = "periodic"                      # DRIFTLOOP_RETRAIN__POLICY
  candidates = ["linear"]                  # DRIFTLOOP_RETRAIN__CANDIDATES
  [retrain.gate]
  minimum_gain = 0.01                      # DRIFTLOOP_RETRAIN__GATE__MINIMUM_GAIN
  A relative path in the file starts in the folder where the command is run, as in a variable.
"""

MARKS = {"ok": "✓", "note": "•", "missing": "✗"}


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    summary = "report missing prerequisites and how to get them"
    verb = verbs.add("doctor", run, summary, DESCRIPTION, MORE, stack_options(settings_file=False))
    verb.add_argument(
        "--settings", metavar="FILE", nargs="?", const="", help="list all settings instead, with the values from FILE"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings or the settings. Return 1 if a prerequisite is missing."""
    environ = StackOptions.of(arguments).environ()
    if arguments.settings is not None:
        _list_settings(environ)
        return 0
    return 1 if _report_findings(environ) else 0


def _list_settings(environ: Mapping[str, str]) -> None:
    from driftloop.cli import diagnostics
    from driftloop.core import settings_source

    for setting in diagnostics.list_settings(settings_source.load(environ)):
        default = "" if setting.value == setting.default else f"   (default {setting.default or 'empty'})"
        write(f"{setting.variable}={setting.value}{default}")
        if setting.about:
            write(f"    {setting.about}")


def _report_findings(environ: Mapping[str, str]) -> bool:
    """Print one line per finding and return True if a prerequisite is missing."""
    from driftloop.cli import diagnostics

    missing = False
    for finding in diagnostics.examine(environ, Path("runs")):
        write(f"{MARKS[finding.status]} {finding.name}: {finding.detail}")
        if finding.remedy:
            write(f"    → {finding.remedy}")
        missing = missing or finding.status == "missing"
    write("Something is missing." if missing else "`driftloop simulate` can run here.")
    return missing
