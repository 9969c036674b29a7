"""Drift and what is done about it on the live page: the alerts with what moved, and the newest retraining."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nicegui import ui

from driftloop.core.messages import DriftAlert
from driftloop.core.terminal_text import escape_control_chars
from serving.cases import builder
from serving.cases.model import Candidate, Case, Movement, Round, SliceImpact
from serving.dashboard import widgets as pieces
from serving.dashboard.snapshots import ALERTS
from serving.routes import AppContext

MOVED = 12


class Alerts:
    """The newest alerts, each to be opened."""

    def __init__(self, parts: AppContext) -> None:
        self._parts = parts
        self._shown: dict[str, ui.expansion] = {}
        self._list = ui.element("div")
        with self._list:
            self._none = ui.label("No drift has been detected.").classes("dim")

    def show(self, alerts: Sequence[DriftAlert]) -> None:
        """Add those that are new, the newest on top."""
        for alert in reversed(alerts):
            if alert.alert_id not in self._shown:
                self._none.set_visibility(False)
                with self._list:
                    self._shown[alert.alert_id] = self._draw(alert)
                self._shown[alert.alert_id].move(target_index=0)
        while len(self._shown) > ALERTS:
            self._shown.pop(next(iter(self._shown))).delete()

    def _draw(self, alert: DriftAlert) -> ui.expansion:
        made = ui.expansion(headline(alert), icon="warning").classes("alert").props("dense")
        with made:
            began = f"began about event {alert.onset}"
            if alert.onset_low >= 0:
                began += f", between {alert.onset_low} and {alert.onset_high}"
            pieces.label(f"{began}; {alert.kind} drift, seen by {alert.detector} on version {alert.model_version}")
            found = builder.moved(alert.evidence)
            if found:
                head = ["what", "name", "measure", "before", "after"]
                pieces.table("what moved", head, [moved(one) for one in found[:MOVED]])
            outcome = ui.element("div").props("aria-live=polite")
            pieces.button("What came of it", lambda: self._tell(alert.alert_id, outcome))
        return made

    async def _tell(self, alert_id: str, into: ui.element) -> None:
        told = await asyncio.to_thread(builder.read, self._parts.settings)
        found = [case for case in builder.cases(told) if case.case_id == alert_id]
        into.clear()
        with into:
            if found:
                _case(found[0])


class Retraining:
    """The newest retraining: its candidates, their scores, and what the gate said."""

    def __init__(self) -> None:
        self._shown: Round | None = None
        self._place = ui.element("div").props("aria-live=polite")
        with self._place:
            ui.label("Nothing has been retrained.").classes("dim")

    def show(self, newest: Round | None) -> None:
        """Draw it anew where something has happened."""
        if newest is None or newest == self._shown:
            return
        self._shown = newest
        self._place.clear()
        with self._place:
            over = f"after {newest.seconds:.1f} s" if newest.seconds else ""
            pieces.label(f"{newest.kind}: {newest.state} {over}", "strong")
            pieces.label(newest.reason, "dim")
            head = ["candidate", "state", "accuracy", "champion's", "seconds", "why"]
            pieces.table("candidates", head, [_candidate(one) for one in newest.candidates])
            for one in newest.candidates:
                if one.checks:
                    checks = [_check(check) for check in one.checks]
                    with ui.expansion(f"The gate on {escape_control_chars(one.name, 60)}").props("dense"):
                        pieces.table("checks", ["check", "passed", "why"], checks)


def headline(alert: DriftAlert) -> str:
    """An alert in a line."""
    return escape_control_chars(f"event {alert.position}: {alert.signal} moved by {alert.severity:+.3f}", 200)


def moved(one: Movement) -> tuple[str, str, str, str, str]:
    """Something that moved, as a row of a table."""
    return one.what, one.name, one.measure, pieces.share(one.before), pieces.share(one.after)


def _candidate(one: Candidate) -> tuple[str, ...]:
    name = f"{one.name} (v{one.version})" if one.version else one.name
    figures = (pieces.share(one.accuracy), pieces.share(one.champion_accuracy), f"{one.seconds:.1f}")
    return name, one.state, *figures, one.reason


def _check(check: dict[str, object]) -> tuple[str, str, str]:
    passed = "yes" if check.get("passed") else "excused" if check.get("excused") else "no"
    return str(check.get("name", "")), passed, str(check.get("words", ""))


def _case(case: Case) -> None:
    pieces.label(f"{case.came_of_it.verdict}: {case.came_of_it.words}", "strong")
    for title, hurt in (("segments", case.segments), ("classes", case.classes)):
        if hurt:
            pieces.table(title, [title, "before", "after", "right answers lost"], [_hurt(one) for one in hurt[:MOVED]])


def _hurt(one: SliceImpact) -> tuple[str, str, str, str]:
    return one.name, pieces.share(one.before.accuracy), pieces.share(one.after.accuracy), f"{one.lost:.1f}"
