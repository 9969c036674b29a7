"""`driftloop check` as a user calls it, on the examples of docs/plugins.md and on classes that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from driftloop.testing.checks import describe
from stream_processors.drift import checks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
NAMED = re.findall(r"driftloop check (my_package\.\S+)", PAGE)


def check(name: str, **environ: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    paths = os.pathsep.join([str(ROOT / "docs" / "examples"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "driftloop", "check", name],
        env=os.environ | {"PYTHONPATH": paths} | environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "candidate" in name else ()) for name in NAMED]
)
def test_documented_examples_pass_their_checks(name: str) -> None:
    status, said, words = check(name)
    kind = {"detector": "detector", "policy": "policy", "candidate": "candidate", "classifier": "classifier"}
    lines = said.splitlines()
    assert status == 0, said + words
    assert lines[0] == f"{name} is a {kind[name.partition(':')[0].rpartition('.')[2]]}."
    assert len(lines) > 6 and all(line.startswith("passed  ") for line in lines[1:-1])
    assert lines[-1] == f"{len(lines) - 2} of {len(lines) - 2} checks passed."


def test_page_shows_output_of_check_command() -> None:
    """The page has one example for each of the four kinds."""
    assert len(NAMED) == 4 and len(set(NAMED)) == 4
    _, said, _ = check("my_package.detector.Cusum")
    assert f"```text\n{said}```" in PAGE
    assert re.findall(r"passed  (.*)", said) == [describe(one) for one in checks.CHECKS]


def test_failed_check_prints_reason_and_exits_1() -> None:
    status, said, words = check("tests.broken.detectors:Deaf")
    assert (status, words) == (1, "")
    assert (
        "failed  The detector finds a rise from 0.2 to 0.8 within 400 values: a rise from 0.2 to 0.8 was not found"
        in said
    )
    assert "passed  The detector seldom alarms on a signal that does not move\n" in said
    assert said.endswith("4 of 6 checks passed.\n")


def test_class_without_required_members_fails() -> None:
    status, said, _ = check("tests.broken.detectors:Nameless")
    assert status == 1 and "failed  The detector has a name, `update` and `reset`: " in said
    assert "is not a detector: it needs a name, update and reset" in said


def test_parameters_in_the_name_are_applied() -> None:
    """Parameters are written as in the settings: after a question mark."""
    status, said, _ = check("my_package.detector:Cusum?limit=100000")
    assert status == 1 and "a rise from 0.2 to 0.8 was not found" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "'nothing' names no class: give my_package.module:MyClass."),
        ("no.such:Thing", "no.such:Thing cannot be imported (ModuleNotFoundError: No module named 'no'): install"),
        ("my_package.detector:Cusun", "my_package.detector has no Cusun; correct the name"),
        ("json:loads", "json:loads is no class with one of the methods decide, update, predict, fit"),
        ("json:JSONDecoder", "json:JSONDecoder is no class with one of the methods"),
        ("my_package.detector:Cusum?limit=much", "'limit=much' in 'my_package.detector:Cusum' is not a number"),
        ("my_package.detector:Cusum?height=1", "my_package.detector:Cusum cannot be made (TypeError: "),
        ("my_package.policy:EveryMistakes?period=1", "A policy takes no parameters: leave out ?period=1."),
        ("tests.broken.policies:Unmakeable", "tests.broken.policies:Unmakeable cannot be made (TypeError: "),
    ],
)
def test_invalid_target_exits_2_with_one_line(name: str, says: str) -> None:
    status, _, words = check(name)
    assert status == 2 and says in words and words.count("\n") == 1
