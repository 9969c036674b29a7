"""Checks of candidates on each one in the catalogue; a new one is tested once it is listed there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from driftloop.core.errors import DriftloopError
from driftloop.core.models.bundle import load_bundle, verify_bundle
from retrain.candidates import catalogue, checks, dask_evaluation, training_rows
from retrain.candidates.base import Candidate, CannotFit
from retrain.candidates.checks import CHECKS, HELD_OUT, LINEAGE, Subject
from tests import tiny

SMALL = {"tpot": {"generations": 2, "population": 5}, "finetune": {"epochs": 3}}
"""What makes a candidate quick enough for a test, so that its time does not end it."""


def small(name: str) -> Candidate:
    return type(catalogue.find(name))(**SMALL.get(name, {}))


def candidate(name: str, folder: Path) -> Subject:
    return Subject(lambda: small(name), name, folder)


# The slow candidates are fitted some ten times.
PARAMETERS = [
    pytest.param(name, marks=() if catalogue.is_quick(name) else pytest.mark.slow) for name in catalogue.CANDIDATES
]


@pytest.fixture(scope="module", params=PARAMETERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def subject(name: str, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return a subject that is fitted once for all checks of the fitted bundle."""
    return candidate(name, tmp_path_factory.mktemp(name))


@pytest.mark.parametrize(
    "check", [one for one in CHECKS if one is not checks.check_awkward_windows], ids=lambda check: check.__name__
)
def test_the_contract_holds(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


@pytest.mark.parametrize("kind", ["two classes", "rare class", "recent rows of one class", "no words", "hostile"])
def test_candidate_accepts_awkward_window(name: str, kind: str, tmp_path: Path) -> None:
    checks.check_window(candidate(name, tmp_path), checks.awkward_windows()[kind], "awkward")


def test_awkward_window_kinds_are_all_tested(tmp_path: Path) -> None:
    assert list(checks.awkward_windows()) == [
        "two classes", "rare class", "recent rows of one class", "no words", "hostile",
    ]  # fmt: skip


def test_catalogue_finds_candidate_by_name(name: str) -> None:
    found = catalogue.find(name)
    assert isinstance(found, Candidate)
    assert found.name == name
    assert found.quick == catalogue.is_quick(name)


@pytest.mark.parametrize(
    "name", ["gradient-wizard", "no_such_module:Class", "retrain.training_window:TrainingWindow", "json:nothing"]
)
def test_unknown_candidate_raises_driftloop_error(name: str) -> None:
    with pytest.raises(DriftloopError):
        catalogue.find(name)
    assert not catalogue.is_quick(name), "its own process says what is wrong, and nobody waits for it"


def test_refusal_states_the_row_count(name: str, tmp_path: Path) -> None:
    one, few = replace(tiny.window(80), labels=("neutral",) * 80), tiny.window(9)
    for window, says in ((one, "all 80 labels are 'neutral'"), (few, "9 labelled events are fewer than")):
        with pytest.raises(CannotFit, match=says):
            small(name).fit(window, candidate(name, tmp_path).task("scratch"), tmp_path / "bundle")


@pytest.mark.parametrize("kept", ["tpot", "finetune"])
def test_rescue_writes_best_model_so_far(kept: str, tmp_path: Path) -> None:
    window, given = tiny.window(160, onset=60), candidate(kept, tmp_path).task("scratch")
    with threadpool_limits(1):
        small(kept).fit(window, given, tmp_path / "finished")
        assert small(kept).rescue(window, given, tmp_path / "rescued")
    model = load_bundle(tmp_path / "rescued", tiny.KEY, threads=1)
    said = model.predict(HELD_OUT[0]).labels
    assert np.mean([a == b for a, b in zip(said, HELD_OUT[1], strict=True)]) > 0.5
    lineage = verify_bundle(tmp_path / "rescued", tiny.KEY).lineage
    assert msgspec.structs.replace(lineage, parameters={}) == LINEAGE


def test_folds_validate_on_later_rows() -> None:
    labels = tiny.window(160).labels
    for onset in (0, 60, 150, 159):
        folds = training_rows.forward_folds(labels, onset)
        assert folds
        for train, test in folds:
            assert train.max() < test.min()
            assert test.min() >= min(onset, 80)


def test_weak_pipeline_skips_remaining_folds() -> None:
    window = tiny.window(160, onset=60)
    folds = training_rows.forward_folds(window.labels, window.onset)
    assert len(folds) == 3
    dummy, labels = lambda: DummyClassifier(strategy="prior"), np.asarray(window.labels)
    losses = training_rows.fold_losses(dummy, window.embeddings, labels, folds)
    assert len(losses) == 3 and 0.9 < min(losses) < max(losses) < 1.4, "about log(3), as of no knowledge"
    spared = training_rows.fold_losses(dummy, window.embeddings, labels, folds, [losses[0], losses[1] - 0.01, 0.0])
    assert spared == losses[:2], "the second fold's limit is its own"
    with pytest.raises(TimeoutError):
        training_rows.fold_losses(dummy, window.embeddings, labels, folds, deadline=time.monotonic() - 1)


def test_pipeline_beside_a_mixture_is_judged_with_it() -> None:
    """A label that the mixture had learnt counts for the pipeline alone."""
    labels = np.asarray(["a", "b", "a"])
    probabilities = np.asarray([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])
    alone = training_rows.log_loss(["a", "b"], probabilities, labels)
    assert alone == pytest.approx(-np.log([0.8, 0.4, 0.5]).mean())
    paired = training_rows.log_loss(["a", "b"], probabilities, labels, np.asarray([0.4, 1.0, -1.0]))
    assert paired == pytest.approx(-np.log([0.6, 0.7, 0.5]).mean())


def test_pipeline_evaluation_uses_one_thread() -> None:
    """A pipeline that exceeds its time limit scores INVALID."""
    window = tiny.window(160, onset=60)
    folds = training_rows.forward_folds(window.labels, window.onset)
    ground = dask_evaluation.EvaluationData(window.embeddings, np.asarray(window.labels), folds, [9.0] * len(folds))
    with threadpool_limits(3):
        assert blas_threads() == {3}
        scores = dask_evaluation.minus_log_loss(LogisticRegression(), ground, 60.0)
        assert blas_threads() == {1}
    assert -1.0 < scores[0] < 0.0
    assert dask_evaluation.minus_log_loss(LogisticRegression(), ground, -1.0) == ["INVALID"]
    assert dask_evaluation.minus_log_loss(LogisticRegression(C=-1), ground, 60.0) == ["INVALID"]


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_sampled_rows_keep_the_newest_and_every_class() -> None:
    window = replace(tiny.window(200, onset=120), labels=("rare", "rare", "rare", *["a", "b"] * 98, "a"))
    chosen = training_rows.sample_rows(window, 0.25, 150, 7)
    assert set(range(120, 200)) <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert 110 <= len(chosen) <= 112  # all of the 80 new ones, a quarter of the 120 old ones, and the rare class
    assert {"rare", "a", "b"} == {window.labels[i] for i in chosen}
    assert training_rows.sample_rows(window, 1.0, 50, 7).tolist()[-50:] == list(range(150, 200))
