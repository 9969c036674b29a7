"""No library reports to its maker who runs driftloop, or what for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import {first}, onnxruntime
from huggingface_hub import constants
from mlflow.telemetry import utils
print(constants.HF_HUB_DISABLE_TELEMETRY, utils.is_telemetry_disabled())
"""


@pytest.mark.parametrize("first", ["driftloop", "os"])
def test_library_telemetry_is_disabled_before_import(first: str, tmp_path: Path) -> None:
    """With the control: without driftloop they would, and ONNX Runtime gives the machine a number in its home."""
    said, left = run(LOOK.format(first=first), tmp_path)
    if first == "driftloop":
        assert said.split() == ["True", "True"] and not left
    else:
        assert said.split() == ["False", "False"] and "deviceid" in {path.name for path in left}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["retrain.candidates.tpot_search", "tpot"])
def test_tpot_does_not_ask_for_its_newest_version(module: str, tmp_path: Path) -> None:
    """With the control: by itself it asks, and keeps the answer, or that there was none, in its home."""
    _, left = run(f"import {module}", tmp_path)
    assert any("update_checker" in path.parts for path in left) == (module == "tpot")


def run(program: str, home: Path) -> tuple[str, set[Path]]:
    """What a Python program prints, and the files that it leaves in an empty home."""
    # Nothing else of the environment is passed on: libraries keep still in a test or in CI, too.
    env = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    env |= {"HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout, {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
