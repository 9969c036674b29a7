"""A candidate: the nearest class mean in the encoder's space, as a head on it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import Head
from retrain.candidates.base import CannotFit, Task
from retrain.training_window import TrainingWindow

FEWEST = 20
SHRINKAGE = 0.5


class ClassMeans:
    """Linear discriminant analysis on the embeddings, with the covariance drawn half-way to a multiple of one."""

    name = "class-means"
    quick = True

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Learn from all rows of the window alike, and write the bundle."""
        if len(window) < FEWEST:
            raise CannotFit(f"{len(window)} labelled events are fewer than {FEWEST}")
        if len(window.classes) < 2:
            raise CannotFit(f"all {len(window)} labels are {window.classes[0]!r}")
        estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
        head = Head(estimator.fit(window.embeddings, np.asarray(window.labels)))
        write_bundle(
            out,
            encoder=OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores),
            head=head,
            labels=head.classes,
            lineage=msgspec.structs.replace(task.lineage, parameters={"shrinkage": SHRINKAGE}),
            key=task.signing_key,
        )

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Fit on all of the window: there is no recipe to be kept but the shrinkage."""
        self.fit(window, task, out)
        return True

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Nothing is kept half-way: it takes less than a second."""
        return False
