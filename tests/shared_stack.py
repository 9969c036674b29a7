"""One embedded stack for all workers of a test run.

The first worker that needs it starts a process that owns it. That process stops the stack when the last worker has
left, however it left: each worker holds a shared lock, which the owner waits to take for itself.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from driftloop.devstack.stack import EmbeddedStack


@contextmanager
def joined(root: Path) -> Iterator[EmbeddedStack]:
    """Join the stack under ``root``, started if need be. Its services must not be stopped or frozen."""
    root.mkdir(exist_ok=True)
    with _open(root, "door") as door, _open(root, "users") as users:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not _ready(root).exists():
            owner = [sys.executable, "-m", "tests.shared_stack", str(root)]
            with _open(root, "log") as log:
                process = subprocess.Popen(
                    owner, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while not _ready(root).exists():
                assert process.poll() is None, f"the stack did not start: {(root / 'log').read_text()}"
                time.sleep(0.05)
        fcntl.flock(door, fcntl.LOCK_UN)
        stack = EmbeddedStack(root / "stack")
        stack.ports.update(json.loads(_ready(root).read_text()))
        yield stack


def _open(root: Path, name: str) -> IO[str]:
    return (root / name).open("a")


def _ready(root: Path) -> Path:
    return root / "ports.json"


def main() -> None:
    """Start the stack, and stop it when nobody holds the lock of its users."""
    root = Path(sys.argv[1])
    with (
        EmbeddedStack(root / "stack", progress=print) as stack,
        _open(root, "door") as door,
        _open(root, "users") as users,
    ):
        written = root / "ports.new"
        written.write_text(json.dumps(stack.ports))
        written.rename(_ready(root))
        while True:
            fcntl.flock(users, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_UN)
            fcntl.flock(door, fcntl.LOCK_EX)  # nobody joins now
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(door, fcntl.LOCK_UN)
                continue
            _ready(root).unlink()
            return


if __name__ == "__main__":
    main()
