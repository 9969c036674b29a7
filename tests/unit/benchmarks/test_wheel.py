"""Wheel: of the benchmarks it has exactly the modules that `driftloop bench` imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHECKOUT_ONLY = {"benchmarks.performance.peers.pipeline_model"}
"""Imported when the peers are installed, which needs a checkout."""


def modules() -> dict[str, Path]:
    """Return the file of each module of the benchmarks."""
    found = {}
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, and the names that it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def needed(known: dict[str, Path]) -> set[str]:
    """Return the modules that the entry points need, with their packages."""
    todo = [entry.partition(":")[0] for entry in PROJECT["project"]["entry-points"]["driftloop.benchmarks"].values()]
    found: set[str] = set()
    while todo:
        module = todo.pop()
        if module in found or module in CHECKOUT_ONLY:
            continue
        found.add(module)
        todo += [one for one in imports(known[module]) if one in known]
        todo += [module.rpartition(".")[0]] if "." in module else []
    return found


def packaged(known: dict[str, Path]) -> set[str]:
    """Return the modules that the wheel's settings let through."""
    exclude = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    for pattern in exclude:
        assert (ROOT / pattern).exists(), f"{pattern} does not exist"
        assert pattern.endswith("/") == (ROOT / pattern).is_dir(), pattern
    return {
        name for name, path in known.items() if not f"{path.relative_to(ROOT)}".startswith(tuple(exclude))
    }  # fmt: skip


def test_wheel_contains_exactly_the_bench_modules() -> None:
    known = modules()
    assert {"benchmarks.resilience.soak", "benchmarks.adaptation.run"} < known.keys()
    assert packaged(known) == needed(known)
