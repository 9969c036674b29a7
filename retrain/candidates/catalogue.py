"""Catalogue of candidates by name. The packages of a candidate are imported when it is looked up, not before."""

from __future__ import annotations

from typing import Any

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import RetrainSettings
from retrain.candidates.base import Candidate

CANDIDATES: dict[str, str] = {
    "linear": "retrain.candidates.linear:LinearHead",
    "mixture": "retrain.candidates.mixture_fit:MixtureFit",
    "tpot": "retrain.candidates.tpot_search:TpotSearch",
    "finetune": "retrain.candidates.finetune:FineTune",
}
QUICK = frozenset({"linear", "mixture"})
"""Built-in candidates that the worker waits for. It never imports the other ones."""


def find(name: str) -> Candidate:
    """Make the candidate of this name: built in, from an installed package, or given as ``module:Class``.

    Raises:
        DriftloopError: The candidate does not exist, or its packages are not installed.
    """
    if name not in CANDIDATES and ":" not in name and name not in plugins.names("candidates"):
        known = ", ".join((*CANDIDATES, *plugins.names("candidates")))
        raise DriftloopError(f"There is no candidate {name}. Choose from {known}, or give module:Class.")
    return make_custom(plugins.find("candidates", CANDIDATES.get(name, name)), name)


def make_custom(cls: Any, name: str) -> Candidate:
    """Make a candidate of a class.

    Args:
        cls: Class of the candidate. It is called without arguments.
        name: Name of the candidate in error messages.

    Raises:
        DriftloopError: The class cannot be made, or is not a candidate.
    """
    try:
        candidate = cls()
    except Exception as error:  # code of the user may raise anything
        raise DriftloopError(
            f"The candidate {name} cannot be made ({type(error).__name__}: {error}). Let it take no arguments, and "
            "install the packages that it needs."
        ) from error
    if not isinstance(candidate, Candidate):
        raise DriftloopError(f"{name} is not a candidate. Give it `name`, `quick`, `fit`, `rescue` and `refit`.")
    return candidate


def budget_seconds(name: str, settings: RetrainSettings, lasted: float = 0.0) -> float:
    """Return the time limit of a candidate. One of the user's own has that of fine-tuning.

    Args:
        name: Name of the candidate.
        settings: The [retrain] settings.
        lasted: Seconds that the concept has lasted.
    """
    seconds = {"linear": settings.linear_seconds, "tpot": settings.tpot_seconds}
    return seconds.get(name, max(settings.finetune_seconds, settings.finetune_share * lasted))


def is_quick(name: str) -> bool:
    """Return True if the worker waits for the candidate.

    A candidate that cannot be imported is not waited for: its own process reports the error.
    """
    if name in CANDIDATES:
        return name in QUICK
    try:
        return find(name).quick
    except DriftloopError:
        return False
