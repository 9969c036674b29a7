"""The first stage of a cascade: what it may answer, what that costs, and that no broken one is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from driftloop.core.models.bundle import (
    FIRST,
    BundleDraft,
    BundleError,
    Lineage,
    load_bundle,
    verify_bundle,
    write_bundle,
)
from driftloop.core.models.classifier import Predictions
from driftloop.core.models.first_stage import COLUMNS, FirstStage, count_tokens, load_first_stage
from driftloop.core.models.head import Head
from driftloop.core.settings import RetrainSettings, Settings
from retrain.promotion.first_stage import MIN_HELD, MIN_ROWS, calibrate, fit_first_stage, make_cascade
from tests import tiny

SETTINGS = Settings(signing_key=tiny.KEY)
ROWS = MIN_ROWS + 200


@pytest.fixture(scope="module")
def stage() -> FirstStage:
    texts, labels = tiny.sentences(ROWS, seed=3)
    return fit_first_stage(tiny.encoder().tokenise(texts), labels, tiny.LABELS)


def written(folder: Path) -> Path:
    rows = tiny.window(200)
    head = Head(LogisticRegression().fit(rows.embeddings, np.asarray(rows.labels)))
    lineage = Lineage(candidate="linear")
    write_bundle(folder, encoder=tiny.encoder(), head=head, labels=head.classes, lineage=lineage, key=tiny.KEY)
    return folder


def made(folder: Path, settings: Settings = SETTINGS, rows: int = ROWS, held: int = 300) -> object:
    """A cascade of the model in ``folder``, fitted and calibrated on made-up texts."""
    model = load_bundle(folder, tiny.KEY)
    whole = tiny.window(rows + held)
    train, kept = whole.take(slice(None, rows)), whole.take(slice(rows, None))
    draft = BundleDraft.open(folder)
    calibration = make_cascade(model, draft, train, kept, lambda rows: model.predict(rows.texts), settings)
    draft.sign(tiny.KEY)
    return calibration


def test_token_and_pair_columns_are_position_independent() -> None:
    """Token or pair that occurs twice in a text counts once."""
    one, two = count_tokens([(5, 6, 7), (1, 6, 7, 6, 7)]).toarray()
    assert one.sum() == 5 and set(one) == {0.0, 1.0}
    # 1, 6 and 7 with the pairs 1-6, 6-7 and 7-6: what comes twice counts once.
    assert two.sum() == 6
    assert (one * two).sum() == 3, "6, 7, and the pair of them"
    assert count_tokens([]).shape == (0, COLUMNS) and count_tokens([()]).sum() == 0


def test_saved_first_stage_loads_unchanged(stage: FirstStage, tmp_path: Path) -> None:
    tokens = tiny.encoder().tokenise(tiny.sentences(40, seed=9)[0])
    replace(stage, threshold=0.75).save(tmp_path / FIRST)
    found = load_first_stage(tmp_path / FIRST, len(tiny.LABELS))
    assert found.threshold == 0.75
    np.testing.assert_array_equal(found.predict_proba(tokens), stage.predict_proba(tokens))


def test_uncalibrated_stage_is_accurate_but_never_sure(stage: FirstStage) -> None:
    texts, labels = tiny.sentences(300, seed=9)
    said = stage.predict_proba(tiny.encoder().tokenise(texts))
    assert np.allclose(said.sum(axis=1), 1, atol=1e-5)
    assert np.mean([tiny.LABELS[row] == label for row, label in zip(said.argmax(axis=1), labels, strict=True)]) > 0.95
    assert not stage.is_sure(said).any()


def test_class_absent_from_training_is_never_predicted() -> None:
    """Other two classes are predicted rightly for more than 95% of the texts."""
    texts, labels = tiny.sentences(ROWS, seed=3)
    pairs = [(text, label) for text, label in zip(texts, labels, strict=True) if label != "neutral"]
    tokens = tiny.encoder().tokenise([text for text, _ in pairs])
    stage = fit_first_stage(tokens, [label for _, label in pairs], tiny.LABELS)
    said = stage.predict_proba(tokens)
    right = [tiny.LABELS[row] == label for row, (_, label) in zip(said.argmax(axis=1), pairs, strict=True)]
    assert np.mean(right) > 0.95
    assert said[:, tiny.LABELS.index("neutral")].max() < 1e-6


@pytest.mark.parametrize(
    "broken",
    [
        lambda parts: parts.pop("idf") is None,
        lambda parts: parts.update(more=np.zeros(1, np.float32)),
        lambda parts: parts.update(columns=parts["columns"][::-1].copy()),
        lambda parts: parts.update(columns=parts["columns"].astype(np.int64)),
        lambda parts: parts.update(columns=parts["columns"] + np.int32(COLUMNS)),
        lambda parts: parts.update(weights=parts["weights"][:2].copy()),
        lambda parts: parts.update(bias=np.full_like(parts["bias"], np.nan)),
        lambda parts: parts.update(idf=parts["idf"][:-1].copy()),
    ],
)
def test_inconsistent_first_stage_file_is_refused(stage: FirstStage, tmp_path: Path, broken: object) -> None:
    stage.save(tmp_path / FIRST)
    load_first_stage(tmp_path / FIRST, 3)
    parts = load_file(tmp_path / FIRST)
    broken(parts)  # type: ignore[operator]
    save_file(parts, tmp_path / FIRST)
    with pytest.raises(ValueError, match="first stage"):
        load_first_stage(tmp_path / FIRST, 3)


def test_unreadable_first_stage_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(ValueError, match="cannot be read"):
        load_first_stage(tmp_path / FIRST, 3)


class Made(FirstStage):
    """A first stage whose probabilities are given: as many rows as there are tokens."""

    said: np.ndarray

    def predict_proba(self, tokens: object) -> np.ndarray:
        return self.said


def rows(seed: int, n: int, wrong: float) -> tuple[Made, list[str], Predictions]:
    """n rows of two classes, an encoder that is right on 80%, and a first stage that is wrong on a share more.

    What it is sure of it has to be right about: its mistakes lie among its less sure answers.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    encoder = np.where(rng.random(n) < 0.8, truth, 1 - truth)
    sure = rng.random(n)
    first = np.where(rng.random(n) < 2 * wrong * (1 - sure), 1 - encoder, encoder)
    part = 0.5 + sure / 2
    stage = Made(*(np.zeros(0, np.int32), np.zeros(0), np.zeros((2, 0)), np.zeros(2)), threshold=2.0)
    object.__setattr__(stage, "said", np.where(first[:, None] == [0, 1], part[:, None], 1 - part[:, None]))
    said = Predictions(("a", "b"), np.eye(2, dtype=np.float32)[encoder], np.zeros((n, 0), np.float32), "encoder", 0.0)
    return stage, ["ab"[i] for i in truth], said


