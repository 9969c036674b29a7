"""Predictions on the live page, each with buttons that say what is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nicegui import events, ui

from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import widgets as pieces
from serving.http.auth import Caller
from serving.human_actions import give_label
from serving.live.recent_predictions import PredictionLine
from serving.routes import AppContext

CHOICES = 4
"""Labels that have a button; where there are more, a list has all of them."""
_SAY = "(e) => emit(e.currentTarget.dataset.said)"
"""The button says what it was about when it was pressed: its line may be another's by the time the server hears."""


class Lines:
    """A fixed number of rows that are filled anew; they stand still while somebody points at them.

    Args:
        confirm: whether the label that was predicted has a button as well.
    """

    def __init__(self, parts: AppContext, caller: Caller, number: int, *, confirm: bool) -> None:
        self._parts = parts
        self._caller = caller
        self._confirm = confirm
        self._still = False
        self._shown: list[PredictionLine | None] = [None] * number
        with ui.element("ol").classes("lines") as rows:
            self._rows = [_Row(self._labelled, caller.may("annotator"), confirm) for _ in range(number)]
        for event, still in (("mouseenter", True), ("mouseleave", False), ("focusin", True), ("focusout", False)):
            rows.on(event, lambda _, still=still: self._hold(still))
        self._empty = ui.label("Nothing yet.").classes("dim")

    def show(self, lines: Sequence[PredictionLine]) -> None:
        """Fill the rows."""
        if self._still:
            return
        for at, row in enumerate(self._rows):
            line = lines[at] if at < len(lines) else None
            if line != self._shown[at]:
                self._shown[at] = line
                row.fill(line)
        self._empty.set_visibility(not lines)

    def _hold(self, still: bool) -> None:
        self._still = still

    async def _labelled(self, said: object) -> None:
        try:
            event_id, label = json.loads(str(said))
        except ValueError:
            return
        await pieces.said(lambda: self._give(str(event_id), str(label)))

    async def _give(self, event_id: str, label: str) -> None:
        self._parts.callers.charge(self._caller)
        if not self._caller.may("annotator"):
            return
        who = self._caller.name or "anonymous"
        found = await asyncio.to_thread(give_label, self._parts, event_id, label, who)
        loop = self._parts.loop
        with loop.lock:
            loop.recent.mark_labelled(event_id)
        self._still = False
        word = "confirmed as" if found.label == label else "corrected to"
        ui.notify(f"“{escape_control_chars(found.text, 60)}” {word} {escape_control_chars(label, 60)}", type="positive")


class _Row:
    """One prediction."""

    def __init__(self, labelled: Callable[[object], Awaitable[None]], may_label: bool, confirm: bool) -> None:
        self._confirm = confirm
        self._event_id = ""
        self._labelled = labelled
        with ui.element("li") as self._item:
            self._text = ui.label().classes("text")
            with ui.element("div").classes("verdict"):
                self._label = ui.label().classes("chip")
                self._facts = ui.label().classes("dim")
                self._buttons = [self._button() for _ in range(CHOICES if may_label else 0)]
                self._more = ui.select([], on_change=self._chosen).props("dense options-dense borderless")
        self._more.props["aria-label"] = "another label"
        self._more.set_visibility(False)
        self._item.set_visibility(False)

    def _button(self) -> ui.button:
        made = pieces.button()
        made.on("click", lambda e: self._labelled(e.args), js_handler=_SAY)
        return made

    async def _chosen(self, event: events.ValueChangeEventArguments[Any]) -> None:
        if event.value is not None:
            chosen, self._more.value = str(event.value), None
            await self._labelled(json.dumps([self._event_id, chosen]))

    def fill(self, line: PredictionLine | None) -> None:
        """Show a prediction, or nothing."""
        self._item.set_visibility(line is not None)
        if line is None:
            return
        self._event_id = line.event_id
        self._text.set_text(line.text)
        self._label.set_text(escape_control_chars(line.label, 40))
        segment = f" · {line.segment}" if line.segment else ""
        self._facts.set_text(f"{line.share:.0%} · v{line.version}{segment}")
        choices = [line.label, *line.others] if self._confirm else list(line.others)
        for at, button in enumerate(self._buttons):
            self._offer(button, line, choices[at] if at < len(choices) else None)
        rest = choices[CHOICES:] if self._buttons else []
        self._more.set_visibility(bool(rest))
        if rest:
            self._more.set_options({label: escape_control_chars(label, 60) for label in rest})

    def _offer(self, button: ui.button, line: PredictionLine, label: str | None) -> None:
        button.set_visibility(label is not None)
        if label is None:
            return
        shown = escape_control_chars(label, 40)
        button.set_text(f"✓ {shown}" if label == line.label else f"→ {shown}")
        button.props["data-said"] = json.dumps([line.event_id, label])
        word = "is right" if label == line.label else f"should be {shown}"
        button.props["aria-label"] = f"{escape_control_chars(line.label, 40)} {word}: {line.text[:80]}"
