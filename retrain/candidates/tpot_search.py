"""TPOT candidate: a genetic search for a scikit-learn pipeline on principal components of embeddings and words.

Olson et al., "Evaluation of a tree-based pipeline optimization tool for automating data science" (GECCO 2016);
Ribeiro et al., "TPOT2" (GPTP 2024). The search space has only pipelines that a bundle may contain; see
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
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from tpot import TPOTEstimator

from driftloop.core.files import atomic_path, write_atomic
from driftloop.core.models.bundle import write_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.head import TRUSTED, Head, load_head, stack_columns
from retrain.candidates import dask_evaluation, training_rows
from retrain.candidates.base import CannotFit, Task
from retrain.candidates.dask_evaluation import EvaluationData
from retrain.candidates.tfidf import fit_tfidf
from retrain.candidates.tpot_search_space import search_space
from retrain.training_window import TrainingWindow

log = logging.getLogger(__name__)

MAX_ROWS = 2500
"""Rows that pipelines are compared on. More rows make each comparison slower, so fewer pipelines are tried."""
EMBEDDING_COMPONENTS = 128
"""Principal components of the embeddings. A pipeline on them takes a quarter of the time, so more are tried."""
WORD_COMPONENTS = 50
"""Principal components of the TF-IDF columns."""
POPULATION = 16
GENERATIONS = 40
RESERVE = 0.15
"""Share of the budget that is reserved for fitting the winner on all rows and writing the bundle."""
LOSS_LIMIT_FACTOR = 1.5
"""A pipeline is skipped after a fold on which its loss exceeds this multiple of a plain logistic regression's."""
BEST = "best.skops"
BEST_SCORE = "best.json"


class TpotSearch:
    """The pipeline with the least log loss on the newest rows; beside a mixture, the least loss of the mean with it.

    A search that ends by its generations is reproducible for a seed. One that ends by its time is not.

    Args:
        generations: Maximum number of generations.
        population: Pipelines in each generation.
    """

    name = "tpot"
    quick = False

    def __init__(self, generations: int = GENERATIONS, population: int = POPULATION) -> None:
        self.generations = generations
        self.population = population
        self.progress: Callable[[str], None] = lambda text: None

    def fit(self, window: TrainingWindow, task: Task, out: Path) -> None:
        """Search until the time or the generations run out, and write the winner; see `Candidate.fit`.

        Args:
            window: Labelled events to learn from.
            task: Budget, lineage, signing key and scratch folder.
            out: Folder of the bundle.
        """
        deadline = time.monotonic() + task.budget.seconds * (1 - RESERVE)
        training_rows.require_learnable(window)
        task.scratch.mkdir(parents=True, exist_ok=True)
        search = Search.prepare(window, task, deadline, self.progress)
        search.warm_start(task.warm_start)
        _evolve(search, self.population, self.generations, task)
        if search.best is None:
            raise CannotFit(f"TPOT finished no pipeline within {task.budget.seconds:.0f} s")
        _write(search.best, search.parameters(), window, search.old_share, task, out)

    def rescue(self, window: TrainingWindow, task: Task, out: Path) -> bool:
        """Fit the best pipeline that the killed search had found; see `Candidate.rescue`.

        Args:
            window: Window of the fit.
            task: Task of the fit.
            out: Folder of the bundle.
        """
        try:
            parameters = json.loads((task.scratch / BEST_SCORE).read_text(encoding="utf-8"))
            pipeline = skops.io.load(task.scratch / BEST, sorted(TRUSTED))
        except (OSError, ValueError):
            return False
        _write(pipeline, parameters, window, float(parameters["old_share"]), task, out)
        return True

    def refit(self, window: TrainingWindow, fitted: Path, task: Task, out: Path) -> bool:
        """Return False: a refit would take too long.

        Args:
            window: Not used.
            fitted: Not used.
            task: Not used.
            out: Not used.
        """
        return False


