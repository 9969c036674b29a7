"""The live page in a real browser, on a real loop: what it shows, what people do on it, and what hostile text does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from driftloop.core.messages import DriftAlert, Event, Label, Prediction, Retraining, encode
from driftloop.core.online_store import OnlineStore
from driftloop.core.topics import COMMANDS, LABELS, OUTCOMES, PREDICTIONS
from tests.integration.conftest import StreamHarness
from tests.integration.test_api import ready
from tests.integration.test_serve import Api, put, serve
from tests.unit.serving.test_views import made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SOON = 20_000
"""Milliseconds for something to appear."""
TOKENS = "ann:annotator:" + "a" * 16 + ",vera:viewer:" + "v" * 16 + ",root:admin:" + "r" * 16
HOSTILE = (
    '<img src=x onerror="window.owned=1"><script>window.owned=2</script>',
    "</script><script>window.owned=3</script>",
    "`${window.owned=4}` {{constructor.constructor('window.owned=5')()}}",
    '" onmouseover="window.owned=6" x=\'',
    "javascript:window.owned=7 \x1b[31m\u202e\x00 &lt;b&gt;",
)


@dataclass
class Visit:
    """An open page, and all that the browser had to complain of."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as made_context:
        made_context.set_default_timeout(SOON)
        yield made_context


def visit(context: BrowserContext, api: Api) -> Visit:
    """Open the page, and wait until it is alive."""
    seen = Visit(context.new_page())
    seen.page.goto(f"http://127.0.0.1:{api.port}/")
    expect(seen.page.get_by_role("heading", name="driftloop")).to_be_visible(timeout=SOON)
    return seen


def running(world: StreamHarness, events: int = 30, **environ: str) -> Api:
    """A server of a loop that has scored something."""
    world.promote()
    world.send(events=range(events), labels=range(events - 10))
    world.start("score")
    world.start("monitor")
    api = ready(world, **environ)
    world.until(lambda: world.count(PREDICTIONS) >= events and world.count(OUTCOMES) >= events - 10)
    return api


def feed(page: Page) -> Any:
    return page.get_by_role("region", name="Predictions", exact=True)


def labels(world: StreamHarness) -> list[Label]:
    return [one for one in world.read(LABELS) if isinstance(one, Label) and one.feedback]


def test_promotion_appears_without_reload(world: StreamHarness, context: BrowserContext) -> None:
    """The page loads nothing from other hosts, and the browser reports no error."""
    api = running(world)
    seen = visit(context, api)
    page = seen.page
    status = page.get_by_role("status")
    expect(status).to_contain_text("champion v1", timeout=SOON)
    expect(page.locator("canvas")).to_have_count(3)
    expect(feed(page).get_by_role("listitem")).to_have_count(12)
    page.evaluate("window.here = 'still'")
    world.promote(flipped=True)
    expect(status).to_contain_text("champion v2", timeout=SOON)
    expect(page.get_by_role("group", name="models")).to_contain_text("v2linearchampion", timeout=SOON)
    expect(page.get_by_role("log")).to_contain_text("promoted v2")
    assert page.evaluate("window.here") == "still", "the page was loaded again"
    assert seen.hosts == {f"127.0.0.1:{api.port}"}
    assert seen.complaints == []


def test_content_security_policy_blocks_script_without_nonce(world: StreamHarness, context: BrowserContext) -> None:
    """The control: the same script with the page's nonce runs."""
    page = visit(context, serve(world)).page
    add = """nonce => { const s = document.createElement('script'); s.textContent = 'window.ran = true';
             if (nonce) s.nonce = nonce; document.head.append(s); return Boolean(window.ran) }"""
    assert page.evaluate(add, None) is False
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => window.away = true)")
    page.wait_for_function("window.away")
    nonce = page.evaluate("document.querySelector('script[nonce]').nonce")
    assert len(nonce) >= 16 and page.evaluate(add, nonce) is True
    again = visit(context, serve(world)).page
    assert again.evaluate("document.querySelector('script[nonce]').nonce") != nonce


