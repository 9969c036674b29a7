"""What the live page shows, before any browser: the newest predictions, the charts, and the policy around a page."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.types import Message, Receive, Scope, Send

from driftloop.core.messages import DriftAlert, MixtureUpdate, ModelUpdate, Outcome, Prediction, Retraining
from serving.dashboard import charts
from serving.dashboard.csp import CspMiddleware, content_security_policy
from serving.live.accuracy import STEP, WINDOW, AccuracyTimeline, Mark
from serving.live.loop_history import LoopHistory
from serving.live.recent_predictions import SHOWN, UNLABELLED, RecentPredictions
from tests.unit.serving.test_views import made

HOSTILE = "<b>\x1b[31m\u202e\n{{1}}"


def predicted(number: int, **shares: float) -> Prediction:
    shares = shares or {"a": 0.9, "b": 0.1}
    label = max(shares, key=lambda one: shares[one])
    return made(Prediction, event_id=f"e{number}", text=f"text {number}", label=label, probabilities=shares)


def test_feed_is_newest_first_and_bounded() -> None:
    recent = RecentPredictions()
    for number in range(SHOWN + 5):
        recent.take(predicted(number))
    assert [line.event_id for line in recent.feed()] == [f"e{SHOWN + 4 - i}" for i in range(SHOWN)]


def test_feed_line_orders_other_labels_by_probability() -> None:
    recent = RecentPredictions()
    recent.take(predicted(1, low=0.1, high=0.6, middle=0.3))
    (line,) = recent.feed()
    assert (line.label, line.others, line.share) == ("high", ("middle", "low"), 0.6)


def test_shown_text_is_escaped_and_ids_stay_unchanged() -> None:
    """Escaped text fits on one line; the id and the label are sent back unchanged."""
    recent = RecentPredictions()
    recent.take(
        made(Prediction, event_id=HOSTILE, text=HOSTILE, segment=HOSTILE, label=HOSTILE, probabilities={HOSTILE: 1})
    )
    (line,) = recent.feed()
    assert (line.event_id, line.label) == (HOSTILE, HOSTILE)
    assert line.text == line.segment == "<b>\\x1b[31m\\u202e\\n{{1}}"


def test_labelling_queue_orders_unlabelled_by_uncertainty() -> None:
    recent = RecentPredictions()
    shares = {0: (0.9, 0.1), 1: (0.5, 0.5), 2: (0.6, 0.4), 3: (0.55, 0.45), 4: (0.7, 0.3)}
    for number, (a, b) in shares.items():
        recent.take(predicted(number, a=a, b=b))
    assert [line.event_id for line in recent.worth_labelling(3)] == ["e1", "e3", "e2"]
    recent.take(made(Outcome, event_id="e1"))
    recent.mark_labelled("e2")
    assert [line.event_id for line in recent.worth_labelling(9)] == ["e3", "e4", "e0"]


@pytest.mark.parametrize("shares", [{}, {"only": 1.0}])
def test_prediction_with_fewer_than_two_labels_is_queued(shares: dict[str, float]) -> None:
    recent = RecentPredictions()
    recent.take(made(Prediction, event_id="e", label="only", probabilities=shares))
    assert [line.others for line in recent.worth_labelling(1)] == [()]


def test_unlabelled_memory_is_bounded_and_drops_oldest() -> None:
    recent = RecentPredictions()
    for number in range(UNLABELLED + 1):
        recent.take(predicted(number))
    known = {line.event_id for line in recent.worth_labelling(UNLABELLED + 1)}
    assert len(known) == UNLABELLED and "e0" not in known


def test_latency_quantiles_come_from_recent_predictions() -> None:
    recent = RecentPredictions()
    assert recent.latency() == (0.0, 0.0)
    for number in range(101):
        recent.take(made(Prediction, event_id=str(number), latency_ms=float(number)))
    assert recent.latency() == (50.0, 99.0)
    recent.tick(12.5, 7)
    (second,) = recent.samples
    assert (second.rate, second.lag, second.p50, second.p99) == (12.5, 7, 50.0, 99.0)


def board_with(outcomes: list[tuple[int, str, bool]], drifts: tuple[int, ...] = ()) -> AccuracyTimeline:
    board = AccuracyTimeline(drifts=drifts)
    for position, version, correct in outcomes:
        board.take(made(Outcome, position=position, model_version=version, correct=correct))
    return board


def test_rolling_accuracy_is_windowed_per_version() -> None:
    right = [(i, "1", True) for i in range(WINDOW)]
    wrong = [(i, "2", False) for i in range(WINDOW, WINDOW + 2 * STEP)]
    rolling = board_with(right + wrong).rolling(1000)
    assert rolling["1"][-1] == (WINDOW, 1.0)
    assert rolling["2"] == [(WINDOW + STEP, 0.0), (WINDOW + 2 * STEP, 0.0)]
    assert rolling[""][-1] == (WINDOW + 2 * STEP, pytest.approx(1 - 2 * STEP / WINDOW))


@pytest.mark.parametrize("points", [1, 7, 40])
def test_rolling_line_is_thinned_to_requested_points(points: int) -> None:
    """The last point stays at the end of the stream."""
    rolling = board_with([(i, "1", i % 2 == 0) for i in range(40 * STEP)]).rolling(points)
    assert 1 <= len(rolling["1"]) <= points and rolling["1"][-1][0] >= 40 * STEP
    assert all(share == 0.5 for _, share in rolling["1"])


def test_events_without_a_position_are_counted() -> None:
    rolling = board_with([(-1, "1", True)] * (3 * STEP)).rolling(10)
    assert [position for position, _ in rolling["1"]] == [STEP, 2 * STEP, 3 * STEP]


def test_timeline_marks_have_positions_and_descriptions() -> None:
    board = AccuracyTimeline(drifts=[70])
    for position in range(90):
        board.take(made(Prediction, position=position, model_version="1"))
    board.take(made(DriftAlert, position=80, onset=70, severity=0.5, signal="error"))
    board.take(made(Retraining, state="queued", position=85, reason="drift"))
    board.take(made(ModelUpdate, version="2", action="promote", reason="better"))
    board.take(made(Prediction, position=95, model_version="2"))
    board.take(made(ModelUpdate, version="1", action="rollback", reason="worse"))
    assert board.marks == [
        Mark(70, "true", "the stream changes here"),
        Mark(80, "alert", "error moved by +0.500"),
        Mark(85, "retraining", "search: drift"),
        Mark(95, "promotion", "promoted v2"),
        Mark(0, "rollback", "rolled back to v1"),
    ]


def strings(tree: Any) -> list[str]:
    """Every key of a tree of options."""
    if isinstance(tree, dict):
        return [*tree, *(one for part in tree.values() for one in strings(part))]
    return [one for part in tree for one in strings(part)] if isinstance(tree, list) else []


def test_untrusted_text_is_no_chart_key_or_markup() -> None:
    options = charts.accuracy({"": [(50, 0.5)], HOSTILE: [(50, 0.25)]}, [Mark(5, "alert", HOSTILE)])
    # NiceGUI takes what stands under a key with a colon as script; ECharts would take a tooltip's text as HTML.
    assert not any(key.startswith(":") or HOSTILE in key for key in strings(options))
    assert options["tooltip"]["renderMode"] == "richText"
    assert options["series"][1]["name"] == "v<b>\\x1b[31m\\u202e\\n{{1}}"
    assert HOSTILE not in str(options)


def test_chart_of_weights_stacks_the_experts() -> None:
    """Only samples are kept; a name is data."""
    history = LoopHistory()
    update = MixtureUpdate(
        stream="s",
        version="1",
        revision=1,
        outcome_offset=49,
        weights={"online": 0.25, HOSTILE: 0.75},
        published_at=0.0,
    )
    history.take(update)
    history.take(replace(update, expert="online", outcome_offset=59))
    history.take(replace(update, outcome_offset=99, weights={"online": 1.0}))
    assert [labelled for labelled, _ in history.weights] == [50, 100]
    options = charts.weights(list(history.weights))
    assert [one["data"] for one in options["series"]] == [[(50, 0.25), (100, 1.0)], [(50, 0.75), (100, 0.0)]]
    assert len({one["stack"] for one in options["series"]}) == 1
    assert options["tooltip"]["renderMode"] == "richText" and HOSTILE not in options["series"][1]["name"]


def test_chart_has_lines_per_version_and_event_marks() -> None:
    marks = [Mark(10, "true", ""), Mark(20, "alert", ""), Mark(30, "promotion", "")]
    options = charts.accuracy({"": [(50, 0.55)], "2": [(90, 0.62)], "1": [(50, 0.55)]}, marks)
    assert [series["name"] for series in options["series"]] == ["all versions", "v1", "v2"]
    placed = options["series"][0]["markLine"]["data"]
    assert [(one["xAxis"], one["label"]["formatter"]) for one in placed] == [(10, "△"), (20, "▲"), (30, "●")]
    assert options["yAxis"][0]["min"] == 0.5


def answered(chunks: list[bytes], headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    """What comes out of `CspMiddleware` when the application answers with these chunks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        for at, chunk in enumerate(chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": at < len(chunks) - 1})

    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        return {"type": "http.request"}

    asyncio.run(CspMiddleware(app)({"type": "http"}, nothing, keep))
    found = {name.decode().lower(): text.decode() for name, text in sent[0]["headers"]}
    return found, b"".join(message.get("body", b"") for message in sent[1:])


def test_every_page_script_gets_the_policy_nonce() -> None:
    """Chunk boundaries of the response do not matter."""
    page = b"<script>a</script><scripture><script type=module>b</script>&lt;script>"
    for chunks in ([page], [page[:3], page[3:20], page[20:]], [page, b""]):
        headers, body = answered(chunks, {"x-nicegui-content": "page", "content-length": str(len(page))})
        (nonce,) = set(re.findall(r"nonce-([\w-]+)", headers["content-security-policy"]))
        expected = b'<script nonce="%s">a</script><scripture><script nonce="%s" type=module>b</script>&lt;script>'
        assert body == expected % (nonce.encode(), nonce.encode())
        assert headers["content-length"] == str(len(body))
        assert headers["content-security-policy"] == content_security_policy(nonce)


def test_response_other_than_page_keeps_its_body() -> None:
    headers, body = answered([b"<script>", b"x"], {"content-length": "9"})
    assert body == b"<script>x" and "content-security-policy" not in headers
    assert (headers["content-length"], headers["x-content-type-options"]) == ("9", "nosniff")


def test_policy_allows_no_external_sources() -> None:
    directives = dict(part.strip().split(" ", 1) for part in content_security_policy("n0nce").split(";"))
    assert directives.pop("default-src") == directives.pop("frame-ancestors") == directives.pop("base-uri") == "'none'"
    assert directives.pop("script-src") == "'self' 'nonce-n0nce' 'unsafe-eval'"
    allowed = {"'self'", "'unsafe-inline'", "data:"}
    assert all(set(sources.split()) <= allowed for sources in directives.values())
    assert "'unsafe-inline'" not in directives["connect-src"] and "data:" not in directives["connect-src"]
