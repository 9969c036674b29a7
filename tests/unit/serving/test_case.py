"""Drift cases from made-up topics: their content, their outcome, and untrusted text that stays text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from driftloop.cli import output
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.messages import DriftAlert, Outcome, Retraining
from serving.cases import chart, html, terminal
from serving.cases.builder import cases
from serving.cases.model import Case, find
from tests.unit.serving.test_views import HOSTILE, STEERING, made

ONSET, ANSWERED = 100, 160


def alert(name: str = "first", onset: int = ONSET, kind: Any = "unknown", **fields: Any) -> DriftAlert:
    known = {"position": onset + 20, "onset": onset, "onset_at": float(onset), "model_version": "1"}
    return replace(made(DriftAlert, alert_id=name, **{**known, **fields}), kind=kind)


def outcome(i: int, correct: bool, version: str, **fields: Any) -> Outcome:
    known = {"event_id": f"e{i}", "position": i, "occurred_at": float(i), "correct": correct, "model_version": version}
    return made(Outcome, **{**known, **fields})


def line(state: str, trigger: str = "first", run_id: str = "run", **fields: Any) -> Retraining:
    known = {"state": state, "trigger": trigger, "run_id": run_id, "reason": f"because of {state}"}
    return replace(made(Retraining, **known, **fields), kind="answer")


INPUTS = {"onset_at": 100.0, "first_offset": 5, "last_offset": 139, "labelled": 140, "rows": 40}
CHECK = {"name": "minimum gain", "passed": True, "words": "a gain of +0.200 reaches the minimum", "numbers": {}}
GATED = {"accuracy": 0.8, "champion_accuracy": 0.6, "checks": [CHECK], "segments": [], "classes": []}
ANSWER = [
    line("queued", position=140, scores=INPUTS),
    line("searching", candidate="linear"),
    line("gated", candidate="linear", scores=GATED, seconds=2.5),
    line("promoted", candidate="linear", version="2", scores=GATED, seconds=2.5),
    line("finished", seconds=3.0),
]


def stream(end: int = 300, **fields: Any) -> list[Outcome]:
    """Version 1 is right on 9 of 10 events, after the onset on 4 of 10; version 2 answers on 8 of 10."""
    found = []
    for i in range(end):
        version = "1" if i < ANSWERED else "2"
        right = i % 10 < (9 if i < ONSET else 4 if i < ANSWERED else 8)
        found.append(outcome(i, right, version, **fields))
    return found


def history(
    alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome], retrainings: Sequence[Retraining]
) -> TopicHistory:
    return TopicHistory(alerts=alerts, outcomes=outcomes, retrainings=retrainings)


def only(told: TopicHistory) -> Case:
    (found,) = cases(told)
    return found


def test_promotion_accuracy_is_counted_in_three_periods() -> None:
    """The periods are before the onset, from the onset to the promotion, and since the promotion."""
    found = only(history([alert()], stream(), ANSWER))
    came = found.came_of_it
    assert [(share.labelled, share.accuracy) for share in (came.before, came.until, came.since)] == [
        (100, 0.9), (60, 0.4), (140, 0.8),
    ]  # fmt: skip
    assert (came.until.first_position, came.until.last_position) == (ONSET, ANSWERED - 1)
    assert came.verdict == "promoted"
    assert came.words == (
        "Version 2 (linear) became the champion 60 labelled events after the onset. "
        "Accuracy was 0.900 before the drift, 0.400 from the onset until then, and 0.800 since then."
    )
    (swap,) = found.swaps
    assert (swap.version, swap.action, swap.position) == ("2", "promote", ANSWERED)


def test_outcome_says_what_labels_have_changed() -> None:
    """From the onset to the promotion the registered version is right once in ten events, its answers four times."""
    learnt = [
        replace(one, reference={one.label: float(one.position % 10 == 0), "another": 0.5})
        if ONSET <= one.position < ANSWERED
        else one
        for one in stream()
    ]
    said = only(history([alert()], learnt, ANSWER)).came_of_it.words
    assert "0.400 from the onset until then (0.100 without learning from labels), and 0.800 since then." in said


def test_retraining_round_holds_offsets_and_gate_checks() -> None:
    """The policy's reason and its counts are part of the round."""
    (one,) = only(history([alert()], stream(), ANSWER)).rounds
    assert (one.kind, one.reason, one.state, one.seconds) == ("answer", "because of queued", "finished", 3.0)
    assert (one.first_offset, one.last_offset, one.labelled, one.rows) == (5, 139, 140, 40)
    (candidate,) = one.candidates
    assert (candidate.name, candidate.state, candidate.version) == ("linear", "promoted", "2")
    assert (candidate.accuracy, candidate.champion_accuracy, candidate.seconds) == (0.8, 0.6, 2.5)
    assert candidate.checks == [CHECK]


