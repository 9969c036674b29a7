"""Old names of settings: they work until the next release, in variables, files and records of earlier runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftloop.cli import options, run_directory
from driftloop.core import settings_source
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings
from driftloop.core.settings_source import RENAMED

VALUES = {
    "breaker": "0.25",
    "work": "/scratch",
    "scorer.within": "0.7",
    "scorer.remember": "9",
    "scorer.member": "mine",
    "scorer.floor_ms": "3.5",
    "monitor.within": "0.8",
    "monitor.member": "its",
    "retrain.at_once": "2",
    "retrain.per_day": "3",
    "retrain.memory": "4",
}
"""A value for each old name that is not the default."""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No old name has been reported yet."""
    monkeypatch.setattr(settings_source, "_reported", set())


def variable(path: str) -> str:
    return f"DRIFTLOOP_{path.upper().replace('.', '__')}"


def value_of(chosen: Settings, path: str) -> str:
    return settings_source.environment(chosen)[variable(path)]


def test_new_names_are_settings_old_names_are_not() -> None:
    known = set(settings_source.environment(Settings()))
    assert VALUES.keys() == RENAMED.keys()
    assert {variable(new) for new in RENAMED.values()} <= known
    assert not {variable(old) for old in RENAMED} & known


@pytest.mark.parametrize("old", RENAMED)
def test_old_variable_works_with_one_warning(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Warning is one line with the old and the new name."""
    given = {variable(old): VALUES[old]}
    chosen = [settings_source.load(given) for _ in range(3)][-1]
    assert value_of(chosen, RENAMED[old]) == VALUES[old] != value_of(Settings(), RENAMED[old])
    said = capsys.readouterr()
    assert said.out == "" and said.err == (
        f"driftloop: {variable(old)} is now called {variable(RENAMED[old])}: rename it. "
        "The next release refuses the old name.\n"
    )


@pytest.mark.parametrize("old", RENAMED)
def test_old_file_key_works_with_one_warning(old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warning is one line with the old and the new name."""
    table, _, key = old.rpartition(".")
    value = VALUES[old] if VALUES[old][0].isdigit() else f'"{VALUES[old]}"'
    file = tmp_path / "mine.toml"
    file.write_text((f"[{table}]\n" if table else "") + f"{key} = {value}\n", encoding="utf-8")
    chosen = [settings_source.load({"DRIFTLOOP_SETTINGS": str(file)}) for _ in range(3)][-1]
    assert value_of(chosen, RENAMED[old]) == VALUES[old]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{old} in {file} is now called {RENAMED[old]}" in said


@pytest.mark.parametrize("first", [True, False])
def test_new_name_wins_over_old_name(first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [("DRIFTLOOP_SCORER__MAX_WAIT", "0.5"), ("DRIFTLOOP_SCORER__WITHIN", "0.7")]
    assert settings_source.load(dict(given if first else reversed(given))).scorer.max_wait == 0.5
    file = tmp_path / "mine.toml"
    lines = ["max_wait = 0.5", "within = 0.7"]
    file.write_text("\n".join(["[scorer]", *(lines if first else reversed(lines))]), encoding="utf-8")
    assert settings_source.load({"DRIFTLOOP_SETTINGS": str(file)}).scorer.max_wait == 0.5
    assert "SCORER__WITHIN is now called" in capsys.readouterr().err


def test_old_names_keep_precedence_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old variable wins over a file, and an old key of a file over the settings stored by a run."""
    (tmp_path / "mine.toml").write_text("breaker = 0.1\n[scorer]\nmax_wait = 0.5\n", encoding="utf-8")
    monkeypatch.setenv("DRIFTLOOP_SETTINGS", str(tmp_path / "mine.toml"))
    monkeypatch.setenv("DRIFTLOOP_SCORER__WITHIN", "0.7")
    remembered = {"DRIFTLOOP_SCORER__MAX_WAIT": "0.9", "DRIFTLOOP_DEAD_LETTER_LIMIT": "0.9"}
    chosen = options.load_settings(options.StackOptions("score"), remembered)
    assert (chosen.scorer.max_wait, chosen.dead_letter_limit) == (0.7, 0.1)


def test_earlier_run_record_loads_without_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {variable(old): value for old, value in VALUES.items()}
    run_directory.save(tmp_path, run_directory.Record(scenario="tweets", settings=stored))
    chosen = settings_source.load(run_directory.read(tmp_path).settings)
    assert {old: value_of(chosen, new) for old, new in RENAMED.items()} == VALUES
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["DRIFTLOOP_MONITOR__REMEMBER", "DRIFTLOOP_WITHIN", "DRIFTLOOP_API__MEMBER"])
def test_an_unknown_name_is_still_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DriftloopError, match="unknown field"):
        settings_source.load({name: "1"})
    assert capsys.readouterr().err == ""


def test_invalid_value_error_names_new_field() -> None:
    with pytest.raises(DriftloopError, match=r"at `\$\.scorer\.max_wait`"):
        settings_source.load({"DRIFTLOOP_SCORER__WITHIN": "never"})


def test_a_child_process_gets_the_new_names_only() -> None:
    variables = settings_source.environment(settings_source.load({"DRIFTLOOP_SCORER__MEMBER": "mine"}))
    assert variables["DRIFTLOOP_SCORER__GROUP_INSTANCE_ID"] == "mine" and "DRIFTLOOP_SCORER__MEMBER" not in variables
