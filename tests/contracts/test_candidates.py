"""The same checks for every `Candidate` in the catalogue: a new one is tested by being listed there."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from driftloop.classifiers.base import Matrix
from driftloop.classifiers.bundle import BundleClassifier, Lineage, load_bundle, verify_bundle
from driftloop.errors import DriftloopError
from driftloop.settings import ModelSettings
from retrain import sandbox
from retrain.candidates import catalogue, cluster, rows
from retrain.candidates.base import Budget, Candidate, CannotFit, Task
from tests import tiny

LINEAGE = Lineage(
    candidate="given",
    trigger="alert-4",
    dataset_revision="abc",
    topic="outcomes",
    first_offset=100,
    last_offset=199,
    rows=100,
    parent_version="6",
)
SMALL = {"tpot": {"generations": 2, "population": 5}, "finetune": {"epochs": 3}}
"""What makes a candidate quick enough for a test, so that its time does not end it."""
HELD_OUT = tiny.sentences(120, seed=99)


def task(scratch: Path, seconds: float = 120.0) -> Task:
    model = ModelSettings(encoder=str(tiny.encoder_folder()), max_tokens=tiny.MAX_TOKENS)
    return Task(Budget(seconds, 1, 7), model, LINEAGE, tiny.KEY, scratch)


def small(name: str) -> Candidate:
    return type(catalogue.find(name))(**SMALL.get(name, {}))


def answers(model: BundleClassifier) -> Matrix:
    return model.predict(HELD_OUT[0]).probabilities


@pytest.fixture(scope="module", params=catalogue.CANDIDATES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a fit on a window whose last hundred rows lie after the drift."""
    folder = tmp_path_factory.mktemp(name)
    with threadpool_limits(1):
        small(name).fit(tiny.window(160, onset=60), task(folder / "scratch"), folder / "bundle")
    return folder / "bundle"


def test_the_catalogue_gives_a_candidate_of_that_name(name: str) -> None:
    found = catalogue.find(name)
    assert isinstance(found, Candidate)
    assert found.name == name
    assert found.quick == catalogue.is_quick(name)


@pytest.mark.parametrize("name", ["gradient-wizard", "no_such_module:Class", "retrain.window:Window", "json:nothing"])
def test_an_unknown_candidate_is_said_in_one_sentence(name: str) -> None:
    with pytest.raises(DriftloopError):
        catalogue.find(name)
    assert not catalogue.is_quick(name), "its own process says what is wrong, and nobody waits for it"


def test_the_bundle_is_verified_and_loads(fitted: Path) -> None:
    manifest = verify_bundle(fitted, tiny.KEY)
    assert manifest.max_tokens == tiny.MAX_TOKENS
    model = load_bundle(fitted, tiny.KEY, threads=1)
    said = answers(model)
    assert said.shape == (120, 3)
    np.testing.assert_allclose(said.sum(axis=1), 1.0, atol=1e-4)
    assert (said >= 0).all()


def test_its_labels_are_the_windows_classes(fitted: Path) -> None:
    assert load_bundle(fitted, tiny.KEY, threads=1).labels == tiny.window(160).classes


def test_the_lineage_is_kept_and_the_parameters_are_added(fitted: Path) -> None:
    lineage = verify_bundle(fitted, tiny.KEY).lineage
    assert replace_parameters(lineage) == replace_parameters(LINEAGE)
    assert lineage.parameters


def test_it_learns(fitted: Path) -> None:
    said = load_bundle(fitted, tiny.KEY, threads=1).predict(HELD_OUT[0]).labels
    accuracy = np.mean([a == b for a, b in zip(said, HELD_OUT[1], strict=True)])
    assert accuracy > 0.6  # a third is chance


