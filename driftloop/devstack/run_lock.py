"""Lock of a run directory, so that two stacks never use the same data."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from driftloop.core.errors import DriftloopError

LOCK = ".lock"
PATIENCE = 20.0
"""Seconds to wait for the services of a killed parent, which hold the lock until they have ended."""


def lock_root(root: Path, minimum_free: int) -> int:
    """Make a run directory if it is missing, and lock it.

    Child processes inherit the lock. It is released when every descriptor of it is closed.

    Args:
        root: The run directory.
        minimum_free: Bytes that must be free.

    Returns:
        The file descriptor that holds the lock.

    Raises:
        DriftloopError: the directory is not usable, has too little space, or is in use.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DriftloopError(f"{root} cannot be used as a run directory: {error.strerror}.") from error
    try:
        if free < minimum_free:
            raise DriftloopError(
                f"Only {free // 2**20} MB are free under {root}: driftloop needs at least {minimum_free // 2**20} MB; "
                "make room or choose another folder."
            )
        _lock(descriptor, root)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, root: Path) -> None:
    """Lock the file and write the id of this process into it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            owner = int(os.pread(descriptor, 20, 0) or b"0")
            if owner == 0 or _is_alive(owner) or time.monotonic() > deadline:
                raise DriftloopError(
                    f"{root} is in use by another driftloop (process {owner}): stop that one or choose another folder."
                ) from None
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
