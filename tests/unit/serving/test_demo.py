"""What a guided run tells, and in which form it is recorded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from driftloop.core.messages import DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from serving.demo.asciicast import AsciicastWriter
from serving.demo.script import BEFORE, SEEN, Caption, Story
from serving.demo.webvtt import Cue, webvtt
from tests.unit.serving.test_views import made

HOSTILE = "\x1b[2J<b>--> \u202e\nx"


def told(story: Story, *messages: Message) -> list[Caption]:
    return [caption for message in messages for caption in story.take(message)]


def line(state: str, **fields: Any) -> Retraining:
    fields = {"trigger": "a1", "candidate": "linear", "reason": "because", "position": 600} | fields
    return Retraining(run_id="r", stream="s", state=state, at=0.0, **fields)


def a_run(text: str = "late again", label: str = "a") -> list[Message]:
    """One drift that is answered."""
    shares = {label: 0.75, "other": 0.25}
    moved = [{"what": "word", "name": text, "measure": "share", "before": 0.1, "after": 0.4}]
    scores = {"accuracy": 0.8, "champion_accuracy": 0.5}
    return [
        made(ModelUpdate, version="1", action="promote", reason=text),
        *(
            made(Prediction, event_id=f"e{i}", position=i, text=text, label=label, probabilities=shares)
            for i in range(500, 700)
        ),
        *(made(Outcome, position=i, correct=i % 4 > 0) for i in range(500, 500 + BEFORE)),
        made(Prediction, position=700, text=text),
        made(DriftAlert, alert_id="a1", position=710, onset=698, evidence={"moved": moved}),
        line("queued", candidate=""),
        made(Prediction, position=711, text=text),
        line("searching"),
        line("searching", candidate="tpot"),
        line("gated", scores=scores),
        made(ModelUpdate, version="2", action="promote", reason=text),
        *(made(Outcome, position=711 + i, model_version="2", correct=i % 10 > 0) for i in range(SEEN)),
    ]


def test_each_loop_stage_is_captioned_once_in_order() -> None:
    story = Story("Tweets.", (700,), 500)
    assert [caption.title for caption in story.opening()] == ["Problem", "Components"]
    titles = [caption.title for caption in told(story, *a_run())]
    assert titles == [
        "First model", "Predictions", "Late labels and corrections", "Drift", "Alert", "Retraining",
        "AutoML and Hugging Face", "Gate", "Promotion", "Accuracy before and after",
    ]  # fmt: skip
    assert told(story, *a_run()) == []


def test_captions_contain_the_figures_of_the_run() -> None:
    texts = {caption.title: caption.text for caption in told(Story("", (700,), 500), *a_run())}
    assert "Of the newest 200 labelled predictions, 75% are correct" in texts["Late labels and corrections"]
    assert "predicts “a” for “late again” (75%," in texts["Predictions"]
    assert "at event 710" in texts["Alert"] and "likely onset is event 698" in texts["Alert"]
    assert "the word “late again”, from 10% to 40% (share)" in texts["Alert"]
    assert "the candidate linear is 80%, the champion's 50%" in texts["Gate"]
    assert "1 events were predicted since the retraining began" in texts["Promotion"]
    compared = texts["Accuracy before and after"]
    assert "before the promotion, 75% are correct" in compared and "of the new champion, 90% are correct" in compared


def test_run_without_drift_has_no_drift_captions() -> None:
    quiet = [message for message in a_run() if not isinstance(message, DriftAlert)]
    titles = [caption.title for caption in told(Story("", (), 500), *quiet)]
    assert titles == ["First model", "Predictions", "Late labels and corrections"]


def test_captions_escape_untrusted_text() -> None:
    for caption in told(Story(HOSTILE, (700,), 500), *a_run(HOSTILE, HOSTILE)):
        assert caption.text.isprintable(), caption


def test_asciicast_records_output_with_times(tmp_path: Path) -> None:
    times = iter([10.0, 10.5, 12.25])
    terminal = io.StringIO()
    cast = AsciicastWriter(tmp_path / "demo.cast", terminal, 100, 30, "a title", clock=lambda: next(times))
    cast.write("one\n")
    cast.write("\x1b[1mtwo\x1b[0m")
    cast.close()
    head, *events = [json.loads(one) for one in (tmp_path / "demo.cast").read_text().splitlines()]
    assert (head["version"], head["width"], head["height"], head["title"]) == (2, 100, 30, "a title")
    assert events == [[0.5, "o", "one\r\n"], [2.25, "o", "\x1b[1mtwo\x1b[0m"]]
    assert terminal.getvalue() == "one\n\x1b[1mtwo\x1b[0m"
    assert cast.write("after") == 5 and terminal.getvalue().endswith("after"), "the terminal outlives the recording"


def test_webvtt_cues_have_escaped_text_and_times() -> None:
    cues = [Cue(0.0, 61.5, "One & two"), Cue(61.5, 3725.25, "<i>a --> b</i>\n\nnext")]
    assert webvtt(cues) == (
        "WEBVTT\n"
        "\n1\n00:00:00.000 --> 00:01:01.500\nOne &amp; two\n"
        "\n2\n00:01:01.500 --> 01:02:05.250\n&lt;i&gt;a --&gt; b&lt;/i&gt; next\n"
    )
