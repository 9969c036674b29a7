"""Candidates with one fault each."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from driftloop.core.models.bundle import SIGNATURE
from retrain.candidates.base import CannotFit, Task
from retrain.candidates.linear import LinearHead
from retrain.training_window import TrainingWindow


class Nameless(LinearHead):
    name = ""


class Unsigned(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        super().fit(window, task, out)
        (out / SIGNATURE).write_text("0" * 64)


class Forgetful(LinearHead):
    """Learns two of the three classes."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        super().fit(window.take([i for i, one in enumerate(window.labels) if one != "neutral"], 0), task, out)


class Homeless(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        lineage = msgspec.structs.replace(task.lineage, trigger="made up")
        super().fit(window, replace(task, lineage=lineage), out)


class Guessing(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        labels = list(window.labels)
        random.Random(1).shuffle(labels)
        super().fit(replace(window, labels=tuple(labels)), task, out)


class Fickle(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        random.seed()
        rows = sorted(random.sample(range(len(window)), len(window) * 3 // 4))
        super().fit(window.take(rows, 0), task, out)


class Eager(LinearHead):
    """Fits windows that it should refuse."""

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        try:
            super().fit(window, task, out)
        except CannotFit:
            out.mkdir()


class Untidy(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        try:
            super().fit(window, task, out)
        except CannotFit:
            out.mkdir()
            raise


class Squeamish(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        if "rare" in window.classes:
            raise KeyError("rare")
        super().fit(window, task, out)


class Boastful(LinearHead):
    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        return True


class Undecided(LinearHead):
    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool | None:
        return None


class Slow(LinearHead):
    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        time.sleep(600)