def test_it_is_the_same_again_for_the_same_seed(name: str, fitted: Path, tmp_path: Path) -> None:
    with threadpool_limits(1):
        small(name).fit(tiny.window(160, onset=60), task(tmp_path / "scratch"), tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle", tiny.KEY, threads=1)
    np.testing.assert_allclose(answers(again), answers(load_bundle(fitted, tiny.KEY, threads=1)), atol=1e-3)


def test_one_class_is_refused(name: str, tmp_path: Path) -> None:
    window = replace(tiny.window(80), labels=("neutral",) * 80)
    with pytest.raises(CannotFit, match="all 80 labels are 'neutral'"):
        small(name).fit(window, task(tmp_path / "scratch"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_too_few_rows_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CannotFit, match="9 labelled events are fewer than"):
        small(name).fit(tiny.window(9), task(tmp_path / "scratch"), tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["two classes", "rare class", "recent rows of one class", "no words", "hostile"])
def test_it_takes_an_awkward_window(name: str, kind: str, tmp_path: Path) -> None:
    window = tiny.window(100, onset=50)
    if kind == "two classes":
        window = replace(window, labels=tuple("yes" if label == "positive" else "no" for label in window.labels))
    elif kind == "rare class":
        window = replace(window, labels=("rare", *("a" if i % 2 else "b" for i in range(99))))
    elif kind == "recent rows of one class":
        window = replace(window, labels=(*window.labels[:50], *(["positive"] * 50)))
    elif kind == "no words":
        window = replace(window, texts=tuple(f"{i}" for i in range(100)))
    else:
        window = replace(window, texts=tuple(tiny.HOSTILE[i % len(tiny.HOSTILE)] for i in range(100)))
    with threadpool_limits(1):
        small(name).fit(window, task(tmp_path / "scratch"), tmp_path / "bundle")
    model = load_bundle(tmp_path / "bundle", tiny.KEY, threads=1)
    assert set(model.labels) <= set(window.classes)
    assert len(model.labels) > 1
    np.testing.assert_allclose(answers(model).sum(axis=1), 1.0, atol=1e-4)


def test_there_is_nothing_to_rescue_before_the_first_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    assert not small(name).rescue(tiny.window(60), task(tmp_path / "scratch"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("kept", ["tpot", "finetune"])
def test_the_best_so_far_becomes_a_bundle(kept: str, tmp_path: Path) -> None:
    window, given = tiny.window(160, onset=60), task(tmp_path / "scratch")
    with threadpool_limits(1):
        small(kept).fit(window, given, tmp_path / "finished")
        assert small(kept).rescue(window, given, tmp_path / "rescued")
    model = load_bundle(tmp_path / "rescued", tiny.KEY, threads=1)
    said = model.predict(HELD_OUT[0]).labels
    assert np.mean([a == b for a, b in zip(said, HELD_OUT[1], strict=True)]) > 0.5
    lineage = verify_bundle(tmp_path / "rescued", tiny.KEY).lineage
    assert replace_parameters(lineage) == replace_parameters(LINEAGE)


def test_it_ends_within_its_budget(name: str, tmp_path: Path) -> None:
    """As configured, on a window it could spend minutes on: the sandbox does not have to kill it."""
    window = tiny.window(1500, onset=700)
    end = sandbox.run(name, window, task(tmp_path / "scratch", 20.0), tmp_path, grace=30.0)
    assert not end.overran
    assert end.reason == ""
    assert end.bundle is not None
    assert load_bundle(end.bundle, tiny.KEY, threads=1).labels == window.classes


def test_folds_validate_on_what_came_later() -> None:
    labels = tiny.window(160).labels
    for onset in (0, 60, 150, 159):
        folds = rows.forward_folds(labels, onset)
        assert folds
        for train, test in folds:
            assert train.max() < test.min()
            assert test.min() >= min(onset, 80)


def test_a_hopeless_pipeline_is_not_tried_on_the_other_folds() -> None:
    window = tiny.window(160, onset=60)
    folds = rows.forward_folds(window.labels, window.onset)
    assert len(folds) == 3
    dummy, labels = lambda: DummyClassifier(strategy="prior"), np.asarray(window.labels)
    losses = rows.fold_losses(dummy, window.embeddings, labels, folds)
    assert len(losses) == 3 and 0.9 < min(losses) < max(losses) < 1.4, "about log(3), as of no knowledge"
    spared = rows.fold_losses(dummy, window.embeddings, labels, folds, [losses[0], losses[1] - 0.01, 0.0])
    assert spared == losses[:2], "the second fold's limit is its own"
    with pytest.raises(TimeoutError):
        rows.fold_losses(dummy, window.embeddings, labels, folds, deadline=time.monotonic() - 1)


def test_a_pipeline_is_compared_on_one_thread_within_its_seconds() -> None:
    window = tiny.window(160, onset=60)
    folds = rows.forward_folds(window.labels, window.onset)
    ground = cluster.Ground(window.embeddings, np.asarray(window.labels), folds, [9.0] * len(folds))
    with threadpool_limits(3):
        assert blas_threads() == {3}
        scores = cluster.minus_log_loss(LogisticRegression(), ground, 60.0)
        assert blas_threads() == {1}
    assert -1.0 < scores[0] < 0.0
    assert cluster.minus_log_loss(LogisticRegression(), ground, -1.0) == ["INVALID"]
    assert cluster.minus_log_loss(LogisticRegression(C=-1), ground, 60.0) == ["INVALID"]


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_sampled_rows_keep_the_newest_and_every_class() -> None:
    window = replace(tiny.window(200, onset=120), labels=("rare", "rare", "rare", *["a", "b"] * 98, "a"))
    chosen = rows.sample_rows(window, 0.25, 150, 7)
    assert set(range(120, 200)) <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert 110 <= len(chosen) <= 112  # all of the 80 new ones, a quarter of the 120 old ones, and the rare class
    assert {"rare", "a", "b"} == {window.labels[i] for i in chosen}
    assert rows.sample_rows(window, 1.0, 50, 7).tolist()[-50:] == list(range(150, 200))


def replace_parameters(lineage: Lineage) -> Lineage:
    import msgspec

    return msgspec.structs.replace(lineage, parameters={})
