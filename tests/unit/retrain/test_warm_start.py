"""A search begins with what the ones before it ended with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from driftloop.core.models.bundle import HEAD, Lineage, verify_bundle
from driftloop.core.models.head import Head
from driftloop.core.settings import ModelSettings
from retrain.candidates import tpot_search
from retrain.candidates.base import Budget, Task
from retrain.candidates.tpot_search import Search, TpotSearch
from retrain.fitting.warm_start import KEPT, WarmStartStore
from retrain.training_window import TrainingWindow
from tests import tiny

WINDOW = tiny.window(160)


def task(folder: Path, *earlier: Path) -> Task:
    model, lineage = ModelSettings(max_tokens=tiny.MAX_TOKENS), Lineage(candidate="tpot")
    return Task(
        budget=Budget(60.0, seed=3),
        model=model,
        lineage=lineage,
        signing_key=tiny.KEY,
        scratch=folder,
        warm_start=earlier,
    )


def head(folder: Path, classifier: object) -> Path:
    """The file of a head such as TPOT's."""
    folder.mkdir(parents=True)
    steps = Pipeline([("columns", "passthrough"), ("pipeline", Pipeline([("only", classifier)]))])
    Head(steps.fit(WINDOW.embeddings, np.asarray(WINDOW.labels))).save(folder / HEAD)
    return folder / HEAD


def search(folder: Path, window: TrainingWindow = WINDOW) -> Search:
    return Search.prepare(window, task(folder), float("inf"), lambda text: None)


def test_the_newest_heads_of_each_candidate_are_kept(tmp_path: Path) -> None:
    earlier = WarmStartStore(tmp_path / "earlier")
    for number in range(KEPT + 2):
        bundle = tmp_path / f"bundle-{number}"
        bundle.mkdir()
        (bundle / HEAD).write_text(str(number))
        earlier.keep("tpot", bundle)
    assert [path.read_text() for path in earlier.of("tpot")] == [str(number) for number in range(2, KEPT + 2)]
    assert sorted((tmp_path / "earlier").rglob("*.skops")) == sorted(earlier.of("tpot"))
    assert earlier.of("my_package:Mine") == ()


def test_bundle_without_head_stores_no_file(tmp_path: Path) -> None:
    earlier = WarmStartStore(tmp_path / "earlier")
    (tmp_path / "bundle").mkdir()
    earlier.keep("finetune", tmp_path / "bundle")
    assert earlier.of("finetune") == () and not (tmp_path / "earlier").exists()


def test_search_starts_with_best_earlier_head(tmp_path: Path) -> None:
    good = head(tmp_path / "good", LogisticRegression(C=7.0))
    bad = head(tmp_path / "bad", DummyClassifier())
    found = search(tmp_path)
    found.warm_start([bad, good])
    assert found.warm_started == found.evaluated == 2
    assert found.best.named_steps["only"].C == 7.0
    alone = search(tmp_path)
    alone.warm_start([bad])
    assert found.best_loss < alone.best_loss


def test_pipelines_are_compared_beside_a_mixture(tmp_path: Path) -> None:
    """A mixture that is sure of each label leaves little to add: the loss of the pair is that of its half."""
    regression = head(tmp_path / "head", LogisticRegression())
    losses = []
    for given in ((), (1.0,) * len(WINDOW), (-1.0,) * len(WINDOW)):
        found = search(tmp_path, replace(WINDOW, given=given))
        found.warm_start([regression])
        losses.append(found.best_loss)
    alone, beside_a_sure_one, beside_one_that_knew = losses
    assert beside_a_sure_one < alone == beside_one_that_knew
    assert beside_a_sure_one < np.log(2), "half of the weight is on the label"


def test_unreadable_earlier_head_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, good = tmp_path / "broken.skops", head(tmp_path / "good", LogisticRegression())
    broken.write_bytes(b"no zip")
    found = search(tmp_path)
    with caplog.at_level(logging.WARNING):
        found.warm_start([broken, good, tmp_path / "missing.skops"])
    assert found.warm_started == 1 and found.best is not None
    assert caplog.text.count("cannot be used") == 2


def test_search_without_findings_returns_earlier_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a search that finds nothing itself, it is all there is; the control ends with nothing."""
    monkeypatch.setattr(tpot_search, "_evolve", lambda *given: None)
    good = head(tmp_path / "good", LogisticRegression(C=7.0))
    TpotSearch().fit(WINDOW, task(tmp_path / "one", good), tmp_path / "bundle")
    parameters = verify_bundle(tmp_path / "bundle", tiny.KEY).lineage.parameters
    assert parameters["earlier_pipelines"] == parameters["pipelines_compared"] == 1
    assert "C=7.0" in parameters["pipeline"]
    with pytest.raises(tpot_search.CannotFit):
        TpotSearch().fit(WINDOW, task(tmp_path / "two"), tmp_path / "none")
