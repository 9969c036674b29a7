"""A candidate: the nearest class mean in the encoder's space, as a head on it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from driftloop.classifiers.bundle import write_bundle
from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.classifiers.heads import Head
from retrain.candidates.base import CannotFit, Task
from retrain.window import Window

FEWEST = 20
SHRINKAGE = 0.5


class ClassMeans:
    """Linear discriminant analysis on the embeddings, with the covariance drawn half-way to a multiple of one."""

    name = "class-means"
    quick = True

    def fit(self, window: Window, task: Task, out: Path) -> None:
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

    def refit(self, window: Window, fitted: Path, task: Task, out: Path) -> bool:
        """Fit on all of the window: there is no recipe to be kept but the shrinkage."""
        self.fit(window, task, out)
        return True

    def rescue(self, window: Window, task: Task, out: Path) -> bool:
        """Nothing is kept half-way: it takes less than a second."""
        return False
