"""Fine-tuning: it ends in time, and exports the last weights that are not worse on held-out rows."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from driftloop.core.models.bundle import Lineage, load_bundle, verify_bundle
from driftloop.core.settings import ModelSettings
from retrain.candidates import early_stopping, finetune, trainable_network
from retrain.candidates.base import Budget, Task
from retrain.candidates.early_stopping import EarlyStopping, split_held_out
from retrain.candidates.finetune import FineTune
from retrain.candidates.trainable_network import has_bf16, initialise_head, load_network
from retrain.training_window import TrainingWindow
from tests import tiny

ROWS = early_stopping.MIN_ROWS


def task(folder: Path, seconds: float = 120.0) -> Task:
    model = ModelSettings(encoder=str(tiny.encoder_folder()), max_tokens=tiny.MAX_TOKENS, quantise=False)
    return Task(
        budget=Budget(seconds, 1, 7),
        model=model,
        lineage=Lineage(candidate="finetune"),
        signing_key=tiny.KEY,
        scratch=folder / "scratch",
        device="cpu",
    )


def fit(candidate: FineTune, window: TrainingWindow, folder: Path, seconds: float = 120.0) -> dict[str, Any]:
    """Fit into ``folder`` and return the parameters in the lineage."""
    with threadpool_limits(1):
        candidate.fit(window, task(folder, seconds), folder / "bundle")
    return verify_bundle(folder / "bundle", tiny.KEY).lineage.parameters


def brier(folder: Path, window: TrainingWindow) -> float:
    """Return the Brier score of the bundle in ``folder``."""
    model = load_bundle(folder, tiny.KEY, threads=1)
    truth = np.asarray(window.labels)[:, None] == np.asarray(model.labels)
    return float(((model.predict(window.texts).probabilities - truth) ** 2).sum(axis=1).mean())


def noisy(n: int, seed: int = 0) -> TrainingWindow:
    """Return a window in which two labels in three are random, so that training overfits."""
    plain, rng = tiny.window(n, seed=seed), random.Random(seed)
    return replace(plain, labels=tuple(rng.choice([label, *tiny.LABELS]) for label in plain.labels))


def eager(patience: int = early_stopping.PATIENCE) -> FineTune:
    """Return a candidate that overfits unless it is stopped."""
    return FineTune(epochs=14, learning_rate=5e-3, patience=patience)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the parameters of a fit on noise."""
    folder = tmp_path_factory.mktemp("noise")
    return folder, fit(eager(), noisy(ROWS), folder)


