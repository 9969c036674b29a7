"""docs/threat-model.md says what is so: its tests exist, its table is the one that is applied."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from driftloop.core.kafka import acls

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


def missing(page: str) -> list[str]:
    """The tests that a page names, and that do not exist."""
    out = []
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page):
        path = ROOT / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if not path.is_file() or (name and name not in known):
            out.append(f"{file}::{name}")
    return out


def test_every_test_that_the_page_names_exists() -> None:
    assert PAGE.count("::test_") > 20 and missing(PAGE) == []
    assert missing("`tests/unit/core/test_bundle.py::test_nonesuch`") == [
        "tests/unit/core/test_bundle.py::test_nonesuch"
    ]
    assert missing("`tests/unit/test_nonesuch.py::test_it`") == ["tests/unit/test_nonesuch.py::test_it"]


def test_acl_table_of_page_matches_applied_acls() -> None:
    assert "\n".join(acls.acl_table()) in PAGE
