"""Values of untyped JSON: the evidence of alerts and the scores of retrainings."""

from __future__ import annotations

from typing import Any


def as_whole_number(value: Any) -> int:
    """Return a whole number; -1 if it is none."""
    return value if isinstance(value, int) else -1


def as_number(value: Any) -> float | None:
    """Return a number; `None` if it is none or too large."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e12 else None


def as_objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; empty if the value is no list."""
    return [one for one in as_list(value) if isinstance(one, dict)]


def as_list(value: Any) -> list[Any]:
    """Return a list; empty if the value is none."""
    return list(value) if isinstance(value, list | tuple) else []
