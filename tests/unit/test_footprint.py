"""Scoring and monitoring install and run without torch; every dependency is locked with its hashes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "tpot", "datasets"}
MISSING = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HEAVY)!r}:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Missing())
"""
"""Makes an interpreter in which the heavy packages are not installed."""


@pytest.fixture(scope="module")
def lock() -> dict[str, dict[str, Any]]:
    """The locked packages by name."""
    with (ROOT / "uv.lock").open("rb") as file:
        return {package["name"]: package for package in tomllib.load(file)["package"]}


def closure(lock: dict[str, dict[str, Any]], extras: set[str]) -> set[str]:
    """The packages that driftloop with these extras needs, on any platform."""
    own = lock["driftloop"]
    waiting = [dependency["name"] for dependency in own["dependencies"]]
    for extra in extras:
        waiting += [dependency["name"] for dependency in own["optional-dependencies"][extra]]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [dependency["name"] for dependency in lock[name].get("dependencies", ())]
    return found


def test_the_scorers_packages_hold_no_torch(lock: dict[str, dict[str, Any]]) -> None:
    assert not closure(lock, set()) & HEAVY
    assert closure(lock, {"retrain"}) >= HEAVY, "the control: the closure would find it"


def test_every_locked_file_has_a_hash(lock: dict[str, dict[str, Any]]) -> None:
    files = [file for package in lock.values() for file in (*package.get("wheels", ()), package.get("sdist"))]
    present = [file for file in files if file]
    assert len(present) > 100
    assert all(file["hash"].startswith("sha256:") for file in present)


@pytest.mark.parametrize("module", ["stream_processors.scorer", "stream_processors.monitor"])
def test_a_processor_is_imported_where_there_is_no_torch(module: str) -> None:
    code = MISSING + f"import {module}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    control = subprocess.run([sys.executable, "-c", MISSING + "import torch"], capture_output=True, text=True, cwd=ROOT)
    assert control.returncode != 0 and "torch is not installed" in control.stderr
