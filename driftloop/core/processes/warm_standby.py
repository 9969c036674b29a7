"""Warm standby process: it imports the modules of a program, waits, and becomes the program when told.

`driftloop.core.processes.supervisor.ManagedProcess` starts it:
``python -m driftloop.core.processes.warm_standby FD MODULES -m PROGRAM ARGUMENTS...``. Commas separate the modules. One
byte on the file descriptor starts the program. End of file, after the death of the parent, ends the process.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib import import_module


def main() -> None:
    """Import the modules, wait, and run the program."""
    pipe, modules, program, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[4], sys.argv[5:]
    for module in modules.split(","):
        import_module(module)
    start = os.read(pipe, 1)
    os.close(pipe)
    if start:
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
