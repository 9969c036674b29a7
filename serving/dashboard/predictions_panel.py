"""Panels with predictions, each with buttons to confirm or correct its label."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nicegui import events, ui

from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import widgets
from serving.http.auth import Caller
from serving.human_actions import send_label
from serving.live.recent_predictions import PredictionLine
from serving.routes import AppContext

CHOICES = 4
"""Largest number of labels with a button; the others are in a list."""
# The button sends the event and label that it had when it was pressed. Its row may show another event by the time the
# server receives the click.
_SEND_CHOICE = "(e) => emit(e.currentTarget.dataset.choice)"


class PredictionsPanel:
    """A fixed number of rows with predictions. Updates pause while the pointer or the focus is on them.

    Args:
        context: The objects that the routes share.
        caller: The client that opened the page.
        number: Number of rows.
        confirm: If True, the predicted label has a button as well.
    """

    def __init__(self, context: AppContext, caller: Caller, number: int, *, confirm: bool) -> None:
        self._context = context
        self._caller = caller
        self._confirm = confirm
        self._paused = False
        self._shown: list[PredictionLine | None] = [None] * number
        with ui.element("ol").classes("lines") as rows:
            self._rows = [_Row(self._choose, caller.may("annotator"), confirm) for _ in range(number)]
        for event, paused in (("mouseenter", True), ("mouseleave", False), ("focusin", True), ("focusout", False)):
            rows.on(event, lambda _, paused=paused: self._hold(paused))
        self._empty = ui.label("No predictions yet.").classes("dim")

    def show(self, lines: Sequence[PredictionLine]) -> None:
        """Show these predictions in the rows."""
        if self._paused:
            return
        for at, row in enumerate(self._rows):
            line = lines[at] if at < len(lines) else None
            if line != self._shown[at]:
                self._shown[at] = line
                row.fill(line)
        self._empty.set_visibility(not lines)

    def _hold(self, paused: bool) -> None:
        self._paused = paused

    async def _choose(self, choice: object) -> None:
        """Handle a choice from the browser, which is untrusted: a JSON list of event id and label."""
        try:
            event_id, label = json.loads(str(choice))
        except ValueError:
            return
        await widgets.run_action(lambda: self._give_label(str(event_id), str(label)))

    async def _give_label(self, event_id: str, label: str) -> None:
        self._context.authenticator.count_request(self._caller)
        if not self._caller.may("annotator"):
            return
        annotator = self._caller.name or "anonymous"
        found = await asyncio.to_thread(send_label, self._context, event_id, label, annotator)
        loop = self._context.loop
        with loop.lock:
            loop.recent.mark_labelled(event_id)
        self._paused = False
        word = "confirmed as" if found.label == label else "corrected to"
        ui.notify(f"“{escape_control_chars(found.text, 60)}” {word} {escape_control_chars(label, 60)}", type="positive")


class _Row:
    """Row with one prediction."""

    def __init__(self, choose: Callable[[object], Awaitable[None]], may_label: bool, confirm: bool) -> None:
        self._confirm = confirm
        self._event_id = ""
        self._choose = choose
        with ui.element("li") as self._item:
            self._text = ui.label().classes("text")
            with ui.element("div").classes("verdict"):
                self._label = ui.label().classes("chip")
                self._facts = ui.label().classes("dim")
                self._buttons = [self._button() for _ in range(CHOICES if may_label else 0)]
                self._more = ui.select([], on_change=self._on_select).props("dense options-dense borderless")
        self._more.props["aria-label"] = "another label"
        self._more.set_visibility(False)
        self._item.set_visibility(False)

    def _button(self) -> ui.button:
        made = widgets.button()
        made.on("click", lambda e: self._choose(e.args), js_handler=_SEND_CHOICE)
        return made

    async def _on_select(self, event: events.ValueChangeEventArguments[Any]) -> None:
        if event.value is not None:
            chosen, self._more.value = str(event.value), None
            await self._choose(json.dumps([self._event_id, chosen]))

    def fill(self, line: PredictionLine | None) -> None:
        """Show a prediction; an empty row for `None`."""
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
        button.props["data-choice"] = json.dumps([line.event_id, label])
        word = "is right" if label == line.label else f"should be {shown}"
        button.props["aria-label"] = f"{escape_control_chars(line.label, 40)} {word}: {line.text[:80]}"
