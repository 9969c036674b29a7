"""The candidates by name. A candidate's packages are imported when it is asked for, not before."""

from __future__ import annotations

import importlib

from driftloop.errors import DriftloopError
from retrain.candidates.base import Candidate

CANDIDATES: dict[str, str] = {
    "linear": "retrain.candidates.linear:LinearHead",
    "tpot": "retrain.candidates.tpot:TpotSearch",
    "finetune": "retrain.candidates.finetune:FineTune",
}
QUICK = frozenset({"linear"})
"""Those of them that are waited for; the worker never imports the others."""


def find(name: str) -> Candidate:
    """The candidate called ``name``, or the one that ``module:Class`` names.

    Raises:
        DriftloopError: there is no such candidate, or its packages are not installed.
    """
    module, _, attribute = CANDIDATES.get(name, name).partition(":")
    if not attribute:
        raise DriftloopError(
            f"There is no candidate called {name}: choose from {', '.join(CANDIDATES)}, or give module:Class."
        )
    try:
        candidate = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise DriftloopError(
            f"The candidate {name} cannot be used ({error}): install what it needs with `uv sync --extra retrain`."
        ) from error
    if not isinstance(candidate, Candidate):
        raise DriftloopError(f"{name} is not a candidate: it needs a name, fit, rescue and refit.")
    return candidate


def is_quick(name: str) -> bool:
    """Whether the candidate is waited for; one that cannot be imported is not: its own process says what is wrong."""
    if name in CANDIDATES:
        return name in QUICK
    try:
        return find(name).quick
    except DriftloopError:
        return False