def test_training_events_are_left_out_of_counts() -> None:
    trained = [replace(one, in_sample=one.position < 50) for one in stream()]
    assert only(history([alert()], trained, ANSWER)).came_of_it.before.labelled == 50


def test_alert_after_promotion_starts_the_next_drift() -> None:
    """An alert before the promotion belongs to the same drift."""
    repeat, following = alert("repeat", 110), alert("next", 250)
    first, again, other = cases(history([alert(), repeat, following], stream(), ANSWER))
    assert first.came_of_it.since.labelled == 250 - ANSWERED
    assert again.came_of_it.verdict == "not retrained" and again.swaps == []
    # The stretch before a drift begins where the drift before was answered.
    assert (other.came_of_it.before.labelled, other.came_of_it.before.accuracy) == (90, 0.8)


def test_rollback_belongs_to_case_of_its_promotion() -> None:
    back = line("rolled-back", trigger="probation", run_id="probation-1", version="3")
    first, other = cases(history([alert("earlier", 30), alert()], stream(), [*ANSWER, back]))
    assert [swap.action for swap in other.swaps] == ["promote", "rollback"] and first.swaps == []
    assert other.came_of_it.verdict == "rolled back"
    assert other.came_of_it.words.endswith("0.800 since then. Rolled back later: Because of rolled-back.")


WAITING = [*ANSWER[:3], line("waiting", candidate="linear", version="2"), line("finished")]
REJECTED = [*ANSWER[:3], line("rejected", candidate="linear", version="2"), line("finished")]


@pytest.mark.parametrize(
    ("diary", "verdict", "words"),
    [
        ([], "not retrained", "No retraining followed. Accuracy was 0.900 before the drift and "),
        (ANSWER[:3], "under way", "The first retraining is running. "),
        (REJECTED, "rejected", "1 retraining produced no better model. "),
        ([ANSWER[0], line("failed")], "failed", "1 retraining failed. "),
        (WAITING, "waiting", "A better model waits for manual approval. "),
        ([*WAITING, line("rejected", run_id="manual-1", candidate="linear", version="2")], "rejected", "1 retraining"),
        ([*WAITING, line("promoted", run_id="manual-1", candidate="linear", version="2")], "promoted", "Version 2"),
    ],
)
def test_case_verdict_follows_the_retraining_outcome(diary: list[Retraining], verdict: str, words: str) -> None:
    came = only(history([alert()], stream(), diary)).came_of_it
    assert came.verdict == verdict and came.words.startswith(words)


def test_case_without_promotion_lasts_until_next_drift() -> None:
    first, _ = cases(history([alert(), alert("next", 250)], stream(), []))
    assert (first.came_of_it.until.labelled, first.came_of_it.since.labelled) == (150, 0)


def test_promoted_version_without_labels_is_reported() -> None:
    came = only(history([alert()], stream(ANSWERED), ANSWER)).came_of_it
    assert "Version 2 (linear) was promoted. None of its predictions has a label yet." in came.words
    assert came.since.accuracy is None and "unknown since then" in came.words


