"""`driftloop audit`: checks on the topics that every event was answered exactly once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from driftloop.cli.arguments import Verbs, add_json, add_run, stack_options
from driftloop.cli.options import StackOptions, find_settings, terminate_as_interrupt
from driftloop.cli.output import write, write_json, write_progress

if TYPE_CHECKING:
    from serving.audit.audit import Audit

DESCRIPTION = """\
Reads the topics once and checks, by key, that every event has exactly one prediction or one dead letter. The verdict is
ALL-RECORDS-DELIVERED, PROCESSED-LESS or PROCESSED-MORE, with counts and the first event ids that violate it. The audit
also compares labels with outcomes, the counts of the detectors, the store, and the lineage of every model. It may run
while the loop is running and during any fault: an event that is not acknowledged yet counts as in flight, not as lost.
A simulation that is running on this machine is found automatically.

reads   events, predictions, labels, outcomes, dead-letters, model-updates, committed offsets; Redis; MLflow
writes  nothing except a temporary file
"""

MORE = """
examples
  driftloop audit                            of the simulation on this machine
  driftloop audit --kafka broker:9092 --redis redis://cache:6379/0 --mlflow http://mlflow:5000
  driftloop audit --json | jq .verdict       for programs
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("audit", run, "check that every event was answered once", DESCRIPTION, MORE, stack_options())
    add_json(verb)
    add_run(verb)


def run(arguments: argparse.Namespace) -> int:
    """Print the audit. Return 1 if it has a finding or something could not be checked."""
    from serving.audit.audit import audit

    terminate_as_interrupt()
    found = audit(find_settings(StackOptions.of(arguments), arguments.run), write_progress)
    if arguments.json:
        write_json(found)
    else:
        _show(found)
    return 0 if found.clean else 1


def _show(found: Audit) -> None:
    counts = found.counts
    in_flight = f", {counts['waiting']} in flight" if counts["waiting"] else ""
    write(
        f"{found.verdict}: {counts['events']} events, {counts['predictions']} predictions, "
        f"{counts['dead_letters']} dead letters{in_flight}; {counts['labels']} labels, {counts['outcomes']} outcomes"
    )
    predictions = counts["prediction_messages"] - counts["predictions"]
    outcomes = counts["outcome_messages"] - counts["outcomes"]
    write(f"  duplicate messages: {predictions} predictions, {outcomes} outcomes")
    for finding in found.findings:
        first = f" (first: {', '.join(finding.first)})" if finding.first else ""
        write(f"  {finding.kind}: {finding.count} {finding.what}{first}")
    for reason in found.unchecked:
        write(f"  not checked: {reason}")
