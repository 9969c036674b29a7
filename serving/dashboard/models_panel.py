"""Panel with the registered versions: their lineage, a comparison of two, and the commands of an administrator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from nicegui import ui

from driftloop.core.models.registry import Model, Registry, difference
from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import widgets
from serving.dashboard.snapshots import Snapshots
from serving.http.auth import Caller
from serving.human_actions import Action, send_command
from serving.routes import AppContext

SHOWN = 12
"""Largest number of versions in the table."""
ANCESTORS = 6
"""Largest number of versions in the lineage of one."""
TITLES = {
    "promote": "Promote",
    "reject": "Reject",
    "rollback": "Roll back to",
    "retrain": "Retrain now",
}
"""Title of each command."""


def possible_actions(model: Model) -> list[Action]:
    """Return the commands that a version allows in its present state."""
    if model.champion:
        return []
    actions: dict[str, list[Action]] = {
        "waiting": ["promote", "reject"],
        "rejected": ["promote"],
        "promoted": ["rollback"],
        "rolled-back": ["rollback"],
    }
    return actions.get(model.verdict, [])


def ancestors(models: Sequence[Model], version: str) -> list[str]:
    """Return a version, the champion that it replaced or was compared with, that champion's champion, and so on.

    Args:
        models: The registered versions.
        version: The version to start with.
    """
    known = {model.version: model for model in models}
    line: list[str] = []
    while version in known and version not in line:
        line.append(version)
        version = known[version].parent
    return line


class CommandDialog:
    """Dialog that asks an administrator for a reason and sends a command to the retrainer.

    Args:
        context: The objects that the routes share.
        caller: The client that opened the page.
    """

    def __init__(self, context: AppContext, caller: Caller) -> None:
        self._context = context
        self._caller = caller
        self._command: tuple[Action, str] = ("retrain", "")
        with ui.dialog() as self._dialog, ui.card().classes("dialog"):
            self._title = ui.label().classes("title").props("role=heading aria-level=2")
            self._reason = ui.input("Reason").props("maxlength=1000 autofocus").classes("wide")
            with ui.row():
                widgets.button("Confirm", self._send)
                widgets.button("Cancel", self._dialog.close)

    def open(self, action: Action, version: str = "") -> None:
        """Open the dialog.

        Args:
            action: The command.
            version: Version that the command is about; empty for a retraining.
        """
        self._command = (action, version)
        self._title.set_text(_title(action, version))
        self._reason.value = ""
        self._dialog.open()

    async def _send(self) -> None:
        self._context.authenticator.count_request(self._caller)
        if not self._caller.may("admin"):
            return
        action, version = self._command
        reason = str(self._reason.value or "")[:1000]
        await asyncio.to_thread(send_command, self._context, action, version, reason, self._caller.name)
        self._dialog.close()
        ui.notify(f"{_title(action, version)}: sent. The retrainer's answer appears in the log.", type="positive")


def _title(action: Action, version: str) -> str:
    return TITLES[action] + (f" version {escape_control_chars(version, 40)}" if version else "")


class ModelsPanel:
    """Table of versions, and comparison of two of them.

    Args:
        context: The objects that the routes share.
        caller: The client that opened the page.
        snapshots: Source of the registered versions.
        command: Dialog for the commands of an administrator.
    """

    def __init__(self, context: AppContext, caller: Caller, snapshots: Snapshots, command: CommandDialog) -> None:
        self._context = context
        self._admin = caller.may("admin")
        self._snapshots = snapshots
        self._command = command
        self._shown: list[Model] | None = None
        self._table = ui.element("div")
        with ui.element("div").classes("choose"):
            self._one, self._other = (
                ui.select([], label=f"{which} version", on_change=self._compare).props("dense outlined options-dense")
                for which in ("First", "Second")
            )
        self._difference = ui.element("div").props("aria-live=polite")

    async def refresh(self) -> None:
        """Read the versions again. If the registry is unavailable, the old ones stay.

        Raises:
            HTTPException: 503 if the registry does not answer.
        """
        models = await asyncio.to_thread(self._snapshots.models)
        if models == self._shown:
            return
        self._shown = models
        self._table.clear()
        with self._table:
            self._draw(models[:SHOWN])
        options = {model.version: f"v{escape_control_chars(model.version, 20)}" for model in models}
        if options != self._one.options:  # new options would close a list that is open
            self._one.set_options(options)
            self._other.set_options(options)

    def _draw(self, models: Sequence[Model]) -> None:
        head = ["version", "candidate", "verdict", "accuracy", "lineage", "reason"]
        head += ["commands"] if self._admin else []
        with widgets.rows("models", head):
            for model in models:
                self._row(model)

    def _row(self, model: Model) -> None:
        lineage = " ← ".join(f"v{one}" for one in ancestors(self._shown or [], model.version)[:ANCESTORS])
        verdict = "champion" if model.champion else model.verdict
        cells = [f"v{model.version}", model.candidate, verdict, widgets.share(model.accuracy), lineage]
        with ui.element("tr").classes("marked" if model.champion else ""):
            for text in cells:
                widgets.cell(text)
            with ui.element("td"):
                widgets.reason(model.reason)
            if self._admin:
                with ui.element("td"), ui.element("div").classes("verdict"):
                    for action in possible_actions(model):
                        then = partial(self._command.open, action, model.version)
                        widgets.button(action, then, _title(action, model.version))

    async def _compare(self) -> None:
        if not self._one.value or not self._other.value:
            return
        await widgets.run_action(self._show_difference)

    async def _show_difference(self) -> None:
        pair = [str(self._one.value), str(self._other.value)]

        def both(registry: Registry) -> list[dict[str, str]]:
            return [registry.describe(version) for version in pair]

        one, other = await asyncio.to_thread(self._context.query_registry, both)
        rows = difference(one, other)
        self._difference.clear()
        with self._difference:
            differ = [at for at, (_, mine, yours) in enumerate(rows) if mine != yours]
            widgets.table("difference", ["field", *(f"v{version}" for version in pair)], rows, differ)