def test_a_correction_reaches_the_topic(world: StreamHarness, context: BrowserContext) -> None:
    page = visit(context, running(world)).page
    row = feed(page).get_by_role("listitem").first
    row.hover()
    button = row.get_by_role("button", name=re.compile("should be"))
    event_id, label = json.loads(str(button.get_attribute("data-choice")))
    button.click()
    expect(page.get_by_role("alert").filter(has_text="corrected to")).to_be_visible()
    world.until(lambda: len(labels(world)) == 1)
    (given,) = labels(world)
    assert (given.event_id, given.label, given.annotator) == (event_id, label, "anonymous")
    known = {p.event_id: p for p in world.read(PREDICTIONS) if isinstance(p, Prediction)}
    assert known[event_id].label != label


def test_labelling_queue_lists_least_certain_events_first(world: StreamHarness, context: BrowserContext) -> None:
    """An event that is labelled leaves the queue."""
    page = visit(context, running(world)).page
    queue = page.get_by_role("region", name="Labelling queue")
    expect(queue.get_by_role("listitem")).to_have_count(8)
    joined = {o.event_id for o in world.read(OUTCOMES)}
    waiting = [p for p in world.read(PREDICTIONS) if isinstance(p, Prediction) and p.event_id not in joined]
    surest = sorted(waiting, key=lambda p: abs(p.probabilities["negative"] - p.probabilities["positive"]))

    def shown() -> list[str]:
        rows = queue.get_by_role("button", name=re.compile("is right")).all()
        return [json.loads(str(one.get_attribute("data-choice")))[0] for one in rows]

    assert shown() == [p.event_id for p in surest[:8]]
    queue.get_by_role("button", name=re.compile("is right")).first.click()
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    world.until(lambda: surest[0].event_id not in shown())
    assert [one.event_id for one in labels(world)] == [surest[0].event_id]


def test_hostile_text_is_shown_and_does_nothing(world: StreamHarness, context: BrowserContext) -> None:
    here = {"stream": world.settings.stream}
    texts = [made(Event, event_id=f"{text}{i}", text=text, segment=text) for i, text in enumerate(HOSTILE)]
    put(world.outbox, "events", *texts)
    api = running(world, 12)
    for number, text in enumerate(HOSTILE):
        moved = {"what": "word", "name": text, "measure": "share", "before": 0.1, "after": 0.2, "z": 4.0}
        fields = {
            "detector": text,
            "alert_id": text,
            "evidence": {"moved": [moved]},
            "model_version": text[:60],
            **here,
        }
        put(world.outbox, "drift-alerts", made(DriftAlert, position=number, onset=number, **fields))
        run = {"run_id": f"r{number}", "trigger": "t", "candidate": text, "reason": text, **here}
        put(world.outbox, "retraining", made(Retraining, state="queued", **run))
        put(world.outbox, "retraining", made(Retraining, state="gated", scores={"checks": [{"name": text}]}, **run))
        said = {"text": text, "label": text, "probabilities": {text: 0.5, "negative": 0.5}, "model_version": text[:60]}
        prediction = made(Prediction, event_id=f"p{number}", **said)
        put(world.outbox, "predictions", prediction)
        OnlineStore(world.settings).put_predictions({prediction.event_id: encode(prediction)})
    world.outbox.flush()
    seen = visit(context, api)
    page = seen.page
    expect(page.locator(".alert")).to_have_count(len(HOSTILE))
    for one in page.locator(".alert").all():
        one.click()
    for text in HOSTILE[:4]:
        expect(feed(page)).to_contain_text(text)
        expect(page.get_by_role("log")).to_contain_text(text)
    expect(page.get_by_role("region", name="Retraining", exact=True)).to_contain_text("javascript:window.owned=7")
    feed(page).get_by_role("button", name=re.compile("should be negative")).first.click()
    expect(page.get_by_role("alert").filter(has_text="corrected to")).to_be_visible()
    page.wait_for_timeout(1500)
    assert page.evaluate("window.owned === undefined")
    assert page.locator("img, iframe, object, embed").count() == 0
    assert seen.complaints == [] and seen.hosts == {f"127.0.0.1:{api.port}"}


