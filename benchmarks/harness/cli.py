"""How a benchmark ends that is run by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

from driftloop.core.errors import DriftloopError


def exit_status(run: Callable[[], object]) -> int:
    """0 when ``run`` has come to its end; what does not fit is one sentence on standard error, and its status."""
    try:
        run()
    except DriftloopError as error:
        print(f"driftloop: {error}", file=sys.stderr)
        return error.exit_code
    return 0
