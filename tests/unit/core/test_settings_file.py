"""A settings file: the same tree as the environment's, below it, and one sentence for a key that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftloop.cli import options, parser
from driftloop.cli.options import StackOptions
from driftloop.core import settings_source
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings


def written(tmp_path: Path, text: str) -> dict[str, str]:
    """The variable that names a file with that text."""
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return {"DRIFTLOOP_SETTINGS": str(file)}


EVERYTHING = """
kafka = "broker:9092"
keep_hours = 12
mask = ["email", "phone"]
[scorer]
batch = 128
max_wait = 0.5
[model]
quantise = false
[retrain]
candidates = ["linear", "my.module:Own"]
policy = "periodic"
[retrain.gate]
minimum_gain = 0.01
[api]
tokens = ["ann:admin:a-token-of-16-characters"]
"""


def test_settings_file_fills_nested_settings(tmp_path: Path) -> None:
    chosen = settings_source.load(written(tmp_path, EVERYTHING))
    assert (chosen.kafka, chosen.keep_hours, chosen.mask) == ("broker:9092", 12.0, ("email", "phone"))
    assert (chosen.scorer.batch, chosen.scorer.max_wait, chosen.model.quantise) == (128, 0.5, False)
    assert (chosen.retrain.candidates, chosen.retrain.policy) == (("linear", "my.module:Own"), "periodic")
    assert chosen.retrain.gate.minimum_gain == 0.01
    assert chosen.api.tokens == ("ann:admin:a-token-of-16-characters",)
    assert settings_source.load(settings_source.environment(chosen)) == chosen, "a child needs no file"
    assert settings_source.load(written(tmp_path, "")) == settings_source.load({"DRIFTLOOP_SETTINGS": ""}) == Settings()


def test_precedence_is_option_environment_file_stored_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option wins over the environment, that over the file, and that over a run's stored settings."""
    text = 'kafka = "file:1"\nredis = "redis://file"\nmlflow = "http://file"\n[scorer]\nbatch = 7\nmax_wait = 0.7'
    file = written(tmp_path, text)["DRIFTLOOP_SETTINGS"]
    monkeypatch.setenv("DRIFTLOOP_REDIS", "redis://environment")
    monkeypatch.setenv("DRIFTLOOP_KAFKA", "environment:1")
    monkeypatch.setenv("DRIFTLOOP_SCORER__BATCH", "9")
    given = StackOptions.of(parser.build().parse_args(["score", "--settings", file, "--kafka", "option:1"]))
    remembered = {"DRIFTLOOP_MLFLOW": "http://remembered", "DRIFTLOOP_STREAM": "remembered"}
    chosen = options.load_settings(given, remembered)
    assert (chosen.kafka, chosen.redis, chosen.mlflow) == ("option:1", "redis://environment", "http://file")
    assert (chosen.scorer.batch, chosen.scorer.max_wait, chosen.stream) == (9, 0.7, "remembered")


def test_settings_option_wins_over_settings_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_SETTINGS", str(tmp_path / "none.toml"))
    file = written(tmp_path, 'stream = "of the option"')["DRIFTLOOP_SETTINGS"]
    given = StackOptions.of(parser.build().parse_args(["monitor", "--settings", file]))
    assert options.load_settings(given).stream == "of the option"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nonsense = 1", r"unknown field `nonsense`"),
        ("[scorer]\nnonsense = 1", r"unknown field `nonsense` - at `\$\.scorer`"),
        ("[scorer]\nbatch = 1.5", r"at `\$\.scorer\.batch`"),
        ('[scorer]\nbatch = "64"', r"Expected `int`, got `str` - at `\$\.scorer\.batch`"),
        ("[scorer]\nbatch = 0", r">= 1 - at `\$\.scorer\.batch`"),
        ("[retrain]\ncandidates = [1]", r"at `\$\.retrain\.candidates\[0\]`"),
        ('[retrain]\ncandidates = "linear"', r"at `\$\.retrain\.candidates`"),
        ('[retrain]\npolicy = "sometimes"', r"no policy 'sometimes' - at `\$\.retrain\.policy`"),
        ("kafka = 2020-01-01", r"at `\$\.kafka`"),
        ("scorer__batch = 3", "unknown field `scorer__batch`"),
        ("SCORER = 3", "unknown field `SCORER`"),
        ("batch", "does not fit"),
    ],
)
def test_invalid_key_error_names_key_and_file(tmp_path: Path, text: str, named: str) -> None:
    environ = written(tmp_path, text)
    with pytest.raises(DriftloopError, match=named) as caught:
        settings_source.load(environ)
    assert environ["DRIFTLOOP_SETTINGS"] in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_settings_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(DriftloopError, match=rf"The settings file {path} cannot be read .*correct --settings"):
            settings_source.load({"DRIFTLOOP_SETTINGS": str(path)})
    (tmp_path / "latin").write_bytes(b'stream = "\xfc"')
    with pytest.raises(DriftloopError, match="does not fit"):
        settings_source.load({"DRIFTLOOP_SETTINGS": str(tmp_path / "latin")})


def test_environment_secret_wins_over_settings_file_secret(tmp_path: Path) -> None:
    """Secret may be given itself or as the path of its file, in both sources."""
    (tmp_path / "key").write_text("of the file's file\n")
    (tmp_path / "other").write_text("of the environment's file\n")
    plain = written(tmp_path, 'signing_key = "in the file"')
    assert settings_source.load(plain).signing_key == "in the file"
    elsewhere = {"DRIFTLOOP_SIGNING_KEY_FILE": str(tmp_path / "other")}
    assert settings_source.load(plain | elsewhere).signing_key == "of the environment's file"
    assert settings_source.load(plain | {"DRIFTLOOP_SIGNING_KEY": "variable"}).signing_key == "variable"
    named = written(
        tmp_path, f'signing_key_file = "{tmp_path / "key"}"\n[security]\npassword_file = "{tmp_path / "key"}"'
    )
    assert (
        settings_source.load(named).signing_key == settings_source.load(named).security.password == "of the file's file"
    )
    assert settings_source.load(named | elsewhere).signing_key == "of the environment's file"
    assert settings_source.load(named | {"DRIFTLOOP_SIGNING_KEY": "variable"}).signing_key == "variable"


@pytest.mark.parametrize("key", ["kafka_file", "stream_file"])
def test_non_secret_setting_has_no_file_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(DriftloopError, match=f"unknown field `{key}`"):
        settings_source.load(written(tmp_path, f'{key} = "/etc/hostname"'))
