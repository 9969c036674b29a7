"""Settings from the environment and back, the messages' codec, and strangers' text made visible."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftloop.core import messages, settings, settings_source, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Event, Label, Outcome, Prediction, dead_letter, decode, encode
from driftloop.core.settings import KafkaSecurity, MonitorSettings, RetrainSettings, ScorerSettings, Settings
from driftloop.core.terminal_text import escape_control_chars


def test_without_variables_the_settings_are_the_defaults() -> None:
    assert settings_source.load({}) == Settings()
    assert settings_source.load({"PATH": "/bin", "KAFKA": "elsewhere:1"}) == Settings()


def test_settings_that_are_printed_show_no_secret() -> None:
    shown = repr(
        Settings(
            redis="redis://me:tiger-1@store:6379/0",
            mlflow="http://me:tiger-2@registry:5000",
            redis_password="tiger-3",
            signing_key="tiger-4",
            security=KafkaSecurity(username="somebody", password="tiger-5"),
        )
    )
    assert "tiger" not in shown
    assert all(text in shown for text in ("somebody", "me:••••••@store:6379/0", "signing_key=••••••", "batch=64"))


def test_settings_round_trip_through_environment() -> None:
    chosen = Settings(
        kafka="a:1,b:2",
        stream="tweets, and 'more'",
        partitions=3,
        security=KafkaSecurity(protocol="SASL_SSL", username="user", password="p=w[1],2 "),
        model=settings.ModelSettings(quantise=False),
        scorer=ScorerSettings(max_wait=0.25),
        monitor=MonitorSettings(detectors=("error:adwin?delta=0.01,clock=8", "mix:kswin")),
        retrain=RetrainSettings(candidates=(), policy="never", confidence=0.95),
    )
    variables = settings_source.environment(chosen)
    assert settings_source.load(variables) == chosen
    assert all(isinstance(value, str) for value in variables.values())
    assert variables["DRIFTLOOP_MODEL__QUANTISE"] == "false"


def test_every_setting_has_a_variable() -> None:
    assert settings_source.load(settings_source.environment(Settings())) == Settings()
    names = set(settings_source.environment(Settings()))
    assert {"DRIFTLOOP_KAFKA", "DRIFTLOOP_SECURITY__PASSWORD", "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS"} <= names


def test_double_underscore_selects_nested_setting() -> None:
    chosen = settings_source.load({"DRIFTLOOP_SCORER__BATCH": "128", "DRIFTLOOP_SCORER__MAX_WAIT": "0.5"})
    assert (chosen.scorer.batch, chosen.scorer.max_wait) == (128, 0.5)
    assert chosen.scorer.max_bytes == ScorerSettings().max_bytes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linear", ("linear",)),
        ("linear,tpot", ("linear", "tpot")),
        (" linear , tpot ,", ("linear", "tpot")),
        ('["linear", "tests.mine:Own"]', ("linear", "tests.mine:Own")),
        (' ["a,b"]', ("a,b",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_list_is_read_from_commas_or_json(text: str, found: tuple[str, ...]) -> None:
    assert settings_source.load({"DRIFTLOOP_RETRAIN__CANDIDATES": text}).retrain.candidates == found


@pytest.mark.parametrize(("text", "found"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_boolean_setting_accepts_true_false_1_0(text: str, found: bool) -> None:
    assert settings_source.load({"DRIFTLOOP_MODEL__QUANTISE": text}).model.quantise is found


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("DRIFTLOOP_NONSENSE", "1", "unknown field `nonsense`"),
        ("DRIFTLOOP_SCORER__NONSENSE", "1", r"unknown field `nonsense` - at `\$\.scorer`"),
        ("DRIFTLOOP_SCORER__BATCH", "many", r"at `\$\.scorer\.batch`"),
        ("DRIFTLOOP_SCORER__BATCH", "1.5", r"at `\$\.scorer\.batch`"),
        ("DRIFTLOOP_SCORER__BATCH", "0", r">= 1 - at `\$\.scorer\.batch`"),
        ("DRIFTLOOP_RETRAIN__TPOT_SECONDS", "-1", r"> 0\.0 - at `\$\.retrain\.tpot_seconds`"),
        ("DRIFTLOOP_RETRAIN__TPOT_SECONDS", "nan", r"> 0\.0 - at `\$\.retrain\.tpot_seconds`"),
        ("DRIFTLOOP_RETRAIN__HOLDOUT", "1.0", r"< 1\.0 - at `\$\.retrain\.holdout`"),
        ("DRIFTLOOP_MODEL__QUANTISE", "perhaps", r"at `\$\.model\.quantise`"),
        ("DRIFTLOOP_RETRAIN__POLICY", "sometimes", r"'sometimes' - at `\$\.retrain\.policy`"),
        ("DRIFTLOOP_SCORER", "64", r"at `\$\.scorer`"),
        ("DRIFTLOOP_RETRAIN__CANDIDATES", '["linear"', "DRIFTLOOP_RETRAIN__CANDIDATES is not a JSON list"),
        ("DRIFTLOOP_RETRAIN__CANDIDATES", "[1]", r"at `\$\.retrain\.candidates\[0\]`"),
        ("DRIFTLOOP_KAFKA__HOST", "x", r"at `\$\.kafka`"),
    ],
)
def test_invalid_variable_is_named_in_error(name: str, value: str, named: str) -> None:
    with pytest.raises(DriftloopError, match=named) as caught:
        settings_source.load({name: value})
    assert "\n" not in str(caught.value)


def test_section_and_its_field_cannot_both_be_set() -> None:
    with pytest.raises(DriftloopError, match="DRIFTLOOP_SCORER__BATCH contradicts another setting"):
        settings_source.load({"DRIFTLOOP_SCORER": "1", "DRIFTLOOP_SCORER__BATCH": "1"})


SECRET_FILES = {
    "DRIFTLOOP_SIGNING_KEY_FILE": lambda chosen: chosen.signing_key,
    "DRIFTLOOP_REDIS_PASSWORD_FILE": lambda chosen: chosen.redis_password,
    "DRIFTLOOP_SECURITY__PASSWORD_FILE": lambda chosen: chosen.security.password,
}
"""Settings of one secret each; `test_tokens_file_has_one_token_per_line` has the list's."""