@pytest.mark.slow
def test_early_stopping_exports_weights_before_score_rises(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, report = stopped
    _, held = split_held_out(noisy(ROWS).labels, np.ones(ROWS, bool), 7)
    assert report["stopped_early"] and report["rows_held_out"] == len(held) == 100
    every = -(-29 // early_stopping.MEASUREMENTS_PER_PASS)  # steps of 32 in 900 rows
    assert report["steps"] == report["kept_step"] + early_stopping.PATIENCE * every
    assert brier(folder / "bundle", noisy(ROWS).take(held.tolist())) == pytest.approx(
        report["held_out_brier"], abs=1e-3
    )

    control = fit(eager(patience=0), noisy(ROWS), tmp_path)
    assert control["rows_held_out"] == 0 and control["steps"] == 14 * 32, "all passes"
    fresh = noisy(600, seed=5)
    assert brier(folder / "bundle", fresh) < brier(tmp_path / "bundle", fresh) - 0.03


def test_the_head_starts_without_the_rows_held_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[TrainingWindow] = []
    monkeypatch.setattr(finetune, "initialise_head", lambda *given: (shown.append(given[1]), initialise_head(*given)))
    report = fit(FineTune(epochs=1), tiny.window(ROWS), tmp_path)
    train, held = split_held_out(tiny.window(ROWS).labels, np.ones(ROWS, bool), 7)
    assert shown[0].event_ids == tuple(map(str, train)) and len(train) == report["rows_trained_on"] == ROWS - len(held)


@pytest.mark.slow
def test_same_seed_gives_same_training(stopped: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    again = fit(eager(), noisy(ROWS), tmp_path)
    differs = {key for key in again if again[key] != stopped[1][key]}
    assert differs <= {"seconds_per_step"}
    assert brier(tmp_path / "bundle", tiny.window(60)) == pytest.approx(
        brier(stopped[0] / "bundle", tiny.window(60)), abs=1e-5
    )


def test_training_continues_while_score_improves(tmp_path: Path) -> None:
    said: list[str] = []
    candidate = FineTune(epochs=2, learning_rate=3e-4)
    candidate.progress = said.append
    report = fit(candidate, tiny.window(ROWS), tmp_path)
    assert not report["stopped_early"] and report["kept_step"] == report["steps"] == 2 * 29
    assert report["held_out_brier"] < report["held_out_brier_before"]
    assert said[0].startswith("finetune: step 15 of 58, held-out Brier score ") and said[-1].startswith(
        "finetune: 58 steps done"
    )


def test_small_window_disables_early_stopping(tmp_path: Path) -> None:
    """All rows are learnt from, as with a patience of zero."""
    window = tiny.window(early_stopping.MIN_ROWS + 100, onset=101)  # one row too few after the drift
    reports = [
        fit(FineTune(epochs=2, patience=patience), window, tmp_path / str(patience))
        for patience in (0, early_stopping.PATIENCE)
    ]
    for report in reports:
        report.pop("seconds_per_step")
    assert reports[0] == reports[1] and reports[0]["rows_held_out"] == 0 and "kept_step" not in reports[0]
    texts = tiny.sentences(60, seed=9)[0]
    one, other = (
        load_bundle(tmp_path / str(patience) / "bundle", tiny.KEY, threads=1).predict(texts)
        for patience in (0, early_stopping.PATIENCE)
    )
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_short_budget_holds_out_no_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Budget is too short for two passes."""
    monkeypatch.setattr(finetune, "_seconds_per_step", lambda *_: 5.0)
    assert fit(FineTune(), tiny.window(ROWS), tmp_path, seconds=100.0)["rows_held_out"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")  # the libraries are loaded
def test_deadline_is_met_with_slow_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[float] = []
    monkeypatch.setattr(finetune, "EXPORT_SECONDS", 4.0)
    monkeypatch.setattr(finetune, "load_network", lambda *given: _slow(*load_network(*given), seconds=0.4))
    monkeypatch.setattr(finetune, "_write", lambda *_: written.append(time.monotonic()))
    started = time.monotonic()
    FineTune(epochs=500, patience=100).fit(tiny.window(ROWS), task(tmp_path, 12.0), tmp_path / "bundle")
    assert 4.0 < written[0] - started <= 12.0 - 4.0 + 0.5, "it used its time, and no more"


def _slow(network: Any, tokenizer: Any, seconds: float) -> tuple[Any, Any]:
    """Slow the network down on batches that it does not learn from."""
    network.register_forward_pre_hook(lambda *_: time.sleep(0 if network.training else seconds))
    return network, tokenizer


class _Scripted(torch.nn.Module):
    """Network with given Brier scores, one for each batch or each of its four rows, after a wait."""

    def __init__(self, scores: list[Any], wait: float = 0.0) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(1, 1)
        self.scores, self.wait = scores, wait

    def forward(self) -> Any:
        time.sleep(self.wait)
        right = 1 - (torch.tensor(self.scores.pop(0)) / 2) ** 0.5  # of two classes, the first is the true one
        return type("Output", (), {"logits": torch.log(torch.stack([right, 1 - right], dim=-1)).expand(4, 2)})


def _watch(network: _Scripted, folder: Path, seconds: float = 60.0, batches: int = 1) -> EarlyStopping:
    held = [{"labels": torch.zeros(4, dtype=torch.long)}] * batches
    return EarlyStopping(network, held, folder / finetune.WEIGHTS, time.monotonic() + seconds, 2, lambda text: None)


def test_last_measurement_fits_before_deadline(tmp_path: Path) -> None:
    watch = _watch(_Scripted([1 / n for n in range(1, 100)], wait=0.5), tmp_path, seconds=2.0)
    deadline = time.monotonic() + 2.0
    watch.begin()
    steps = 1
    while not watch.after_step(steps, 100, 50):
        time.sleep(0.1)
        steps += 1
    assert time.monotonic() <= deadline + 0.05
    assert steps > 5 and watch.kept_step == steps, "the last weights are measured too"


def test_slow_measurement_is_cut_off_and_discarded(tmp_path: Path) -> None:
    """Measurement ends at the deadline, at most one batch late."""
    network = _Scripted([0.5] * 3 + [0.1] * 3)
    watch = _watch(network, tmp_path, seconds=1.0, batches=3)
    deadline = time.monotonic() + 1.0
    watch.begin()
    network.wait = 0.6
    assert not watch.after_step(1, 100, 1) and watch.slowest_seconds > 0.9
    assert time.monotonic() < deadline + 0.6, "one batch late at most"
    assert watch.after_step(2, 100, 1) and set(watch.scores) == {0}


def test_last_weights_not_significantly_worse_are_kept(tmp_path: Path) -> None:
    """Weights of the start count, too."""
    cases: list[tuple[list[Any], int, int]] = [
        ([0.5, 0.6, 0.7, 0.1], 0, 2),
        ([0.5, 0.6, 0.4, 0.45, 0.3], 4, 4),
        ([0.5, float("nan"), 0.4, 0.4, 0.41], 3, 4),
        ([0.5, [0.9, 0.2, 0.7, 0.3], 0.6, 0.6, 0.5], 1, 3),  # within chance: rows fell and rose
    ]
    for scores, kept, ended in cases:
        network = _Scripted(list(scores))
        watch = _watch(network, tmp_path)
        watch.begin()
        for step in range(1, 5):
            with torch.no_grad():
                network.classifier.weight.fill_(step)
            network.scores[:] = scores[step:]
            if watch.after_step(step, 4, 1):
                break
        watch.restore()
        assert (watch.kept_step, step) == (kept, ended)
        assert kept == 0 or network.classifier.weight.item() == kept


def test_killed_training_is_rescued_with_kept_weights(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(text: str) -> None:
        said.append(text)
        if len(said) > 2 and said[-1][-5:] > said[-2][-5:] > said[-3][-5:]:
            raise Killed

    said: list[str] = []
    candidate, window = eager(patience=100), noisy(ROWS)
    candidate.progress = kill
    with pytest.raises(Killed), threadpool_limits(1):
        candidate.fit(window, task(tmp_path), tmp_path / "bundle")
    assert candidate.rescue(window, task(tmp_path), tmp_path / "bundle")
    _, held = split_held_out(window.labels, np.ones(ROWS, bool), 7)
    rescued = brier(tmp_path / "bundle", window.take(held.tolist()))
    assert rescued < float(said[-1][-5:]) - 0.01, "not the last"


def test_held_out_rows_are_recent_and_stratified() -> None:
    """Only row of a class is learnt from, not held out."""
    labels = ["a"] * 1000 + ["b"] * 600 + ["c"] * 400
    random.Random(0).shuffle(labels)
    recent = np.arange(2000) >= 500
    train, held = split_held_out(labels, recent, seed=1)
    assert len(held) == 150 and held.min() >= 500
    assert sorted([*train, *held]) == list(range(2000))
    for name in "abc":
        shares = [np.mean([labels[i] == name for i in rows]) for rows in (held, np.flatnonzero(recent))]
        assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert (split_held_out(labels, recent, seed=1)[1] == held).all()
    assert set(split_held_out(labels, recent, seed=2)[1]) != set(held)
    assert len(split_held_out(labels * 3, np.ones(6000, bool), 1)[1]) == early_stopping.MAX_HELD_OUT
    for place in range(400, 420):  # one of them would be held out
        lone = split_held_out(["a"] * place + ["b"] + ["c"] * (1199 - place), np.ones(1200, bool), 1)
        assert len(lone[1]) == 120 and place in lone[0], "the only row of a class is learnt from"


def test_cpu_trains_in_bf16_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainable_network.bf16_speedup() > 0
    for speedup, used in ((1.2, False), (3.0, True)):
        monkeypatch.setattr(trainable_network, "bf16_speedup", lambda speedup=speedup: speedup)
        assert has_bf16("cpu") is used


def test_bf16_is_used_only_on_supporting_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exported graph reproduces the held-out score."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not has_bf16("cuda"), "not where it is emulated"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert has_bf16("cuda")
    monkeypatch.setattr(finetune, "has_bf16", lambda device: True)
    report = fit(FineTune(epochs=2, learning_rate=1e-3), tiny.window(ROWS), tmp_path)
    assert report["bf16"] is True
    _, held = split_held_out(tiny.window(ROWS).labels, np.ones(ROWS, bool), 7)
    assert brier(tmp_path / "bundle", tiny.window(ROWS).take(held.tolist())) == pytest.approx(
        report["held_out_brier"], abs=1e-3
    )
