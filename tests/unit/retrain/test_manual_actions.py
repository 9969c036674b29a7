"""What the verbs for people take, refuse and print; what they do is tested on the real stack."""

from __future__ import annotations

import getpass

import pytest

from driftloop.cli import parser
from driftloop.cli.commands import models
from driftloop.cli.main import main
from driftloop.core.models.registry import Model
from tests.unit.serving.test_views import HOSTILE, STEERING

PARSER = parser.build()


@pytest.mark.parametrize(
    ("line", "model", "reason", "by"),
    [
        (["approve", "7"], "7", "", ""),
        (["approve", "7", "--by", "Ada"], "7", "", "Ada"),
        (["reject", "7", "--reason", "no"], "7", "no", ""),
        (["rollback"], "", "", ""),
        (["rollback", "4", "--reason", "no", "--by", "Ada"], "4", "no", "Ada"),
    ],
)
def test_model_argument_is_not_the_version_flag(line: list[str], model: str, reason: str, by: str) -> None:
    found = PARSER.parse_args(line)
    assert (found.model, found.reason, found.by, found.version) == (model, reason, by, False)


@pytest.mark.parametrize("line", [["approve"], ["reject", "7"], ["reject", "--reason", "no"]])
def test_missing_required_argument_is_refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", [["--replay"], ["--html", "page.html"]])
def test_page_and_replay_require_case_id(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["case", *option]) == 2
    assert capsys.readouterr().err.startswith("driftloop: `--html` and `--replay` need a case id; run `driftloop case`")


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert models.user_name() == getpass.getuser() == "ada"
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)  # as in a container that has no line for its user
    assert models.user_name() == "unknown user"


def test_model_table_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    one = Model("9", True, "linear", HOSTILE, "promoted", 0.8125, "8", "4", HOSTILE)
    models.show_models([one], {"9": 0.75})
    out = capsys.readouterr().out
    assert all(part in out for part in ("● ", "9 (is 4)", "linear", "promoted", "0.812", "0.750", "\\x1b"))
    assert not any(character in out for character in STEERING)
    models.show_models([], {})
    assert "No model is registered" in capsys.readouterr().out
