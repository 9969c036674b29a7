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
def test_libraries_are_told_to_report_nothing_before_they_are_imported(first: str, tmp_path: Path) -> None:
    """With the control: without driftloop they would, and ONNX Runtime gives the machine a number in its home."""
    # And of the rest of the environment nothing: libraries keep still in a test or in CI, too.
    env = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    env |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-c", LOOK.format(first=first)]
    said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=120).stdout
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    if first == "driftloop":
        assert said.split() == ["True", "True"] and not left
    else:
        assert said.split() == ["False", "False"] and "deviceid" in left