def test_slices_are_ranked_by_loss() -> None:
    """A new segment is compared with the whole stream before the onset."""
    rows = [outcome(i, True, "1", segment="steady" if i % 2 else "old", label="a") for i in range(100)]
    rows += [outcome(i, i % 2 == 1, "1", segment="steady" if i % 2 else "new", label="a") for i in range(100, 140)]
    found = only(history([alert()], rows, []))
    new, old, steady = found.segments
    assert (new.name, new.before.accuracy, new.after.accuracy, new.lost) == ("new", None, 0.0, 20.0)
    assert {old.name, steady.name} == {"old", "steady"} and old.lost == steady.lost == 0.0
    assert [(one.name, one.lost) for one in found.classes] == [("a", 20.0)]


MOVED = {
    "what": "segment", "name": "delta", "measure": "share", "before": 0.1, "after": 0.6, "z": 9.0,
    "event_ids": ["e1"], "texts": ["an example"],
}  # fmt: skip


def test_alert_evidence_keeps_ranking_and_drops_malformed_entries() -> None:
    evidence = {"moved": [MOVED, {"name": 7}, "nonsense", {**MOVED, "what": "word", "name": "strike"}]}
    found = only(history([alert(evidence=evidence)], [], [])).moved
    assert [(one.what, one.name, one.texts) for one in found] == [
        ("segment", "delta", ["an example"]), ("word", "strike", ["an example"]),
    ]  # fmt: skip


def test_single_detector_evidence_is_ranked_by_change() -> None:
    evidence = {
        "predicted_mix": [{"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.45, "b": 0.35, "c": 0.2}],
        "label_mix": [{"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.5, "c": 0.4}],
        "words": ["strike"],
    }
    found = only(history([alert(evidence=evidence)], [], [])).moved
    assert [(one.name, one.measure) for one in found] == [
        ("a", "label"), ("c", "label"), ("b", "predicted"), ("strike", "share"),
    ]  # fmt: skip


def test_case_is_found_by_id_or_prefix() -> None:
    known = cases(history([alert("abc1"), alert("abc2"), alert("abc")], [], []))
    assert find(known, "abc2").case_id == find(known, "abc2"[:4]).case_id == "abc2"
    assert find(known, "abc").case_id == "abc", "the whole id wins over a beginning"
    with pytest.raises(DriftloopError, match="3 cases begin with 'ab'"):
        find(known, "ab")
    with pytest.raises(DriftloopError, match=r"no case 'x'; the stream has 3 cases\. Run `driftloop case` to list"):
        find(known, "x")
    with pytest.raises(DriftloopError, match="no case '': no drift has been detected"):
        find([], "")


def eventful(text: str) -> Case:
    """A case in which strangers wrote ``text`` wherever they could."""
    moved = [{**MOVED, "name": text, "texts": [text, text]}]
    evidence = {
        "moved": moved,
        "estimated_accuracy": [{"start": 1, "end": 2, "estimate": 0.5, "low": 0.4, "high": 0.6}],
    }
    check = {**CHECK, "name": text, "words": text, "passed": False}
    group = {"name": text, "rows": 20, "champion": 0.5, "challenger": 0.6}
    scores = {**GATED, "checks": [CHECK, check], "segments": [group], "classes": [group]}
    diary = [
        replace(one, reason=text, candidate=one.candidate and text, scores=one.scores and scores) for one in ANSWER
    ]
    diary[0] = replace(diary[0], scores=INPUTS)
    raised = alert(text, detector=text, evidence=evidence, fired={text: 0.7, "loss": 0.3}, onset_low=90, onset_high=110)
    diary = [replace(one, trigger=text, run_id=text, version=one.version and text) for one in diary]
    return only(history([raised], stream(segment=text, label=text), diary))


def test_case_json_decodes_to_the_same_case() -> None:
    found = eventful("plain")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Case) == found


def test_case_json_output_is_lossless_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    found = eventful(HOSTILE + "\x7f é")
    output.write_json(found)
    out = capsys.readouterr().out
    assert out.isascii() and out.replace("\n", "").isprintable()
    assert msgspec.json.decode(out, type=Case) == found


def shown(case: Case | list[Case]) -> str:
    out = io.StringIO()
    console = Console(file=out, width=140, highlight=False, markup=False, emoji=False)
    if isinstance(case, list):
        terminal.show_all(case, console)
    else:
        terminal.show(case, console)
    return out.getvalue()


def test_case_text_contains_every_part() -> None:
    evidence = {"moved": [MOVED]}
    raised = alert(kind="covariate", evidence=evidence, fired={"mix": 0.7, "loss": 0.3}, onset_low=90, onset_high=110)
    text = shown(only(history([raised], stream(segment="delta"), ANSWER)))
    for part in (
        "Case first: the texts changed near position 100, detected at position 120",
        "Version 2 (linear) became the champion 60 labelled events after the onset.",
        "position 100, between 90 and 110",
        "mix 70%, loss 30%",
        "an example",
        "Retraining 1: answer, finished (run)",
        "Reason: because of queued",
        "Trained on offsets 5 to 139 of the topic outcomes.",
        "linear v2 promoted: because of promoted",
    ):
        assert part in text
    assert re.search(r"minimum gain +passed +– +a gain of \+0\.200 reaches the minimum", text), "the gate's check"
    assert re.search(r"delta +0\.900 +100 +0\.400 +60 +30", text), "the segment's fall"
    table = shown([only(history([raised], stream(), ANSWER))])
    assert re.search(r"first +120 +covariate +\+0\.250 +1 +promoted v2: 0\.900 → 0\.400 → 0\.800", table)
    assert "No drift has been detected" in shown([])


def test_untrusted_text_controls_neither_terminal_nor_markup() -> None:
    for text in (shown(eventful(HOSTILE)), shown([eventful(HOSTILE)])):
        assert not any(character in text for character in STEERING) and "\\x1b" in text
    assert "[bold red]x[/]" in shown(eventful("[bold red]x[/]"))


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(source)
        self.close()
        assert self._inside == [], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._inside):
            self.text[tag] = self.text.get(tag, "") + data


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "\"><svg onload='alert(1)'>",
        "</style></title></td></table><img src=x onerror=alert(1)>{style}%s&lt;",
        HOSTILE,
    ],
)
def test_untrusted_text_adds_no_html_elements(text: str) -> None:
    plain, source = Page(html.render(eventful("plain"))), html.render(eventful(text))
    hostile = Page(source)
    assert (hostile.elements, hostile.attributes) == (plain.elements, plain.attributes)
    assert not any(character in source for character in STEERING)
    if text != HOSTILE:
        assert text in hostile.text["title"] and text in hostile.text["li"] and text in hostile.text["td"]


