"""`driftloop init`: a project of the user's own data, and what to run next."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from driftloop.cli.options import SCENARIO, SETTINGS, terminate_as_interrupt, write
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import escape_control_chars

SHOWN = 10
"""Labels that are named."""


def init(arguments: argparse.Namespace) -> int:
    """Look at the data, write the project, and print the commands to run next."""
    from producers.data import project_scaffold
    from producers.scenarios.scenario_schema import DatasetSpec

    terminate_as_interrupt()
    folder = Path(arguments.folder).expanduser()
    if folder.exists() or folder.is_symlink():  # before a long file is read
        raise DriftloopError(f"{folder} is there already: choose another folder, nothing is overwritten.")
    spec = DatasetSpec(
        text=arguments.text, label=arguments.label, segment=arguments.segment, encoding=arguments.encoding
    )
    chosen = project_scaffold.plan(Path(arguments.data).expanduser(), spec, arguments.rate)
    project_scaffold.write(chosen, folder, SCENARIO, SETTINGS)
    labels = ", ".join(escape_control_chars(label, 40) for label in chosen.labels[:SHOWN])
    more = f" and {len(chosen.labels) - SHOWN} more" if len(chosen.labels) > SHOWN else ""
    write(f"{folder}: {chosen.rows} texts with {len(chosen.labels)} labels ({labels}{more}).")
    write(f"The first {chosen.bootstrap} train the first model; a label comes {chosen.delay} events after its event.")
    for note in chosen.notes:
        write(f"note: {note}")
    quoted = shlex.quote(str(folder))
    settings = shlex.quote(str(folder / SETTINGS))
    write("")
    write("Next:")
    write(f"  driftloop simulate {quoted}")
    write(f"  driftloop simulate {quoted} --rate max --limit {min(chosen.rows, 3 * chosen.bootstrap)}")
    write(f"  driftloop doctor --settings {settings}")
    write("The first is short for")
    write(f"  driftloop simulate {shlex.quote(str(folder / SCENARIO))} --settings {settings}")
    return 0