def test_tokens_file_has_one_token_per_line(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("ann:admin:sesame-1\n\nbob:viewer:sesame-2\r\n")
    chosen = settings_source.load({"DRIFTLOOP_API__TOKENS_FILE": str(tmp_path / "tokens")})
    assert chosen.api.tokens == ("ann:admin:sesame-1", "bob:viewer:sesame-2")
    assert settings_source.load(settings_source.environment(chosen)) == chosen and "sesame" not in repr(chosen.api)
    assert {f"{name}_FILE" for name in settings.SECRETS} == {*SECRET_FILES, "DRIFTLOOP_API__TOKENS_FILE"}


@pytest.fixture(params=SECRET_FILES)
def secret_file(request: pytest.FixtureRequest) -> str:
    """A variable that names a secret's file."""
    return str(request.param)


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        ("tiger", "tiger"),
        ("tiger\n", "tiger"),
        ("tiger\r\n", "tiger"),
        (" tiger, two\nlines [1] é\t\n", " tiger, two\nlines [1] é\t"),
    ],
)
def test_secret_from_file_drops_only_trailing_newline(
    tmp_path: Path, secret_file: str, written: str, secret: str
) -> None:
    """Variable with the suffix _FILE names the file."""
    (tmp_path / "secret").write_bytes(written.encode())
    chosen = settings_source.load({secret_file: str(tmp_path / "secret")})
    assert SECRET_FILES[secret_file](chosen) == secret
    others = [found(chosen) for name, found in SECRET_FILES.items() if name != secret_file]
    assert others == [found(Settings()) for name, found in SECRET_FILES.items() if name != secret_file]


@pytest.mark.parametrize("content", [None, b"", b"\r\n", b"\xff\xfe tiger", "folder", "no path"])
def test_unusable_secret_file_error_names_variable(
    tmp_path: Path, secret_file: str, content: bytes | str | None
) -> None:
    """Error is one line and shows no secret."""
    path = tmp_path / "secret"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(DriftloopError, match=f"^{secret_file} names an? (empty )?file ") as caught:
        settings_source.load({secret_file: "" if content == "no path" else str(path)})
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and "tiger" not in text


def test_file_secrets_round_trip_through_environment(tmp_path: Path, secret_file: str) -> None:
    """Environment has the secret itself, not the variable of its file."""
    (tmp_path / "secret").write_text("tiger, [1]\n")
    given = {secret_file: str(tmp_path / "secret"), "DRIFTLOOP_STREAM": "mine"}
    chosen = settings_source.load(given)
    variables = settings_source.environment(chosen)
    assert variables[secret_file.removesuffix("_FILE")] == "tiger, [1]" and secret_file not in variables
    assert settings_source.load(variables) == chosen
    assert settings_source.load({**given, **variables}) == chosen, "a child has its parent's variables, too"


@pytest.mark.parametrize("first", [True, False])
def test_secret_variable_wins_over_secret_file(tmp_path: Path, secret_file: str, first: bool) -> None:
    (tmp_path / "secret").write_text("of the file")
    given = [(secret_file, str(tmp_path / "secret")), (secret_file.removesuffix("_FILE"), "of the variable")]
    chosen = settings_source.load(dict(given if first else reversed(given)))
    assert SECRET_FILES[secret_file](chosen) == "of the variable"


@pytest.mark.parametrize("name", ["DRIFTLOOP_KAFKA_FILE", "DRIFTLOOP_SECURITY__USERNAME_FILE"])
def test_non_secret_setting_has_no_file_variable(name: str) -> None:
    with pytest.raises(DriftloopError, match=r"unknown field `.*_file`"):
        settings_source.load({name: "/etc/hostname"})


