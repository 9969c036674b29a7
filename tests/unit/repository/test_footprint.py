"""Scoring and monitoring install and run without torch; every dependency is locked with its hashes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "tpot", "datasets"}


def without(names: set[str]) -> str:
    """Makes an interpreter in which these packages are not installed."""
    return f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(names)!r}:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Missing())
"""


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


def test_scorer_dependencies_exclude_torch(lock: dict[str, dict[str, Any]]) -> None:
    assert not closure(lock, set()) & HEAVY
    assert closure(lock, {"retrain"}) >= HEAVY, "the control: the closure would find it"


def test_every_locked_file_has_a_hash(lock: dict[str, dict[str, Any]]) -> None:
    files = [file for package in lock.values() for file in (*package.get("wheels", ()), package.get("sdist"))]
    present = [file for file in files if file]
    assert len(present) > 100
    assert all(file["hash"].startswith("sha256:") for file in present)


def test_worker_imports_no_heavy_candidate_packages() -> None:
    """TPOT takes seconds to import and most of a gigabyte: once that came between the first answer and the next."""
    asked = """
import sys
import retrain.worker
from driftloop.core.settings import Settings
from retrain.candidates import catalogue
quick = [name for name in Settings().retrain.candidates if catalogue.is_quick(name)]
print(quick, sorted({"torch", "transformers", "tpot"} & sys.modules.keys()))
catalogue.find("tpot")
print("tpot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["['linear'] []", "True"]


# What each image leaves out: see the Dockerfile.
@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ("stream_processors.scoring.scorer", HEAVY),
        ("stream_processors.monitoring.monitor", HEAVY),
        ("serving.app", HEAVY),
        ("driftloop.cli.commands.topics, driftloop.core.topics, driftloop.core.kafka.acls", HEAVY),
        ("producers.replay, producers.scenarios.scenarios, datasets", {"onnxruntime", "sklearn", "scipy"}),
    ],
)
def test_process_imports_without_packages_its_image_excludes(modules: str, names: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", without(names) + f"import {modules}\n"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    missing = sorted(names)[0]
    control = subprocess.run(
        [sys.executable, "-c", without(names) + f"import {missing}"], capture_output=True, text=True, cwd=ROOT
    )
    assert control.returncode != 0 and f"{missing} is not installed" in control.stderr
