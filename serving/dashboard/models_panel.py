"""The registered versions on the live page: where each comes from, how two differ, and what an admin may do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from nicegui import ui

from driftloop.core.models.registry import Model, Registry, difference
from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import widgets as pieces
from serving.dashboard.snapshots import Snapshots
from serving.http.auth import Caller
from serving.human_actions import Action, ask
from serving.routes import AppContext

SHOWN = 12
WORDS = {
    "promote": "Make it the champion",
    "reject": "Turn it down",
    "rollback": "Bring it back",
    "retrain": "Retrain now",
}


def possible(model: Model) -> list[Action]:
    """What can be asked about a version."""
    if model.champion:
        return []
    actions: dict[str, list[Action]] = {
        "waiting": ["promote", "reject"],
        "rejected": ["promote"],
        "promoted": ["rollback"],
        "rolled-back": ["rollback"],
    }
    return actions.get(model.verdict, [])


def descent(models: Sequence[Model], version: str) -> list[str]:
    """A version, the champion that it replaced or was compared with, and so on."""
    known = {model.version: model for model in models}
    line: list[str] = []
    while version in known and version not in line:
        line.append(version)
        version = known[version].parent
    return line


class Wish:
    """A dialog that asks an admin for a reason, and then the retrainer for what is wanted."""

    def __init__(self, parts: AppContext, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self._wanted: tuple[Action, str] = ("retrain", "")
        with ui.dialog() as self._dialog, ui.card().classes("dialog"):
            self._title = ui.label().classes("title").props("role=heading aria-level=2")
            self._reason = ui.input("Why?").props("maxlength=1000 autofocus").classes("wide")
            with ui.row():
                pieces.button("Do it", self._send)
                pieces.button("Cancel", self._dialog.close)

    def open(self, action: Action, version: str = "") -> None:
        """Ask for the reason."""
        self._wanted = (action, version)
        self._title.set_text(WORDS[action] + (f": version {escape_control_chars(version, 40)}" if version else ""))
        self._reason.value = ""
        self._dialog.open()

    async def _send(self) -> None:
        self._parts.callers.charge(self._caller)
        if not self._caller.may("admin"):
            return
        action, version = self._wanted
        reason = str(self._reason.value or "")[:1000]
        await asyncio.to_thread(ask, self._parts, action, version, reason, self._caller.name)
        self._dialog.close()
        ui.notify(f"{WORDS[action]}: asked. The retrainer answers in the news below.", type="positive")


class Models:
    """The table of versions, and the difference of two."""

    def __init__(self, parts: AppContext, caller: Caller, pictures: Snapshots, wish: Wish) -> None:
        self._parts = parts
        self._admin = caller.may("admin")
        self._pictures = pictures
        self._wish = wish
        self._shown: list[Model] | None = None
        self._table = ui.element("div")
        with ui.element("div").classes("choose"):
            self._one, self._other = (
                ui.select([], label=f"{which} version", on_change=self._compare).props("dense outlined options-dense")
                for which in ("One", "Other")
            )
        self._difference = ui.element("div").props("aria-live=polite")

    async def refresh(self) -> None:
        """Ask for the versions; where the registry is away the old ones stay."""
        models = await asyncio.to_thread(self._pictures.models)
        if models == self._shown:
            return
        self._shown = models
        self._table.clear()
        with self._table:
            self._draw(models[:SHOWN])
        offered = {model.version: f"v{escape_control_chars(model.version, 20)}" for model in models}
        if offered != self._one.options:  # new options close a list that somebody has open
            self._one.set_options(offered)
            self._other.set_options(offered)

    def _draw(self, models: Sequence[Model]) -> None:
        head = ["version", "candidate", "verdict", "accuracy", "descent", "why"]
        head += ["what to do"] if self._admin else []
        with pieces.rows("models", head):
            for model in models:
                self._row(model)

    def _row(self, model: Model) -> None:
        descended = " ← ".join(f"v{version}" for version in descent(self._shown or [], model.version)[:6])
        verdict = "champion" if model.champion else model.verdict
        cells = [f"v{model.version}", model.candidate, verdict, pieces.share(model.accuracy), descended, model.reason]
        with ui.element("tr").classes("marked" if model.champion else ""):
            for text in cells:
                pieces.cell(text)
            if self._admin:
                with ui.element("td"), ui.element("div").classes("verdict"):
                    for action in possible(model):
                        then = partial(self._wish.open, action, model.version)
                        pieces.button(action, then, f"{WORDS[action]}: version {model.version}")

    async def _compare(self) -> None:
        if not self._one.value or not self._other.value:
            return
        await pieces.said(self._show_difference)

    async def _show_difference(self) -> None:
        pair = [str(self._one.value), str(self._other.value)]

        def both(registry: Registry) -> list[dict[str, str]]:
            return [registry.describe(version) for version in pair]

        one, other = await asyncio.to_thread(self._parts.ask_registry, both)
        rows = difference(one, other)
        self._difference.clear()
        with self._difference:
            differ = [at for at, (_, mine, yours) in enumerate(rows) if mine != yours]
            pieces.table("difference", ["field", *(f"v{version}" for version in pair)], rows, differ)
