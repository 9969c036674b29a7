"""The candidates by name. A candidate's packages are imported when it is asked for, not before."""

from __future__ import annotations

from typing import Any

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from retrain.candidates.base import Candidate

CANDIDATES: dict[str, str] = {
    "linear": "retrain.candidates.linear:LinearHead",
    "tpot": "retrain.candidates.tpot_search:TpotSearch",
    "finetune": "retrain.candidates.finetune:FineTune",
}
QUICK = frozenset({"linear"})
"""Those of them that are waited for; the worker never imports the others."""


def find(name: str) -> Candidate:
    """The candidate called ``name`` here or in an installed package, or the one that ``module:Class`` names.

    Raises:
        DriftloopError: there is no such candidate, or its packages are not installed.
    """
    if name not in CANDIDATES and ":" not in name and name not in plugins.names("candidates"):
        known = ", ".join((*CANDIDATES, *plugins.names("candidates")))
        raise DriftloopError(f"There is no candidate called {name}: choose from {known}, or give module:Class.")
    return make_custom(plugins.find("candidates", CANDIDATES.get(name, name)), name)


def make_custom(cls: Any, name: str) -> Candidate:
    """A candidate of the class ``cls``, which is called without arguments.

    Raises:
        DriftloopError: it cannot be made, or lacks what a candidate has.
    """
    try:
        candidate = cls()
    except Exception as error:  # a stranger's code
        raise DriftloopError(
            f"The candidate {name} cannot be made ({type(error).__name__}: {error}): it is called without arguments; "
            "see that what it needs is installed."
        ) from error
    if not isinstance(candidate, Candidate):
        raise DriftloopError(f"{name} is not a candidate: it needs a name, quick, fit, rescue and refit.")
    return candidate


def is_quick(name: str) -> bool:
    """Whether the candidate is waited for; one that cannot be imported is not: its own process says what is wrong."""
    if name in CANDIDATES:
        return name in QUICK
    try:
        return find(name).quick
    except DriftloopError:
        return False
