"""Files that nobody else on this machine can read."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(file: Path, body: bytes) -> None:
    """Write a file that only this user can read, whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = file.with_suffix(".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(body)
    scratch.replace(file)
