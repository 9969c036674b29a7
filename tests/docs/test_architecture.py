"""The architecture page names classes and files that exist."""

from __future__ import annotations

import ast
import re

from tests.docs.snippets import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def unknown(page: str) -> list[str]:
    """Return each `Name` and `file` of a row, or of a `Name` (`file`), that the code does not define."""
    out = []
    for name, path in re.findall(r"`(\w+)`(?: \| | \()`([\w/]+\.py)`", page):
        file = ROOT / path
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
        if name not in {getattr(node, "name", "") for node in tree.body}:
            out.append(f"{path}:{name}")
    return out


def test_classes_on_page_exist_in_named_files() -> None:
    assert len(re.findall(r"`\w+` \| `[\w/]+\.py` \|", PAGE)) > 20
    assert unknown(PAGE) == []
    assert unknown("| 1. | `Nobody` | `retrain/worker.py` |") == ["retrain/worker.py:Nobody"]
    assert unknown("`Worker` (`retrain/nothing.py`)") == ["retrain/nothing.py:Worker"]
