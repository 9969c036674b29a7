"""Where the benchmarks put what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


def save(path: Path | None, measured: Any) -> None:
    """Write structs as JSON, unless no file is wanted."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1))
