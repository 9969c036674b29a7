"""Candidate interface: a way to learn a model from a window within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from driftloop.core.models.bundle import Lineage
from driftloop.core.settings import ModelSettings
from retrain.training_window import TrainingWindow


@dataclass(frozen=True)
class Budget:
    """Resources of a fit."""

    seconds: float
    """Wall-clock limit. `retrain.fitting.sandbox` kills a child process that exceeds it by more than a grace period."""
    cores: int = 1
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a fit needs besides the window; small enough to send to a child process."""

    budget: Budget
    model: ModelSettings
    lineage: Lineage
    """Lineage to sign into the bundle. The candidate adds its own `parameters`."""
    signing_key: str
    scratch: Path
    """Folder for checkpoints. Only its content survives if the fit is killed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that a network is trained on. `auto` uses a GPU if there is one."""
    dask: str = ""
    """Address of the Dask scheduler whose workers evaluate pipelines; empty for this process."""
    warm_start: tuple[Path, ...] = ()
    """Files of the heads that earlier fits of this candidate produced, newest last. A search may start from them."""


class CannotFit(Exception):
    """The window does not allow this candidate. The text is the reason of its rejection."""


class Interrupted(Exception):
    """An outside cause ended the fit; the text names it. The best result so far is rescued if there is one."""


@runtime_checkable
class Candidate(Protocol):
    """Learns a model from a window; `retrain.candidates.checks` has the checks that every candidate passes."""

    name: str
    quick: bool
    """True if a fit takes seconds. The worker waits for quick candidates, and runs the others in the background."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Learn from the window and write a bundle.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle. It does not exist yet.

        Raises:
            CannotFit: The window does not allow it, for example one class only or too few rows.
            DriftloopError: The settings do not allow it, for example no such device or no scheduler at the address.
            Interrupted: A resource was lost during the fit.
        """
        ...

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Write the best bundle so far from ``task.scratch``, after a fit was killed.

        Args:
            window: Window of the fit.
            task: Task of the fit.
            out: Folder of the bundle. It does not exist yet.

        Returns:
            False if there is nothing to rescue; then nothing is written.
        """
        ...

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit the recipe of a winner on a larger window.

        Args:
            window: All rows of the retraining, the held-out ones included.
            fitted: Bundle of the winner.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle. It does not exist yet.

        Returns:
            False if a refit would take long; then nothing is written.
        """
        ...