@dataclass
class Search:
    """Rows that pipelines are compared on, and the best pipeline so far."""

    data: EvaluationData
    old_share: float
    deadline: float
    scratch: Path
    progress: Callable[[str], None]
    best: Any = None
    best_loss: float = float("inf")
    evaluated: int = 0
    warm_started: int = 0
    """Number of evaluated pipelines that came from earlier searches."""
    workers: int = 1
    """Pipelines that could be compared in parallel when the search began."""

    @classmethod
    def prepare(cls, window: TrainingWindow, task: Task, deadline: float, progress: Callable[[str], None]) -> Search:
        """Choose the rows and the folds, and compute the features once.

        Args:
            window: Labelled events to learn from.
            task: Task with the seed and the scratch folder.
            deadline: Time of `time.monotonic` at which the search must end.
            progress: Called with a line after each better pipeline.
        """
        old_share = training_rows.choose_old_weight(window)
        rows = training_rows.sample_rows(window, old_share, MAX_ROWS, task.budget.seed)
        part = window.take(rows.tolist(), onset=int((rows < window.onset).sum()))
        _, columns, matrix = _features(part, task.budget.seed)
        features = columns.fit_transform(matrix).astype(np.float32)
        labels = np.asarray(part.labels)
        folds = training_rows.forward_folds(part.labels, part.onset)
        # The limits do not follow the best pipeline so far. So the order of the workers' answers does not matter, and a
        # search is reproducible on any number of workers.
        given = np.asarray(part.given) if part.given else None
        baseline = training_rows.fold_losses(
            lambda: LogisticRegression(C=3.0, max_iter=100, tol=1e-3), features, labels, folds, given=given
        )
        ground = EvaluationData(features, labels, folds, [LOSS_LIMIT_FACTOR * loss for loss in baseline], given)
        return cls(ground, old_share, deadline, task.scratch, progress)

    def warm_start(self, heads: Sequence[Path]) -> None:
        """Evaluate the pipelines that earlier searches ended with, so that this one does not end with a worse one."""
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
        """Record the loss of a pipeline, and keep the best one for a rescue.

        Args:
            pipeline: Unfitted pipeline.
            loss: Log loss in nats per row.
        """
        self.evaluated += 1
        if (loss, _describe(pipeline)) < (self.best_loss, _describe(self.best)):
            self._keep(pipeline, loss)

    def parameters(self) -> dict[str, Any]:
        """Return the entries for the lineage."""
        return {
            "pipeline": _describe(self.best),
            "validation_log_loss": round(self.best_loss, 4),
            "pipelines_compared": self.evaluated,
            "earlier_pipelines": self.warm_started,
            "workers": self.workers,
            "beside_mixture": self.data.given is not None,
            "old_share": self.old_share,
            "rows_compared_on": len(self.data.labels),
            "folds": len(self.data.folds),
        }

    def _keep(self, pipeline: Any, loss: float) -> None:
        self.best, self.best_loss = clone(pipeline), loss
        # The score is written last, so that its file implies a complete pipeline.
        with atomic_path(self.scratch / BEST) as unfinished:
            skops.io.dump(self.best, unfinished)
        write_atomic(self.scratch / BEST_SCORE, json.dumps(self.parameters()).encode())
        self.progress(f"tpot: pipeline {self.evaluated}, log loss {loss:.3f}, {_describe(pipeline)}")


def _evolve(search: Search, population: int, generations: int, task: Task) -> None:
    """Run TPOT's evolution until its end or the deadline, in this process or on the task's Dask cluster.

    Raises:
        DriftloopError: The cluster cannot be used.
        Interrupted: The connection to the scheduler was lost.
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
        # TPOT needs rows for its final fit, which is not used: `Search` holds the data and the winner.
        with contextlib.suppress(Exception):
            estimator.fit(features[:50], labels[:50])
        workers.check()


def _features(window: TrainingWindow, seed: int) -> tuple[TfidfVectorizer | None, ColumnTransformer, Any]:
    """Return the vectorizer, the step that makes its columns dense, and that step's sparse input (n, d + v)."""
    size = window.embeddings.shape[1]
    embeddings = ("embedding", _directions(window, seed), slice(0, size))
    tfidf = fit_tfidf(window.texts)
    if tfidf is None or tfidf[1].shape[1] < 2:  # one column has no principal components
        return None, ColumnTransformer([embeddings]), window.embeddings
    vectorizer, words = tfidf
    components = TruncatedSVD(min(WORD_COMPONENTS, words.shape[1] - 1), random_state=seed)
    columns = ColumnTransformer([embeddings, ("words", components, slice(size, None))], sparse_threshold=0)
    return vectorizer, columns, stack_columns(window.embeddings, words)


def _directions(window: TrainingWindow, seed: int) -> PCA | str:
    """Return the principal components of the embeddings, or `passthrough` if they have no more columns."""
    components = min(EMBEDDING_COMPONENTS, len(window) // 2)
    return "passthrough" if components >= window.embeddings.shape[1] else PCA(components, random_state=seed)


def _write(
    pipeline: Any, parameters: dict[str, Any], window: TrainingWindow, old_share: float, task: Task, out: Path
) -> None:
    """Fit a pipeline on every row that has a weight, and write the bundle."""
    rows = training_rows.sample_rows(window, old_share, max(len(window), 1), task.budget.seed)
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


def _describe(pipeline: Any) -> str:
    """Return one line such as `StandardScaler -> LogisticRegression(C=2.1)`."""
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
    return " -> ".join(" ".join(str(step).split()) for step in steps)
