"""Atomic and private writes of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ANY_USER, THIS_USER = 0o666, 0o600
"""Modes of new files; the process's umask takes rights away."""


def write_atomic(file: Path, body: bytes, mode: int = ANY_USER) -> None:
    """Write a file completely or not at all: readers see the old content or the new one.

    Args:
        file: The file. Its folder exists.
        body: The new content.
        mode: Access rights before the umask.

    Raises:
        OSError: The file cannot be written. The old one is unchanged.
    """
    with (
        atomic_path(file) as scratch,
        os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream,
    ):
        stream.write(body)


def write_private(file: Path, body: bytes) -> None:
    """Write a file that only this user can read, completely or not at all. Its folder is created.

    Args:
        file: The file.
        body: The new content.

    Raises:
        OSError: The file cannot be written. The old one is unchanged.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(file, body, THIS_USER)


@contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``file`` after the block; if the block raises, it is removed.

    Use it where a library writes to a path; otherwise `write_atomic`.
    """
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield scratch
        scratch.replace(file)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Make ``target`` a hard link to ``source``, or a copy if the file system has no hard links.

    Args:
        source: Existing file.
        target: File to create.
    """
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
