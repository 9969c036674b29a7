"""The live page: everything from a topic is text in it, and the browser is told to run and load nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest

from driftloop.lifecycle.tally import ChildState, State
from driftloop.messages import DeadLetter, DriftAlert, Message, ModelUpdate, Outcome, Prediction, Retraining
from driftloop.settings import RetrainSettings, Settings
from serving import page
from serving.live import Live
from tests.unit.test_views import made

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></main><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'> ' onclick=\"x",
    "</style></title><b>&lt;&amp;&#60;{style}{0}%s",
    "\x00\x1b[31m\x1b]0;owned\x07\r\n\x9b\u202e\u2028\ufffe",
    "[bold red]markup[/] :smiley:",
)
ELEMENTS = {"html", "head", "meta", "title", "style", "body", "main", "pre", "span", "p", "a"}


@dataclass
class Page(HTMLParser):
    """What a browser makes of a page."""

    source: str
    elements: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)
    """All text inside an element, by the element's name."""
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._inside == [], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.classes |= {name for key, value in attrs if key == "class" for name in (value or "").split()}
        if tag != "meta":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._inside):
            self.text[tag] = self.text.get(tag, "") + data


def live(*messages: Message, state: State | None = None) -> Live:
    """A board that has seen these messages; nothing is followed."""
    shown = Live(Settings(stream="tweets", retrain=RetrainSettings(bootstrap=1)))
    for message in messages:
        shown._take(message)
    if state is not None:
        shown.board.tick(state)
    return shown


def eventful(text: str, **changes: Any) -> Live:
    """A loop in which everything has happened, and strangers wrote ``text`` wherever they could."""
    stream = {"stream": "tweets"}
    messages = [
        made(Prediction, position=1, model_version=text),
        *(made(Outcome, position=i, correct=i % 2 == 0, model_version=text) for i in range(1, 120)),
        made(ModelUpdate, version=text, action="promote", reason=text, **stream),
        made(DriftAlert, position=100, onset=90, detector=text, model_version=text, **stream),
        made(Retraining, state="gated", candidate=text, reason=text, **stream),
        made(Retraining, state="promoted", candidate=text, version=text, reason=text, **stream),
        made(DeadLetter, error=text, topic=text),
    ]
    return live(*messages, **changes)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_stranger_wrote_is_text_and_nothing_else(text: str) -> None:
    plain, hostile = Page(page.render(eventful("7"))), Page(page.render(eventful(text)))
    assert set(hostile.elements) <= ELEMENTS
    assert sorted(hostile.elements) == sorted(plain.elements)
    assert hostile.attributes == plain.attributes
    controls = [c for c in hostile.source if c != "\n" and re.match(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", c)]
    assert controls == []
    if text.isprintable():
        assert text in hostile.text["title"]
        assert sum(text in line for line in hostile.text["pre"].splitlines()) >= 3
    else:
        assert r"\x00\x1b[31m\x1b]0;owned\x07\r\n\x9b\u202e\u2028" in hostile.text["title"]
        assert r"\x00\x1b[31m" in hostile.text["pre"]


def test_the_page_is_the_terminals_view() -> None:
    shown = Page(page.render(eventful("7", state=State(began=0.0, phase="running", events=30, predictions=20, lag=10))))
    view = shown.text["pre"]
    assert shown.text["title"] == "driftloop v7"
    assert view.splitlines()[0] == "driftloop  tweets  running"
    for part in ("events 30", "lag 10", "predicted 20", "● promoted v7: 7", "▲ drift: error", "† dead letter from 7"):
        assert part in view
    assert re.search(r"^v7 +0\.496 +1  *[▁-█]{3}$", view, re.MULTILINE), "the version, its accuracy and its timeline"


def test_an_empty_board_is_a_page_too() -> None:
    shown = Page(page.render(live()))
    assert shown.text["title"] == "driftloop"
    assert "driftloop  tweets  starting" in shown.text["pre"] and "no retraining yet" in shown.text["pre"]


def test_the_policy_allows_the_one_style_sheet_of_the_page_and_there_is_no_other_style_and_no_script() -> None:
    shown = Page(page.render(eventful("7")))
    digest = base64.b64encode(hashlib.sha256(shown.text["style"].encode()).digest()).decode()
    directives = dict(part.strip().split(" ", 1) for part in page.content_security_policy().split(";"))
    assert directives["default-src"] == "'none'" and directives["style-src"] == f"'sha256-{digest}'"
    assert {directives[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "script-src" not in directives and "unsafe" not in page.content_security_policy()
    assert shown.elements.count("style") == 1 and set(shown.elements) <= ELEMENTS
    names = {name for name, _ in shown.attributes}
    assert "style" not in names and not any(name.startswith("on") for name in names)


def test_the_page_asks_for_itself_again_and_links_to_nothing_elsewhere() -> None:
    shown = Page(page.render(live()))
    assert ("http-equiv", "refresh") in shown.attributes and ("content", str(page.RELOAD)) in shown.attributes
    links = [value for name, value in shown.attributes if name in ("href", "src")]
    assert links == ["v1/status", "metrics", "openapi.json"]


def test_every_class_of_the_view_is_in_the_style_sheet_and_the_other_way_round() -> None:
    children = {"a": ChildState("a", running=True), "b": ChildState("b", exit_code=1)}
    shown = Page(page.render(eventful("7", state=State(began=0.0, children=children))))
    styled = set(re.findall(r"\.([a-z]+) \{", shown.text["style"]))
    assert shown.classes == styled
    assert shown.classes >= {"bold", "dim", "red", "green", "cyan", "yellow"}