def test_forged_button_value_shows_error_message(world: StreamHarness, context: BrowserContext) -> None:
    """Values that are no choice at all are ignored, and no label is written in any case."""
    page = visit(context, running(world)).page
    row = feed(page).get_by_role("listitem").first
    row.hover()
    button = row.get_by_role("button", name=re.compile("should be"))
    for said, words in (
        (json.dumps(["no such event", "negative"]), "There is no prediction for"),
        (json.dumps(["e1", "no such label"]), "The model knows negative, positive"),
    ):
        button.evaluate("(e, said) => { e.dataset.choice = said }", said)
        button.click()
        expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
    for said in ("", "no json", "[]", "5", "{}"):
        button.evaluate("(e, said) => { e.dataset.choice = said }", said)
        button.click()
    page.wait_for_timeout(1000)
    assert labels(world) == []


def test_roles_see_only_their_own_controls(world: StreamHarness, context: BrowserContext) -> None:
    api = running(world, token="v" * 16, DRIFTLOOP_API__TOKENS=TOKENS)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{api.port}/")
    assert page.url.endswith("/login")

    def log_in(token: str) -> None:
        page.get_by_label(re.compile("token")).fill(token)
        page.get_by_role("button").click()

    log_in("wrong" * 4)
    expect(page.get_by_role("alert")).to_have_text("This token is unknown.")
    offers = {"v": (0, 0), "a": (1, 0), "r": (1, 1)}
    for letter, (corrections, steering) in offers.items():
        log_in(letter * 16)
        expect(feed(page).get_by_role("listitem")).to_have_count(12)
        assert bool(page.get_by_role("button", name=re.compile("should be")).count()) == bool(corrections)
        assert page.get_by_role("button", name="Retrain now").count() == steering
        (cookie,) = context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name=re.compile("^Log out .*")).click()
        expect(page.get_by_label(re.compile("token"))).to_be_visible()
    assert context.cookies() == []


def test_admin_requests_retraining_on_the_page(world: StreamHarness, context: BrowserContext) -> None:
    api = running(world, token="r" * 16, DRIFTLOOP_API__TOKENS=TOKENS)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{api.port}/")
    page.get_by_label(re.compile("token")).fill("r" * 16)
    page.get_by_role("button").click()
    page.get_by_role("button", name="Retrain now").click()
    page.get_by_label("Reason").fill("it is Friday")
    page.get_by_role("button", name="Confirm").click()
    world.until(lambda: world.count(COMMANDS) == 1)
    (command,) = world.read(COMMANDS)
    assert (command.action, command.by, command.reason) == ("retrain", "root", "it is Friday")


def test_version_comparison_marks_fields_that_differ(world: StreamHarness, context: BrowserContext) -> None:
    api = running(world)
    world.promote(flipped=True)
    page = visit(context, api).page
    expect(page.get_by_role("group", name="models")).to_contain_text("v2", timeout=SOON)
    for which, version in (("First version", "v1"), ("Second version", "v2")):
        page.get_by_label(which).click()
        page.get_by_role("option", name=version).click()
        expect(page.get_by_role("listbox")).to_have_count(0, timeout=SOON)  # a list that closes would catch a click
        expect(page.get_by_label(which)).to_have_value(version, timeout=SOON)
    table = page.get_by_role("group", name="difference")
    expect(table).to_contain_text("digest", timeout=SOON)
    marked = table.locator("tr.marked").all_inner_texts()
    assert any(row.startswith("digest") for row in marked) and not any(row.startswith("candidate") for row in marked)


LONG = (
    "better: 0.633 against 0.233 on the newest 30 events, accuracy +0.400 [+0.133, +0.633], Brier score -0.920 "
    "[-1.264, -0.542]; forgetting: 0.055 against 0.885: excused, since what the champion knew no longer holds"
)


