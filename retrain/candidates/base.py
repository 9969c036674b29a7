"""What a candidate is: a way to learn a model from a window within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from driftloop.core.models.bundle import Lineage
from driftloop.core.settings import ModelSettings
from retrain.training_window import TrainingWindow


@dataclass(frozen=True)
class Budget:
    """What a fit may use."""

    seconds: float
    """Wall-clock limit; `retrain.fitting.sandbox` kills the child process that overruns it by more than a grace period."""
    cores: int = 1
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything a fit needs besides the window; small enough to send to a child process."""

    budget: Budget
    model: ModelSettings
    lineage: Lineage
    """The lineage to sign into the bundle; the candidate adds its own `parameters`."""
    signing_key: str
    scratch: Path
    """A folder for checkpoints; what is in it when the budget ends is all that is kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a network is trained; auto: on a GPU where there is one."""
    dask: str = ""
    """Address of the Dask scheduler whose workers compare pipelines; empty: this process does."""
    warm_start: tuple[Path, ...] = ()
    """Files of heads that earlier fits of this candidate ended with, the newest last: a search may begin with them."""


class CannotFit(Exception):
    """The window does not allow this candidate; the text says why, and becomes the reason of its rejection."""


class Interrupted(Exception):
    """Something outside ended the fit; the text says what. The best so far is rescued where there is one."""


@runtime_checkable
class Candidate(Protocol):
    """A way to learn; `retrain.candidates.checks` has the checks that each of them passes."""

    name: str
    quick: bool
    """Fitted in seconds: competes at once, before the searches begin."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Learn from the window and write a bundle into the folder ``out``, which does not exist yet.

        Raises:
            CannotFit: the window does not allow it (one class only, too few rows).
            DriftloopError: the settings do not allow it (no such device, no scheduler at that address).
            Interrupted: what it needed was lost in the middle.
        """
        ...

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Write the best bundle so far from ``task.scratch`` after the fit was killed; False where there is none."""
        ...

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit the recipe that won with ``fitted`` on all of ``window``; False where that would take long."""
        ...
