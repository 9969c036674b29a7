"""Panels for drift and retraining: the alerts with their evidence and outcome, and the newest retraining."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nicegui import ui

from driftloop.core.messages import DriftAlert
from driftloop.core.terminal_text import escape_control_chars
from serving.cases import builder
from serving.cases.model import Candidate, Case, Movement, Round, SliceImpact
from serving.cases.movements import movements
from serving.cases.reasons import (
    CHECK_COLUMNS,
    COMPARISON_COLUMNS,
    check_rows,
    comparison_rows,
    count_passed,
    first_sentence,
    has_more,
)
from serving.dashboard import widgets
from serving.dashboard.snapshots import ALERTS
from serving.routes import AppContext

ROWS = 12
"""Largest number of rows in a table."""


class DriftPanel:
    """The newest alerts. Each one can be expanded."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._shown: dict[str, ui.expansion] = {}
        self._list = ui.element("div")
        with self._list:
            self._none = ui.label("No drift has been detected.").classes("dim")

    def show(self, alerts: Sequence[DriftAlert]) -> None:
        """Add new alerts at the top."""
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
            onset = f"Likely onset: event {alert.onset}"
            if alert.onset_low >= 0:
                onset += f", between {alert.onset_low} and {alert.onset_high}"
            widgets.label(f"{onset}. Kind: {alert.kind}. Detector: {alert.detector}, on version {alert.model_version}.")
            found = movements(alert.evidence)
            if found:
                head = ["type", "name", "measure", "before", "after"]
                widgets.table("changed segments, classes and words", head, [_movement(one) for one in found[:ROWS]])
            outcome = ui.element("div").props("aria-live=polite")
            widgets.button("Show outcome", lambda: self._show_outcome(alert.alert_id, outcome))
        return made

    async def _show_outcome(self, alert_id: str, into: ui.element) -> None:
        history = await asyncio.to_thread(builder.read_case_history, self._context.settings)
        found = [case for case in builder.cases(history) if case.case_id == alert_id]
        into.clear()
        with into:
            if found:
                _outcome(found[0])


class RetrainingPanel:
    """The newest retraining: its candidates, their scores, and the decision of the gate."""

    def __init__(self) -> None:
        self._shown: Round | None = None
        self._place = ui.element("div").props("aria-live=polite")
        with self._place:
            ui.label("No retraining has started.").classes("dim")

    def show(self, newest: Round | None) -> None:
        """Draw the newest retraining if it has changed."""
        if newest is None or newest == self._shown:
            return
        self._shown = newest
        self._place.clear()
        with self._place:
            after = f" after {newest.seconds:.1f} s" if newest.seconds else ""
            widgets.label(f"{newest.kind}: {newest.state}{after}", "strong")
            widgets.reason(newest.reason, "dim")
            head = ["candidate", "state", "accuracy", "champion", "seconds", "reason"]
            widgets.table("candidates", head, [_candidate(one) for one in newest.candidates])
            for one in newest.candidates:
                _gate_decision(one)


def headline(alert: DriftAlert) -> str:
    """Return an alert as one line."""
    return escape_control_chars(f"Event {alert.position}: {alert.signal} changed by {alert.severity:+.3f}", 200)


def _movement(one: Movement) -> tuple[str, str, str, str, str]:
    return one.what, one.name, one.measure, widgets.share(one.before), widgets.share(one.after)


def _candidate(one: Candidate) -> tuple[str, ...]:
    name = f"{one.name} (v{one.version})" if one.version else one.name
    figures = (widgets.share(one.accuracy), widgets.share(one.champion_accuracy), f"{one.seconds:.1f}")
    return name, one.state, *figures, first_sentence(one.reason)


def _gate_decision(one: Candidate) -> None:
    """Add the whole reason and the gate's checks of a candidate as an expandable row."""
    if not one.checks and not has_more(one.reason):
        return
    checks = f"gate checks, {count_passed(one.checks)}" if one.checks else "full reason"
    with ui.expansion(escape_control_chars(f"{one.name}: {checks}", 200)).classes("gate").props("dense"):
        if has_more(one.reason):
            ui.label(escape_control_chars(one.reason, widgets.LONGEST))
        if one.checks:
            widgets.table("gate checks", CHECK_COLUMNS, check_rows(one.checks))
        if one.figures:
            widgets.table("comparison with the champion", COMPARISON_COLUMNS, comparison_rows(one))


def _outcome(case: Case) -> None:
    widgets.label(f"{case.came_of_it.verdict}: {case.came_of_it.words}", "strong")
    for kind, slices in (("segment", case.segments), ("class", case.classes)):
        if slices:
            head = [kind, "before the drift", "from the onset", "correct predictions lost"]
            widgets.table(f"accuracy by {kind}", head, [_impact(one) for one in slices[:ROWS]])


def _impact(one: SliceImpact) -> tuple[str, str, str, str]:
    return one.name, widgets.share(one.before.accuracy), widgets.share(one.after.accuracy), f"{one.lost:.1f}"
