"""Every block of the pages that needs no loop: it is what it says it is."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from driftloop.cli import parser
from driftloop.core import plugins, settings, settings_source
from producers.scenarios.scenarios import load_scenario
from tests.docs.snippets import KINDS, PAGES, ROOT, Snippet, everywhere, of

TWEETS = """
[dataset]
packaged = "tweets"
"""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))


def name(snippet: Snippet) -> str:
    return str(snippet)


def reviews(folder: Path, rows: int = 600) -> None:
    """A file like the one that the pages speak of."""
    lines = ["body,stars,shop"]
    for i in range(rows):
        shop, stars = ("travel", "food")[i * 2 // rows], ("bad", "good", "fine")[i % 3]
        lines.append(f"{shop} that is {stars} number {i},{stars},{shop}")
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_code_block_has_known_kind(page: Path) -> None:
    unknown = [f"{one} {one.kind!r}" for one in of(page) if one.kind not in KINDS]
    assert not unknown, unknown


def test_text_blocks_contain_no_command() -> None:
    starts = ("driftloop ", "make ", "python ", "docker ", "curl ", "kubectl ", "$ ")
    said = [one for one in everywhere("text") if one.text.startswith(starts) and "driftloop  " not in one.text]
    assert not said, [str(one) for one in said]


@pytest.mark.parametrize("snippet", everywhere("toml scenario"), ids=name)
def test_scenario_snippets_load(snippet: Snippet, tmp_path: Path) -> None:
    reviews(tmp_path)
    text = snippet.text if "[dataset]" in snippet.text else snippet.text + TWEETS
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert len(load_scenario(str(tmp_path / "mine.toml"))) > 0


@pytest.mark.parametrize("snippet", everywhere("toml settings"), ids=name)
def test_settings_snippets_load(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("signing.key").write_text("a secret", encoding="utf-8")
    Path("mine.toml").write_text(snippet.text, encoding="utf-8")
    found = settings_source.load(settings_source.with_file({"DRIFTLOOP_SETTINGS": "mine.toml"}))
    assert found != settings.Settings()


@pytest.mark.parametrize("snippet", everywhere("toml project"), ids=name)
def test_entry_point_snippets_name_existing_classes(snippet: Snippet) -> None:
    groups = tomllib.loads(snippet.text)["project"]["entry-points"]
    assert set(groups) == {f"driftloop.{kind}" for kind in plugins.KINDS}
    for points in groups.values():
        for target in points.values():
            assert isinstance(plugins.find_any(target), type)


@pytest.mark.parametrize("snippet", everywhere("pycon"), ids=name)
def test_interpreter_snippets_give_shown_output(snippet: Snippet) -> None:
    found = doctest.DocTestParser().get_doctest(snippet.text, {}, name(snippet), str(snippet.page), snippet.line)
    assert found.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(found)
    assert runner.failures == 0


@pytest.mark.parametrize("snippet", everywhere("sh", "sh elsewhere", "sh long", "sh containers", "sh yours"), ids=name)
def test_shell_snippets_have_valid_syntax(snippet: Snippet) -> None:
    done = subprocess.run(["bash", "-n"], input=snippet.text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("snippet", everywhere("sh long", "sh yours", "sh containers"), ids=name)
def test_snippet_commands_accept_their_options(snippet: Snippet) -> None:
    """What is too long to be run, or is run elsewhere: targets, verbs, benchmarks, files and options are there."""
    known = 0
    for line in snippet.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||;|(?<= )& ", line.partition("  #")[0]):
            words = shlex.split(part.split(" #")[0])
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            known += bool(words) and understood(words)
    assert known or snippet.kind == "sh yours" or snippet.text.startswith("docker"), "nothing in it was looked at"


def understood(words: list[str]) -> bool:
    """Check a command of the project's own."""
    if words[0] == "make":
        assert words[1] in TARGETS, words
        given = [word.partition("=")[2] for word in words[2:] if word.startswith("ARGS=")]
        command = re.search(rf"^{words[1]}:.*\n(?:\t.*\n)*?\t\$\(RUN\)(.+) \$\(ARGS\)", MAKEFILE, re.MULTILINE)
        if given:
            assert command, f"make {words[1]} takes no ARGS"
            run = command[1].removeprefix("python -m ").split()
            takes([sys.executable, "-m", *run], shlex.split(given[0]))
    elif words[:2] == ["python", "-m"]:
        takes([sys.executable, "-m", words[2]], words[3:])
    elif words[:2] == ["driftloop", "bench"]:
        takes([sys.executable, "-m", "driftloop", "bench", words[2]], words[3:])
    elif words[0] == "driftloop":
        parser.build().parse_args(words[1:])
    elif "--kustomize" in words:
        assert (ROOT / words[-1] / "kustomization.yaml").is_file(), words
    else:
        return False
    return True


def takes(command: list[str], options: list[str]) -> None:
    """Each of the options is one that the command's help names."""
    page = help_of(*command)
    for option in options:
        if option.startswith("--"):
            assert re.search(rf"{option}\b", page), f"{' '.join(command[1:])} has no {option}"


@cache
def help_of(*command: str) -> str:
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
