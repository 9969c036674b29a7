"""A process in waiting: it loads the modules of another and becomes it when told, without the seconds that takes.

Run by `driftloop.core.processes.supervisor.ManagedProcess`: ``python -m driftloop.core.processes.warm_standby FD MODULES -m PROGRAM
ARGUMENTS...``, modules with commas between them. One byte on the file descriptor is the word to go on; its end of file,
which comes when the parent is gone, that there is nothing to wait for.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib import import_module


def main() -> None:
    """Load, wait, and be the program."""
    told, modules, program, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[4], sys.argv[5:]
    for module in modules.split(","):
        import_module(module)
    word = os.read(told, 1)
    os.close(told)
    if word:
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