def lost(stage: Made, threshold: float, truth: list[str], said: Predictions) -> float:
    """Accuracy of the encoder minus that of the cascade."""
    sure = stage.said.max(axis=1) >= threshold
    cascade = np.where(sure, stage.said.argmax(axis=1), said.probabilities.argmax(axis=1))
    true = np.array(["ab".index(one) for one in truth])
    return float((said.probabilities.argmax(axis=1) == true).mean() - (cascade == true).mean())


def test_accuracy_loss_on_unseen_rows_respects_limit() -> None:
    """The control: answering everything loses four times as much."""
    losses, shares, everything = [], [], []
    for seed in range(40):
        stage, truth, said = rows(seed, 600, wrong=0.15)
        found = calibrate(stage, [()] * 600, truth, said, 0.02, 0.9)
        fresh, new_truth, new_said = rows(1000 + seed, 4000, wrong=0.15)
        everything.append(lost(fresh, 0.0, new_truth, new_said))
        if found is not None:
            assert found[1].loss_high <= 0.02 and found[1].rows == 600
            losses.append(lost(fresh, found[0].threshold, new_truth, new_said))
            shares.append(found[1].share)
    assert len(losses) >= 30 and np.mean(shares) > 0.3
    assert np.mean(np.array(losses) <= 0.02) >= 0.9
    assert np.mean(everything) > 0.06


def test_uninformative_first_stage_is_not_used() -> None:
    for seed in range(10):
        stage, truth, said = rows(seed, 600, wrong=0.0)
        rng = np.random.default_rng(seed)
        object.__setattr__(stage, "said", rng.permutation(stage.said))
        assert calibrate(stage, [()] * 600, truth, said, 0.02, 0.9) is None


def test_agreeing_first_stage_answers_nearly_all() -> None:
    stage, truth, said = rows(1, 600, wrong=0.0)
    found = calibrate(stage, [()] * 600, truth, said, 0.02, 0.9)
    assert found is not None and found[1].share > 0.9 and found[1].loss == 0.0 == found[1].disagreement


def test_calibration_needs_enough_rows() -> None:
    stage, truth, said = rows(1, 60, wrong=0.0)
    assert calibrate(stage, [()] * 60, truth, said, 0.02, 0.9) is None


def test_bundle_is_signed_with_its_first_stage(tmp_path: Path) -> None:
    folder = written(tmp_path / "bundle")
    before = load_bundle(folder, tiny.KEY)
    worth = made(folder)
    model = load_bundle(folder, tiny.KEY)
    assert before.first_stage is None and before.cascade is None
    assert model.first_stage is not None and model.cascade == worth == verify_bundle(folder, tiny.KEY).cascade
    assert worth.share > 0.3 and worth.loss_high <= 0.02  # type: ignore[attr-defined]
    assert model.made_at > 1.7e9
    texts = tiny.sentences(100, seed=8)[0]
    sure = model.first_stage.is_sure(model.first_stage.predict_proba(model.encoder.tokenise(texts)))
    assert sure.any() and not sure.all()


@pytest.mark.parametrize(
    ("settings", "rows", "held"),
    [
        pytest.param(msgspec.structs.replace(SETTINGS, retrain=RetrainSettings(cascade_loss=0.0)), ROWS, 300, id="off"),
        pytest.param(SETTINGS, MIN_ROWS - 1, 300, id="too few to learn from"),
        pytest.param(SETTINGS, ROWS, MIN_HELD - 1, id="too few to say what it loses"),
    ],
)
def test_first_stage_needs_setting_and_enough_rows(tmp_path: Path, settings: Settings, rows: int, held: int) -> None:
    folder = written(tmp_path / "bundle")
    assert made(folder, settings, rows, held) is None
    assert load_bundle(folder, tiny.KEY).first_stage is None


def test_tampered_first_stage_is_not_loaded(tmp_path: Path) -> None:
    """File of the first stage is changed, missing, or added without being in the manifest."""
    whole = written(tmp_path / "whole")
    made(whole)
    changed, left_out, put_in = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("one", "two", "three"))
    (changed / FIRST).write_bytes((changed / FIRST).read_bytes()[:-1] + b"\x01")
    (left_out / FIRST).unlink()
    plain = written(tmp_path / "plain")
    shutil.rmtree(put_in)
    shutil.copytree(plain, put_in)
    shutil.copy(whole / FIRST, put_in / FIRST)
    for folder, words in ((changed, "altered"), (left_out, "missing"), (put_in, "does not name")):
        with pytest.raises(BundleError, match=words):
            load_bundle(folder, tiny.KEY)
