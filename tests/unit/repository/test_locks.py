"""Lock files: both lock the dependencies that pyproject.toml has."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[3]


def read(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def declared() -> set[tuple[str, SpecifierSet]]:
    """Name and version limits of each dependency in pyproject.toml, extras and groups included."""
    found = read("pyproject.toml")
    extras, groups = found["project"]["optional-dependencies"], found["dependency-groups"]
    lists = [found["project"]["dependencies"], *extras.values(), *groups.values()]
    requirements = [Requirement(line) for lines in lists for line in lines]
    return {(one.name, one.specifier) for one in requirements if one.name != "driftloop"}


def locked(path: str) -> set[tuple[str, SpecifierSet]]:
    """Name and version limits of each dependency that a lock file was made for."""
    (metadata,) = (one["metadata"] for one in read(path)["package"] if one["name"] == "driftloop")
    lists = [metadata["requires-dist"], *metadata["requires-dev"].values()]
    entries = [(one["name"], SpecifierSet(one.get("specifier", ""))) for lines in lists for one in lines]
    return {entry for entry in entries if entry[0] != "driftloop"}


@pytest.mark.parametrize("path", ["uv.lock", "benchmarks/performance/peers/uv.lock"])
def test_lock_file_matches_declared_dependencies(path: str) -> None:
    """Otherwise `uv sync --locked` refuses the lock: run `uv lock` in its folder."""
    assert len(declared()) > 40
    assert locked(path) == declared()
