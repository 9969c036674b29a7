"""TPOT: a genetic search for a scikit-learn pipeline over embeddings and the principal directions of the words.

Olson et al., "Evaluation of a tree-based pipeline optimization tool for automating data science" (GECCO 2016);
Ribeiro et al., "TPOT2" (GPTP 2024). Only pipelines are searched that a bundle may carry: see
`driftloop.core.models.head.TRUSTED`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import skops.io
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from tpot import TPOTEstimator

from driftloop.core.files import atomic_path, write_atomic
from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import TRUSTED, Head, load_head, stack_columns
from retrain.candidates import dask_evaluation
from retrain.candidates import training_rows as choice
from retrain.candidates.base import CannotFit, Task
from retrain.candidates.dask_evaluation import EvaluationData
from retrain.candidates.tfidf import fit_tfidf
from retrain.candidates.tpot_search_space import search_space
from retrain.training_window import TrainingWindow

log = logging.getLogger(__name__)

MAX_ROWS = 2500
"""Rows that pipelines are compared on: more make each comparison slower and the search shorter."""
WORD_DIRECTIONS = 50
POPULATION = 16
GENERATIONS = 40
RESERVE = 0.15
"""Share of the budget that is kept for fitting the winner on all rows and writing the bundle."""
LOSS_LIMIT_FACTOR = 1.5
"""A pipeline that loses so many times as much on a fold as a plain logistic regression is not tried on the others."""
BEST = "best.skops"
BEST_SCORE = "best.json"


class TpotSearch:
    """The pipeline with the least log loss on the newest rows.

    A search that ends by its generations is the same again for the same seed; one that ends by its time is not.
    """

    name = "tpot"
    quick = False

    def __init__(self, generations: int = GENERATIONS, population: int = POPULATION) -> None:
        self.generations = generations
        self.population = population
        self.progress: Callable[[str], None] = lambda text: None

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Search until the time or the generations run out and write the winner; see `Candidate.fit`."""
        deadline = time.monotonic() + task.budget.seconds * (1 - RESERVE)
        choice.require_learnable(window)
        task.scratch.mkdir(parents=True, exist_ok=True)
        search = Search.prepare(window, task, deadline, self.progress)
        search.warm_start(task.warm_start)
        _evolve(search, self.population, self.generations, task)
        if search.best is None:
            raise CannotFit(f"TPOT finished no pipeline within {task.budget.seconds:.0f} s")
        _write(search.best, search.parameters(), window, search.old_share, task, out)

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Fit the best pipeline that the killed search had found; see `Candidate.rescue`."""
        try:
            parameters = json.loads((task.scratch / BEST_SCORE).read_text(encoding="utf-8"))
            pipeline = skops.io.load(task.scratch / BEST, sorted(TRUSTED))
        except (OSError, ValueError):
            return False
        _write(pipeline, parameters, window, float(parameters["old_share"]), task, out)
        return True

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """It would take too long."""
        return False


@dataclass
class Search:
    """What pipelines are compared on, and the best of them so far."""

    data: EvaluationData
    old_share: float
    deadline: float
    scratch: Path
    progress: Callable[[str], None]
    best: Any = None
    best_loss: float = float("inf")
    evaluated: int = 0
    warm_started: int = 0
    """Of those evaluated, how many came from earlier searches."""
    workers: int = 1
    """Pipelines that could be compared at the same time when the search began."""

    @classmethod
    def prepare(cls, window: TrainingWindow, task: Task, deadline: float, progress: Callable[[str], None]) -> Search:
        """Choose the rows and the folds, and compute the features once."""
        old_share = choice.choose_old_weight(window)
        rows = choice.sample_rows(window, old_share, MAX_ROWS, task.budget.seed)
        part = window.take(rows.tolist(), onset=int((rows < window.onset).sum()))
        _, columns, matrix = _features(part, task.budget.seed)
        features = columns.fit_transform(matrix).astype(np.float32)
        labels = np.asarray(part.labels)
        folds = choice.forward_folds(part.labels, part.onset)
        # Not measured by the best so far: so it does not matter in which order the workers answer, and a search is the
        # same again on any number of them.
        common = choice.fold_losses(lambda: LogisticRegression(C=3.0, max_iter=100, tol=1e-3), features, labels, folds)
        ground = EvaluationData(features, labels, folds, [LOSS_LIMIT_FACTOR * loss for loss in common])
        return cls(ground, old_share, deadline, task.scratch, progress)

    def warm_start(self, heads: Sequence[Path]) -> None:
        """Compare the pipelines that earlier searches ended with: this one ends with none that is worse here."""
        for path in reversed(heads):
            try:
                steps = load_head(path).estimator.named_steps
                pipeline = clone(steps["pipeline"])
            except Exception as error:  # skops and zipfile raise types of their own
                log.warning("the pipeline of an earlier search cannot be used (%s)", error)
                continue
            [score] = dask_evaluation.minus_log_loss(pipeline, self.data, (self.deadline - time.monotonic()) / 2)
            if score != "INVALID":
                self.warm_started += 1
                self.record(pipeline, -score)

    def record(self, pipeline: Any, loss: float) -> None:
        """Take note of the loss of an unfitted pipeline, in nats per row, and keep the best for a rescue."""
        self.evaluated += 1
        if (loss, _in_words(pipeline)) < (self.best_loss, _in_words(self.best)):
            self._keep(pipeline, loss)

    def parameters(self) -> dict[str, Any]:
        """What the lineage says about the search."""
        return {
            "pipeline": _in_words(self.best),
            "validation_log_loss": round(self.best_loss, 4),
            "pipelines_compared": self.evaluated,
            "earlier_pipelines": self.warm_started,
            "workers": self.workers,
            "old_share": self.old_share,
            "rows_compared_on": len(self.data.labels),
            "folds": len(self.data.folds),
        }

    def _keep(self, pipeline: Any, loss: float) -> None:
        self.best, self.best_loss = clone(pipeline), loss
        # The score is written last and names the file that is whole.
        with atomic_path(self.scratch / BEST) as unfinished:
            skops.io.dump(self.best, unfinished)
        write_atomic(self.scratch / BEST_SCORE, json.dumps(self.parameters()).encode())
        self.progress(f"tpot: pipeline {self.evaluated}, log loss {loss:.3f}, {_in_words(pipeline)}")


def _evolve(search: Search, population: int, generations: int, task: Task) -> None:
    """Run TPOT's evolution until its end or the deadline, here or on the workers of the task's Dask cluster.

    Raises:
        DriftloopError: the cluster cannot be used.
        Interrupted: its scheduler was lost.
    """
    with dask_evaluation.open_workers(task.dask, search.data, search.deadline, search.record) as workers:
        search.workers = len(workers.workers)
        left = max(search.deadline - time.monotonic(), 1.0) / 60
        features, labels = search.data.features, search.data.labels
        estimator = TPOTEstimator(
            search_space=search_space(len(labels), features.shape[1], task.budget.seed),
            scorers=[],
            scorers_weights=[],
            other_objective_functions=[dask_evaluation.minus_log_loss],
            other_objective_functions_weights=[1],
            objective_function_names=["minus_log_loss"],
            classification=True,
            disable_label_encoder=True,
            cv=2,
            population_size=population,
            generations=generations,
            max_time_mins=left,
            max_eval_time_mins=left,
            client=workers,
            random_state=task.budget.seed,
            verbose=0,
        )
        # TPOT's rows are only those of its last fit, which is not used: `Search` holds the data and the winner.
        with contextlib.suppress(Exception):
            estimator.fit(features[:50], labels[:50])
        workers.check()


def _features(window: TrainingWindow, seed: int) -> tuple[TfidfVectorizer | None, ColumnTransformer, Any]:
    """The vectorizer, the step that makes its columns dense, and the sparse matrix (n, d + v) that goes into it."""
    size = window.embeddings.shape[1]
    embeddings = ("embedding", "passthrough", slice(0, size))
    read = fit_tfidf(window.texts)
    if read is None or read[1].shape[1] < 2:  # one word is no direction
        return None, ColumnTransformer([embeddings]), window.embeddings
    vectorizer, words = read
    directions = TruncatedSVD(min(WORD_DIRECTIONS, words.shape[1] - 1), random_state=seed)
    columns = ColumnTransformer([embeddings, ("words", directions, slice(size, None))], sparse_threshold=0)
    return vectorizer, columns, stack_columns(window.embeddings, words)


def _write(
    pipeline: Any, parameters: dict[str, Any], window: TrainingWindow, old_share: float, task: Task, out: Path
) -> None:
    """Fit ``pipeline`` on every row that counts and write the bundle."""
    rows = choice.sample_rows(window, old_share, max(len(window), 1), task.budget.seed)
    part = window.take(rows.tolist())
    vectorizer, columns, matrix = _features(part, task.budget.seed)
    estimator = Pipeline([("columns", columns), ("pipeline", clone(pipeline))])
    estimator.fit(matrix, np.asarray(part.labels))
    head = Head(estimator, vectorizer)
    write_bundle(
        out,
        encoder=OnnxEncoder(window.encoder, task.model.max_tokens, task.budget.cores),
        head=head,
        labels=head.classes,
        lineage=msgspec.structs.replace(task.lineage, parameters={**parameters, "rows_fitted_on": len(part)}),
        key=task.signing_key,
    )


def _in_words(pipeline: Any) -> str:
    """One line such as `StandardScaler -> LogisticRegression(C=2.1)`."""
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
    return " -> ".join(" ".join(str(step).split()) for step in steps)
