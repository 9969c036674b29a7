"""The device of the fine-tuning: what is asked for, and one sentence where it is not there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from driftloop.core.errors import DriftloopError
from driftloop.core.models.bundle import Lineage, load_bundle, verify_bundle
from driftloop.core.settings import ModelSettings
from retrain.candidates.base import Budget, Task
from retrain.candidates.trainable_network import choose_device
from retrain.fitting import sandbox
from tests import tiny

NONE = "DRIFTLOOP_RETRAIN__DEVICE is cuda and torch finds no CUDA device: set it to auto or cpu, or use a machine"


def task(folder: Path, device: str) -> Task:
    model = ModelSettings(encoder=str(tiny.encoder_folder()), max_tokens=tiny.MAX_TOKENS)
    made = Task(
        budget=Budget(120.0),
        model=model,
        lineage=Lineage(candidate="finetune"),
        signing_key=tiny.KEY,
        scratch=folder / "scratch",
    )
    return replace(made, device=device)


def with_gpu(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_device_follows_setting_and_available_hardware(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, chosen: str
) -> None:
    with_gpu(monkeypatch, there)
    assert choose_device(wanted) == chosen


def test_cuda_setting_without_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, False)
    with pytest.raises(DriftloopError, match=NONE):
        choose_device("cuda")


@pytest.mark.parametrize(("device", "seen"), [("cpu", ""), ("auto", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))])
def test_cpu_setting_hides_gpu_from_fit_process(tmp_path: Path, device: str, seen: str) -> None:
    assert sandbox.run("tests.misbehaving:Looks", tiny.window(30), task(tmp_path, device), tmp_path).reason == (
        f"it sees {seen!r}"
    )


@pytest.mark.slow
def test_finetune_without_required_gpu_fails_without_rescue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Candidate's reason is the message about the missing CUDA device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    end = sandbox.run("finetune", tiny.window(60), task(tmp_path, "cuda"), tmp_path)
    assert end.bundle is None and end.reason.startswith(NONE)
    assert not (tmp_path / "rescue.log").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
@pytest.mark.parametrize(("device", "used"), [("cuda", "cuda"), ("auto", "cuda"), ("cpu", "cpu")])
def test_finetune_learns_on_configured_device(device: str, used: str, tmp_path: Path) -> None:
    end = sandbox.run("finetune", tiny.window(160), task(tmp_path, device), tmp_path)
    assert end.bundle is not None, end.reason
    assert verify_bundle(end.bundle, tiny.KEY).lineage.parameters["device"] == used
    texts, labels = tiny.sentences(120, seed=99)
    said = load_bundle(end.bundle, tiny.KEY).predict(texts).labels
    assert sum(a == b for a, b in zip(said, labels, strict=True)) > 0.6 * 120