def test_page_policy_allows_only_its_style_sheet() -> None:
    page = Page(html.render(eventful("plain")))
    digest = base64.b64encode(hashlib.sha256(page.text["style"].encode()).digest()).decode()
    (policy,) = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';") and "unsafe" not in policy
    names = {name for name, _ in page.attributes}
    assert not names & {"style", "src", "href"} and "script" not in page.elements
    assert not any(name.startswith("on") for name in names)


def test_chart_places_drop_onset_and_promotion() -> None:
    raised = alert(onset_low=90, onset_high=110)
    drawn = chart.draw(only(history([raised], stream(), ANSWER)))
    (points,) = re.findall(r'<polyline points="([^"]+)">', drawn)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) == 30, "ten labelled events in each part"
    floor = chart.HEIGHT - chart.BOTTOM
    assert heights[0] == pytest.approx(0.1 * floor) and heights[10] == pytest.approx(0.6 * floor)
    assert heights[-1] == pytest.approx(0.2 * floor)

    def x(position: int) -> str:
        return f'"{chart.LEFT + (chart.WIDTH - chart.LEFT) * position / 299:.1f}"'

    assert f'class="onset" x={x(90)}' in drawn
    assert f'class="alert" x1={x(120)}' in drawn and f'class="promote" x1={x(ANSWERED)}' in drawn
    assert chart.draw(only(history([raised], [], []))) == ""


def test_alert_without_context_renders_page_and_text() -> None:
    bare = only(history([alert(position=-1, onset=-1)], [], []))
    said = "No retraining followed."
    assert said in Page(html.render(bare)).text["p"] and said in shown(bare)