def test_long_reason_is_shortened_until_opened(world: StreamHarness, context: BrowserContext) -> None:
    run = {"run_id": "r", "trigger": "t", "stream": world.settings.stream}
    checks = [
        {"name": "minimum gain", "passed": True, "words": "a gain of +0.400"},
        {"name": "forgetting", "passed": True, "excused": True, "words": "0.055 against 0.885"},
    ]
    put(world.outbox, "retraining", made(Retraining, state="queued", reason="drift of 0.151 (fused)", **run))
    gated = made(Retraining, state="gated", candidate="linear", reason=LONG, scores={"checks": checks}, **run)
    put(world.outbox, "retraining", gated)
    world.outbox.flush()
    seen = visit(context, serve(world))
    panel = seen.page.get_by_role("region", name="Retraining", exact=True)
    row = panel.get_by_role("group", name="candidates")
    expect(row).to_contain_text("better: 0.633 against 0.233 on the newest 30 events", timeout=SOON)
    expect(row).not_to_contain_text("no longer holds")
    expect(panel.get_by_text("no longer holds")).not_to_be_visible()
    panel.get_by_text("linear: gate checks, 2 of 2 passed; excused: forgetting").click()
    expect(panel.get_by_text("no longer holds")).to_be_visible()
    expect(panel.get_by_role("group", name="gate checks")).to_contain_text("forgettingexcused–0.055 against 0.885")
    assert seen.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_audit_finds_no_violation(world: StreamHarness, browser: Browser, scheme: Any) -> None:
    here = {"stream": world.settings.stream}
    put(world.outbox, "drift-alerts", made(DriftAlert, position=5, onset=3, evidence={"words": ["new"]}, **here))
    world.outbox.flush()
    api = running(world)
    with browser.new_context(color_scheme=scheme) as context:
        page = visit(context, api).page
        page.locator(".alert").click()
        page.get_by_role("button", name="Show outcome").click()
        page.wait_for_timeout(2000)
        found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:5]]) for one in found] == []


@pytest.mark.parametrize("width", [320, 768, 1600])
def test_page_fits_the_screen_width(world: StreamHarness, browser: Browser, width: int) -> None:
    api = running(world)
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        page = visit(context, api).page
        expect(feed(page).get_by_role("listitem")).to_have_count(12)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_works_with_keyboard_alone(world: StreamHarness, context: BrowserContext) -> None:
    page = visit(context, running(world)).page
    expect(feed(page).get_by_role("listitem")).to_have_count(12)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.classList.contains('page')")
    for _ in range(60):
        page.keyboard.press("Tab")
        said = page.evaluate("document.activeElement.dataset.choice")
        if said:
            break
    assert said
    assert page.evaluate("getComputedStyle(document.activeElement).boxShadow") != "none", "nobody sees where they are"
    page.keyboard.press("Enter")
    world.until(lambda: [one.event_id for one in labels(world)] == [json.loads(said)[0]])


def test_feed_pauses_while_pointer_is_over_it(world: StreamHarness, context: BrowserContext) -> None:
    page = visit(context, running(world)).page
    rows = feed(page).get_by_role("listitem")
    expect(rows).to_have_count(12)
    rows.first.hover()
    page.wait_for_timeout(500)
    before = rows.first.inner_text()
    world.send(events=range(50, 60))
    world.until(lambda: world.count(PREDICTIONS) >= 40)
    page.wait_for_timeout(2500)
    assert rows.first.inner_text() == before
    page.mouse.move(0, 0)
    expect(rows.first).not_to_have_text(before)


def test_page_reconnects_after_server_restart(world: StreamHarness, context: BrowserContext) -> None:
    api = running(world)
    page = visit(context, api).page
    api.child.stop()
    expect(page.locator("#popup")).to_be_visible()
    api.child.start()
    expect(page.locator("#popup")).not_to_be_visible(timeout=90_000)
    expect(page.get_by_role("status")).to_contain_text("champion v1", timeout=SOON)
