"""Command line of the benchmarks: exit status, and results as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from driftloop.core.errors import DriftloopError


def exit_status(run: Callable[[], object]) -> int:
    """Run a benchmark and return its exit status. A `DriftloopError` becomes one line on standard error."""
    try:
        run()
    except DriftloopError as error:
        print(f"driftloop: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def save_json(path: Path | None, measured: Any) -> None:
    """Write results as JSON.

    Args:
        path: File to write. None writes nothing.
        measured: Structs, or lists and dictionaries of them.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1))
