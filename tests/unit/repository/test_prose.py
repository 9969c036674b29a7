"""The prose rules of CONTRIBUTING.md that a program can check, on docstrings, comments, texts and pages."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("driftloop", "producers", "stream_processors", "retrain", "serving", "benchmarks")
RIDDLES = (
    "What", "Whether", "Where", "Who", "Whom", "Whose", "Which", "Those", "How", "When", "Of", "So", "Nothing",
    "Nobody", "Somebody", "Something", "Until", "Its",
)  # fmt: skip
"""First words of a docstring that begins with a clause and not with its noun or verb."""
IDIOMS = (
    "what came of it", "came of it", "gets on", "in office", "a person's word", "so many", "be it", "told again",
    "tell again", "none where there is none", "whoever", "whatever", "whomever", "somebody", "nobody", "strangers",
    "is through", "of ours", "of theirs",
)  # fmt: skip
"""Phrases of this project that no other project uses."""
PAGES = ("*.md", "docs/*.md", "deploy/**/*.md", ".github/**/*.md")


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def pages() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *PAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def documented(text: str) -> Iterator[tuple[ast.AST, str]]:
    """Each module, class and function with its docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node, docstring


def riddles(text: str) -> list[str]:
    """First lines of docstrings that begin with a clause."""
    return [said.splitlines()[0] for _, said in documented(text) if re.split(r"\W", said, maxsplit=1)[0] in RIDDLES]


def silent(text: str) -> list[str]:
    """Public functions with two or more parameters whose docstring does not list them."""
    out = []
    for node, said in documented(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([one for one in given if one.arg not in ("self", "cls")]) > 1 and "Args:" not in said:
                out.append(node.name)
    return out


def idioms(text: str) -> list[str]:
    """Banned phrases in a text."""
    words = re.sub(r"\s+", " ", re.sub(r"[`\"]nobody[`\"]", "", text.lower()))  # the name of a role
    return [phrase for phrase in IDIOMS if re.search(rf"\b{re.escape(phrase)}\b", words)]


def clauses(page: str) -> list[str]:
    """Headings that are neither a task nor a noun."""
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ +((?:What|How|Who|Whom|Why|Where|Whether|When|Which|If)\b.*)$", prose, re.MULTILINE)


def long_names(text: str) -> list[str]:
    """Names of tests with more than eight words."""
    return [name for name in re.findall(r"def (test_\w+)", text) if name.count("_") > 8]


def test_docstrings_begin_with_their_noun_or_verb() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sources()]
    total = sum(len(list(documented(text))) for text in texts)
    found = [line for text in texts for line in riddles(text)]
    assert total > 2000 and found == []
    assert riddles('"""What it is."""\n') == ["What it is."], "the control"


def test_parameters_are_described() -> None:
    found = {str(path.relative_to(ROOT)): names for path in sources() if (names := silent(path.read_text("utf-8")))}
    assert found == {}
    assert silent('def f(a, b):\n    """Add."""\n') == ["f"], "the control"


def test_no_phrase_is_private_to_this_project() -> None:
    files = [*sources(), *pages()]
    found = {str(path.relative_to(ROOT)): said for path in files if (said := idioms(path.read_text(encoding="utf-8")))}
    assert found == {}
    assert idioms("It tells\nwhoever asks.") == ["whoever"], "the control"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_titles_are_tasks_or_nouns(page: Path) -> None:
    assert clauses(page.read_text(encoding="utf-8")) == []
    assert clauses("# What adapting is worth\n") == ["What adapting is worth"], "the control"


def test_test_names_have_at_most_eight_words() -> None:
    long = f"test{'_word' * 9}"
    assert long_names(f"def {long}() -> None: ...\nasync def test_short() -> None: ...") == [long]
    found = {path: long_names(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path: names for path, names in found.items() if names} == {}
