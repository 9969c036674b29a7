"""`driftloop watch`: which messages it shows, and how; what needs no broker."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from driftloop.core import topics
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import (
    Command,
    DeadLetter,
    DriftAlert,
    Event,
    Label,
    Message,
    MixtureUpdate,
    ModelUpdate,
    Outcome,
    Prediction,
    Retraining,
    encode,
)
from driftloop.core.settings import Settings
from serving import topic_console
from serving.topic_console import Filters, View, describe, find_topic

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nnext\u202e\x9b31m"
STEERING = ("\x1b", "\x07", "\r", "\n", "\u202e", "\x9b")
FIELDS: dict[str, Any] = {
    "event_id": "e1", "text": "my flight was late", "segment": "airlines", "occurred_at": 0.0, "predicted_at": 0.0,
    "labelled_at": 0.0, "detected_at": 0.0, "published_at": 0.0, "at": 0.0, "position": 41, "label": "negative",
    "predicted": "negative", "probabilities": {"negative": 0.9, "positive": 0.1}, "confidence": 0.9, "correct": True,
    "model_version": "2", "version": "2", "route": "encoder+head", "latency_ms": 12.4, "annotator": "", "stream": "s",
    "detector": "adwin", "signal": "error", "severity": 0.25, "outcome_offset": 0, "onset_at": 0.0, "onset": 31,
    "window": 10, "alert_id": "a1", "digest": "0123456789abcdef", "action": "promote", "reason": "better by 0.1",
    "run_id": "r1", "trigger": "a1", "state": "rejected", "candidate": "linear", "seconds": 3.5, "key": None,
    "value_base64": "", "size": 7, "error": "not an event", "where": "scorer", "topic": "events", "partition": 0,
    "offset": 12, "command_id": "c1", "by": "ann", "weights": {"online": 1.0}, "revision": 0,
}  # fmt: skip


def made(kind: type[Message], **fields: Any) -> Any:
    known = kind.__struct_fields__
    return kind(**{name: value for name, value in {**FIELDS, **fields}.items() if name in known})


def accepts(message: Message, *where: str, **options: Any) -> bool:
    return Filters.parse(where, **options).accept(message)


def test_without_filters_everything_is_shown() -> None:
    assert accepts(made(Event)) and accepts(made(DeadLetter))


def test_all_conditions_must_hold() -> None:
    assert accepts(made(Prediction), "label=negative", "model_version=2")
    assert not accepts(made(Prediction), "label=negative", "model_version=1")


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("position=41", True), ("position=41.0", True), ("position=4", False), ("position=many", False),
        ("confidence=0.90", True), ("correct=true", True), ("correct=True", True), ("correct=1", False),
        ("segment=airlines", True), ("segment=Airlines", False), ("text=my flight was late", True), ("text=", False),
    ],
)  # fmt: skip
def test_filter_value_is_compared_by_field_type(where: str, shown: bool) -> None:
    assert accepts(made(Outcome), where) == shown


def test_filter_value_may_contain_equals_sign() -> None:
    assert accepts(made(Event, text="a=b"), "text=a=b")


def test_dotted_filter_matches_nested_fields() -> None:
    alert = made(DriftAlert, evidence={"words": {"phone": 3}})
    assert accepts(alert, "evidence.words.phone=3")
    assert not accepts(alert, "evidence.words.plane=3")
    assert accepts(alert, "evidence.words.plane="), "what is not there equals nothing"
    assert not accepts(alert, "signal.deeper=error")


def test_segment_filter_matches_exact_segment() -> None:
    assert accepts(made(Outcome), segment="airlines") and not accepts(made(Outcome), segment="cars")
    assert accepts(made(Outcome, segment=""), segment="") and not accepts(made(Outcome), segment="")


def test_wrong_filter_shows_only_mistakes() -> None:
    assert accepts(made(Outcome, correct=False), wrong=True)
    assert not accepts(made(Outcome, correct=True), wrong=True)


@pytest.mark.parametrize("text", ["label", "=negative", ""])
def test_filter_without_field_or_value_is_refused(text: str) -> None:
    with pytest.raises(
        DriftloopError, match=r"is not of the form field=value. Write it as in `--where label=negative`"
    ):
        Filters.parse([text])


def test_unknown_filter_field_lists_existing_fields() -> None:
    with pytest.raises(
        DriftloopError, match=r"on labels have no field 'verdict'. Their fields are annotator, event_id, "
    ):
        Filters.parse(["verdict=x"]).check(topics.LABELS)
    with pytest.raises(DriftloopError, match=r"on labels have no field 'segment'"):
        Filters.parse(segment="cars").check(topics.LABELS)
    Filters.parse(["evidence.words=x"]).check(topics.DRIFT_ALERTS)


def test_wrong_filter_works_on_outcomes_only() -> None:
    Filters.parse(wrong=True).check(topics.OUTCOMES)
    with pytest.raises(
        DriftloopError, match=r"--wrong works on the topic outcomes only. Messages on predictions have no"
    ):
        Filters.parse(wrong=True).check(topics.PREDICTIONS)


def test_unknown_topic_is_refused_with_known_topics() -> None:
    """Every known topic is found by its name."""
    assert [find_topic(topic.name) for topic in topics.ALL] == list(topics.ALL)
    with pytest.raises(DriftloopError, match=r"no topic 'prediction': choose one of events, predictions, labels,"):
        find_topic("prediction")


def test_invalid_watch_is_refused_before_broker_connection() -> None:
    nobody = Settings(kafka="127.0.0.1:1")
    with pytest.raises(DriftloopError, match="no topic"):
        topic_console.watch(nobody, "nothing", View(), io.StringIO())
    with pytest.raises(DriftloopError, match="no field"):
        topic_console.watch(nobody, "events", View(Filters.parse(["label=a"])), io.StringIO())
    assert topic_console.watch(nobody, "events", View(most=0), io.StringIO()) == 0


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (made(Event), "#41 airlines  my flight was late"),
        (made(Event, segment="", position=-1), "#- -  my flight was late"),
        (made(Prediction), "#41 negative 0.90  v2 encoder+head 12 ms  airlines  my flight was late"),
        (made(Label), "#41 negative  by unknown  e1"),
        (made(Label, annotator="anna"), "negative  by anna"),
        (made(Outcome), "#41 ✓ negative 0.90  v2  airlines  my flight was late"),
        (made(Outcome, correct=False, label="positive"), "✗ negative, is positive 0.90"),
        (made(Outcome, in_sample=True), "v2  in sample  airlines"),
        (made(DriftAlert), "#41 ▲ error moved by +0.250  adwin  began about #31, 10 seen since  v2"),
        (made(DriftAlert, evidence={"words": ["phone"]}), 'v2  {"words": ["phone"]}'),
        (made(ModelUpdate), "● promote v2  better by 0.1  0123456789ab"),
        (made(ModelUpdate, action="rollback"), "○ rollback v2"),
        (
            made(MixtureUpdate, weights={"online": 0.2, "newest-300": 0.8}, expert="online", revision=7),
            "v2+7  new online  newest-300 0.80, online 0.20  to outcome ",
        ),
        (made(MixtureUpdate, weights={"online": 1.0}, expert="", revision=7), "v2+7  sample  online 1.00"),
        (made(Prediction, revision=7), "v2+7 encoder+head"),
        (made(Retraining), "r1  rejected  linear  v2  3.5 s  better by 0.1"),
        (made(Retraining, candidate="", version="", seconds=0.0), "r1  rejected  better by 0.1"),
        (made(Label, annotator="anna", feedback=True), "negative  by anna (feedback on the prediction)  e1"),
        (made(Command, version="3", by="anna"), "c1  promote v3  by anna: better by 0.1"),
        (made(Command, action="retrain", version=""), "c1  retrain  by ann: better"),
        (made(DeadLetter), "† events[0] offset 12, 7 bytes, by scorer: not an event"),
    ],
)
def test_each_message_is_described_in_one_line(message: Message, parts: str) -> None:
    line = describe(message)
    assert parts in line and "\n" not in line


def test_every_topic_has_a_message_description() -> None:
    for topic in topics.ALL:
        assert describe(made(topic.message))


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_untrusted_text_is_escaped_in_every_line(topic: topics.Topic) -> None:
    texts = {
        name: HOSTILE for name, value in FIELDS.items() if isinstance(value, str) and name not in ("signal", "action")
    }
    evil = made(topic.message, **texts, evidence={HOSTILE: [HOSTILE]}, scores={HOSTILE: HOSTILE})
    line = describe(evil)
    assert "\\x1b" in line and [sign for sign in STEERING if sign in line] == []


def test_long_text_is_truncated() -> None:
    assert len(describe(made(Event, text="x" * 10_000))) < 200
    assert len(describe(made(DriftAlert, evidence={"words": ["x"] * 10_000}))) < 500


@pytest.mark.parametrize("at", [1e300, -1e300, 1e18])
def test_impossible_time_is_shown_as_dashes(at: float) -> None:
    assert describe(made(Event, occurred_at=at)).startswith("--:--:-- ")


def test_label_without_probability_is_shown_as_nan() -> None:
    assert "neutral nan" in describe(made(Prediction, label="neutral"))


def test_undecodable_message_shows_reason_and_first_bytes() -> None:
    line = topic_console._undecodable(
        b"k\x1b", b"\x1b[2J\xff" + b"x" * 1000, ValueError("JSON is malformed"), as_json=False
    )
    assert "1005 bytes, cannot be read (JSON is malformed): \\x1b[2J\ufffdxxx" in line
    assert [sign for sign in STEERING if sign in line] == [] and len(line) < 250
    assert "key '', 0 bytes" in topic_console._undecodable(None, b"", ValueError("empty"), as_json=False)


def test_undecodable_message_is_an_object_in_json() -> None:
    line = topic_console._undecodable(b"k", HOSTILE.encode(), ValueError("bad"), as_json=True)
    assert json.loads(line) == {"undecodable": "bad", "size": len(HOSTILE.encode()), "head": HOSTILE}
    assert line.isascii() and line.isprintable()


@pytest.mark.parametrize(
    "text", ["plain", "é 😀 日本", HOSTILE, "\x7f\u00a0\u2028\ue000", "\U000e0041\U0001f600\u200b"]
)
def test_json_output_is_printable_and_equivalent(text: str) -> None:
    event = made(Event, text=text)
    line = topic_console._ascii_json(encode(event).decode())
    assert line.isprintable()
    assert json.loads(line) == json.loads(encode(event))


def test_printable_json_stays_unchanged() -> None:
    line = encode(made(Event, text="é 😀 日本")).decode()
    assert topic_console._ascii_json(line) == line