@pytest.mark.parametrize("name", ["DRIFTLOOP_API__PORT", "DRIFTLOOP_HEALTH__PORT"])
@pytest.mark.parametrize("value", ["-1", "65536", "http"])
def test_a_port_is_between_0_and_65535(name: str, value: str) -> None:
    path = name.removeprefix("DRIFTLOOP_").lower().replace("__", r"\.")
    with pytest.raises(DriftloopError, match=rf"at `\$\.{path}`"):
        settings_source.load({name: value})
    assert settings_source.load({name: "65535"}) != Settings()


def test_pages_setting_is_a_list() -> None:
    assert settings_source.load({"DRIFTLOOP_PAGES": "here, there"}).pages == ("here", "there")
    chosen = Settings(pages=("one, and two", "three"))
    assert settings_source.load(settings_source.environment(chosen)) == chosen


def test_cache_folder_follows_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DRIFTLOOP_CACHE", raising=False)
    assert settings.cache_dir() == tmp_path / "driftloop"
    monkeypatch.setenv("DRIFTLOOP_CACHE", str(tmp_path / "mine"))
    assert settings.cache_dir() == tmp_path / "mine"
    assert settings_source.load({"DRIFTLOOP_CACHE": "anywhere"}) == Settings(), "the cache is no field of the tree"


def event(**changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": "e1",
        "text": "nul\x00byte 😀",
        "segment": "cars",
        "occurred_at": 1.5,
        "position": 3,
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def body(**changes: Any) -> bytes:
    return json.dumps(event(**changes)).encode()


def test_message_round_trips_as_plain_json() -> None:
    sent = Event(**event())
    assert decode(Event, encode(sent)) == sent
    assert json.loads(encode(sent)) == {"schema": 1} | event()


def test_unknown_fields_are_ignored_missing_ones_get_defaults() -> None:
    found = decode(Event, body(segment=None, position=None, language="en", extra={"a": [1]}))
    assert found == Event(event_id="e1", text="nul\x00byte 😀", segment="", occurred_at=1.5, position=-1)


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (body(text=None), "missing required field `text`"),
        (body(text=7), r"Expected `str`, got `int` - at `\$\.text`"),
        (body(occurred_at="today"), r"at `\$\.occurred_at`"),
        (body(position=2**53), r"at `\$\.position`"),
        (body(position=-2), r"at `\$\.position`"),
        (b'{"event_id":"e","text":"t","occurred_at":1e999}', r"out of range - at `\$\.occurred_at`"),
        (b'{"event_id":"e","text":"\\ud800","occurred_at":1}', "surrogate"),
        (b'{"event_id":"\xff","text":"t","occurred_at":1}', "utf-8"),
        (body()[:-1], "truncated"),
        (b"", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"not json", "malformed"),
    ],
)
def test_invalid_event_error_gives_reason(sent: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        decode(Event, sent)


def test_deeply_nested_json_is_refused_without_crash() -> None:
    deep = body()[:-1] + b',"extra":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    with pytest.raises(ValueError, match="nested too deeply"):
        decode(Event, deep)


def test_oversized_position_is_refused_in_event_messages() -> None:
    """Kinds of message are event, prediction, label and outcome."""
    for kind in (Event, Prediction, Label, Outcome):
        (field,) = (field for field in msgspec.structs.fields(kind) if field.name == "position")
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(2**64, field.type)


def test_every_topics_message_has_a_codec() -> None:
    for topic in topics.ALL:
        with pytest.raises(ValueError, match="missing required field"):
            decode(topic.message, b"{}")


def test_dead_letter_keeps_message_bytes_exactly() -> None:
    value = bytes(range(256))
    letter = dead_letter(b"k\xff", value, "no event", "scorer", ("events", 2, 77), 5.0)
    assert base64.b64decode(letter.value_base64) == value and letter.size == 256
    assert (letter.key, letter.topic, letter.partition, letter.offset) == ("k\ufffd", "events", 2, 77)
    assert decode(messages.DeadLetter, encode(letter)) == letter


def test_truncated_dead_letter_records_original_size() -> None:
    exact, larger = b"x" * 256 * 1024, b"x" * 256 * 1024 + b"y"
    kept = dead_letter(None, exact, "e", "w", ("t", 0, 0), 0.0)
    cut = dead_letter(None, larger, "e", "w", ("t", 0, 0), 0.0)
    assert base64.b64decode(kept.value_base64) == base64.b64decode(cut.value_base64) == exact
    assert (kept.size, cut.size) == (256 * 1024, 256 * 1024 + 1)


def test_dead_letter_accepts_missing_key_and_value() -> None:
    letter = dead_letter(None, None, "empty", "scorer", ("events", 0, 0), 0.0)
    assert (letter.key, letter.value_base64, letter.size) == (None, "", 0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é 😀 日本", "é 😀 日本"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x00\x07\x7f\x9b", "\\x00\\x07\\x7f\\x9b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\u2028\u2029\ufeff", "\\u2028\\u2029\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_terminal_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_control_chars(text) == shown
    assert escape_control_chars(escape_control_chars(text)) == shown


def test_long_text_is_cut_with_ellipsis() -> None:
    assert escape_control_chars("12345", 5) == "12345"
    assert escape_control_chars("123456", 5) == "1234…"
    assert escape_control_chars("\n" * 10, 3) == "\\n\\n…"
