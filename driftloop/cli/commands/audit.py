"""`driftloop audit`: the ledger in words."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from driftloop.cli.commands.case import write_json
from driftloop.cli.options import find_settings, terminate_as_interrupt, write
from driftloop.core.terminal_text import escape_control_chars

if TYPE_CHECKING:
    from serving.audit.audit import Audit


def audit(arguments: argparse.Namespace) -> int:
    """Print the ledger; 1 where something is wrong or could not be looked at."""
    from serving.audit.audit import audit as compare

    terminate_as_interrupt()
    found = compare(find_settings(arguments), _progress)
    if arguments.json:
        write_json(found)
    else:
        _show(found)
    return 0 if found.clean else 1


def _show(found: Audit) -> None:
    counts = found.counts
    on_its_way = f", {counts['waiting']} on their way" if counts["waiting"] else ""
    write(
        f"{found.verdict}: {counts['events']} events, {counts['predictions']} predictions, "
        f"{counts['dead_letters']} dead letters{on_its_way}; {counts['labels']} labels, {counts['outcomes']} outcomes"
    )
    twice = counts["prediction_messages"] - counts["predictions"]
    write(f"  on the wire: {twice} predictions and {counts['outcome_messages'] - counts['outcomes']} outcomes twice")
    for finding in found.findings:
        first = f" (first: {', '.join(finding.first)})" if finding.first else ""
        write(f"  {finding.kind}: {finding.count} {finding.what}{first}")
    for reason in found.unchecked:
        write(f"  not looked at: {reason}")


def _progress(line: str) -> None:
    sys.stderr.write(escape_control_chars(line) + "\n")
    sys.stderr.flush()
