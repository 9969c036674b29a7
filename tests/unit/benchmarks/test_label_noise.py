"""Label noise benchmark: the wrong labels, the promotions to a worse model, and the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.adaptation.in_process_loop import Loop, Model
from benchmarks.adaptation.label_noise import FOLLOWED, Row, count_worse, main, make_table, with_liar
from benchmarks.adaptation.playback import Stream
from driftloop.core.models.head import Head
from driftloop.core.settings import Settings
from retrain.policies.builtin import Never


def test_unreliable_annotator_errs_at_stated_rate_after_start() -> None:
    scenario = with_liar("tweets-short", 7, 0.4, 0.3, 500)
    wrong = np.array([
        said.label != row.label for said, row in zip(scenario.annotations, scenario.sequence, strict=True)
    ])  # fmt: skip
    liar = np.array([said.annotator == "liar" for said in scenario.annotations])
    assert liar.mean() == pytest.approx(0.3, abs=0.03)
    assert not wrong[:500].any() and not wrong[~liar].any()
    assert wrong[500:][liar[500:]].mean() == pytest.approx(0.4, abs=0.06)


def test_only_harmful_promotions_count_as_worse() -> None:
    scenario = with_liar("tweets-short", 7, 0.0, 0.3, 0)
    rng = np.random.default_rng(0)
    truth = np.array([row.label for row in scenario.sequence])
    stream = Stream(scenario, (truth[:, None] == sorted(set(truth))).astype(np.float32) + rng.normal(0, 0.1, (1, 3)))

    def model(right: float) -> Model:
        said = np.where(rng.random(500) < right, truth[:500], rng.permutation(truth[:500]))
        return Model(Head(LogisticRegression(C=100).fit(stream.embeddings[:500], said)), "t", "linear")

    loop = Loop(stream, Never(), Settings(), 0)
    good, bad = model(1.0), Model(Head(_Constant().fit(truth)), "t", "linear")
    loop.promoted = [(0, bad), (600, good), (700, bad), (800, good), (900, replace(good, trigger="u"))]
    assert count_worse(loop, stream) == (4, 1)
    loop.promoted = [(0, good), (len(stream) - FOLLOWED, bad)]
    assert count_worse(loop, stream) == (1, 1), "after the last drift too"


class _Constant:
    """Always the first class."""

    def fit(self, labels: np.ndarray) -> _Constant:
        self.classes_ = np.array(sorted(set(labels)))
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return np.tile(np.eye(len(self.classes_))[0], (len(features), 1))


def test_table_shows_damage_relative_to_zero_noise() -> None:
    shown = make_table([
        Row(0.0, True, 7, 0.75, 5, 0), Row(0.4, True, 7, 0.74, 4, 0),
        Row(0.0, False, 7, 0.75, 5, 0), Row(0.4, False, 7, 0.70, 6, 2),
    ])  # fmt: skip
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in shown.splitlines()[2:]]
    assert lines[1] == ["40%", "by annotator", "0.7400", "+0.0100", "4", "0"]
    assert lines[3] == ["40%", "equally", "0.7000", "+0.0500", "6", "2"]


def test_unknown_scenario_exits_2_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scenarios", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
