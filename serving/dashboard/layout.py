"""Layout of the live page, and its update while it is open."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import resources

from nicegui import ui

from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import charts, widgets
from serving.dashboard.drift_panel import DriftPanel, RetrainingPanel
from serving.dashboard.models_panel import CommandDialog, ModelsPanel
from serving.dashboard.predictions_panel import PredictionsPanel
from serving.dashboard.snapshots import NEWS, QUEUE, Snapshot, Snapshots
from serving.http.auth import Caller
from serving.live.recent_predictions import SHOWN
from serving.routes import AppContext

EVERY = 1.0
"""Seconds between two updates of the figures."""
DRAW_EVERY = 3
"""Number of these updates between two updates of charts and lists, which change more slowly or are being read."""
TILES = (
    "predictions per second",
    "events waiting",
    "latency, median",
    "latency, 99th percentile",
    "accuracy, newest 500",
    "labelled events",
)
"""Names of the figures at the top of the page."""


class LivePage:
    """Page that is open in one browser tab.

    Args:
        context: The objects that the routes share.
        caller: The client that opened the page.
        snapshots: Snapshots of the loop, shared by all pages.
    """

    def __init__(self, context: AppContext, caller: Caller, snapshots: Snapshots) -> None:
        self._context = context
        self._snapshots = snapshots
        self._command = CommandDialog(context, caller)
        self._updates = 0
        self._seen: Snapshot | None = None
        self._drawn: Snapshot | None = None
        ui.add_css(resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
        self._head(caller)
        with ui.element("div").props("tabindex=-1").classes("page") as main:
            self._tiles()
            self._charts()
            with widgets.panel("Drift", "alerts, newest first"):
                self._drift = DriftPanel(context)
            with widgets.panel("Retraining", "newest retraining"):
                self._retraining = RetrainingPanel()
                if caller.may("admin"):
                    widgets.button("Retrain now", lambda: self._command.open("retrain"))
            with widgets.panel("Predictions", "paused while the pointer is on them"):
                self._feed = PredictionsPanel(context, caller, SHOWN, confirm=False)
            with widgets.panel("Labelling queue", "the predictions with the lowest certainty"):
                self._queue = PredictionsPanel(context, caller, QUEUE, confirm=True)
            with widgets.panel("Models", classes="wide-panel"):
                self._models = ModelsPanel(context, caller, snapshots, self._command)
            with widgets.panel("Log", "newest first", classes="wide-panel"):
                self._log = (
                    ui.element("div").props("role=log aria-live=polite aria-label=log tabindex=0").classes("log")
                )
        ui.skip_link("Skip to content", target=main)
        self._show_figures(snapshots.now())
        self._draw(snapshots.now())
        ui.timer(EVERY, self._refresh)

    def _head(self, caller: Caller) -> None:
        with ui.element("header").classes("head"):
            ui.label("driftloop").classes("name").props("role=heading aria-level=1")
            widgets.label(self._context.settings.stream, "dim")
            self._phase = ui.label().classes("chip").props("role=status")
            with ui.element("nav").props("aria-label=links").classes("links"):
                for text, target in (("API", "docs"), ("status", "v1/status"), ("metrics", "metrics")):
                    ui.link(text, target)
                dark = ui.dark_mode(None)
                for text, value in (("light", False), ("dark", True)):
                    widgets.button(text, partial(dark.set_value, value))
                if caller.name:
                    with ui.element("form").props('method=post action="logout"'):
                        widgets.button(f"Log out {caller.name[:40]}").props("type=submit")

    def _tiles(self) -> None:
        with ui.element("section").classes("tiles wide-panel").props('aria-label="figures"'):
            self._figures = []
            for name in TILES:
                with ui.element("div").classes("tile"):
                    self._figures.append(ui.label("–").classes("figure"))
                    ui.label(name).classes("dim")

    def _charts(self) -> None:
        legend = " · ".join(f"{sign} {name}" for sign, _, name in charts.SIGNS.values())
        with widgets.panel("Accuracy", f"over the newest 500 labelled events · {legend}", classes="wide-panel"):
            self._accuracy = ui.echart(charts.accuracy({}, [])).classes("chart tall")
            self._accuracy_text = ui.label().classes("unseen")
        with widgets.panel("Experts", "weights in the mixture, by labelled events", classes="wide-panel") as experts:
            self._weights_text = ui.label().classes("unseen")
        self._experts = experts
        self._experts.set_visibility(False)
        # Made with the first weights: a chart that is drawn unseen has no size.
        self._weights: ui.echart | None = None
        with widgets.panel("Throughput"):
            self._speed = ui.echart(charts.speed([])).classes("chart")
        with widgets.panel("Latency"):
            self._latency = ui.echart(charts.latency([])).classes("chart")

    async def _refresh(self) -> None:
        self._updates += 1
        snapshot = await asyncio.to_thread(self._snapshots.now)
        self._show_figures(snapshot)
        if self._updates % DRAW_EVERY == 0:
            self._draw(snapshot)
            await widgets.ignore_http_errors(self._models.refresh)

    def _show_figures(self, snapshot: Snapshot) -> None:
        if self._seen is snapshot:
            return
        self._seen = snapshot
        champion = f" · champion v{escape_control_chars(snapshot.champion, 40)}" if snapshot.champion else ""
        self._phase.set_text(f"{escape_control_chars(snapshot.phase, 80)}{champion}")
        dead = f", {snapshot.dead_letters} dead letters" if snapshot.dead_letters else ""
        texts = (
            f"{snapshot.rate:.1f}",
            f"{snapshot.lag:,}",
            f"{snapshot.latency[0]:.0f} ms",
            f"{snapshot.latency[1]:.0f} ms",
            widgets.share(snapshot.accuracy),
            f"{snapshot.outcomes:,} of {snapshot.predictions:,}{dead}",
        )
        for figure, text in zip(self._figures, texts, strict=True):
            figure.set_text(text)

    def _draw(self, snapshot: Snapshot) -> None:
        """Update the charts and the lists."""
        before, self._drawn = self._drawn, snapshot
        if before is snapshot:
            return
        if before is None or (before.rolling, before.marks) != (snapshot.rolling, snapshot.marks):
            _set(self._accuracy, snapshot.accuracy_chart)
            self._accuracy_text.set_text(_describe_accuracy(snapshot))
        if snapshot.weights:
            self._draw_weights(snapshot)
        _set(self._speed, snapshot.speed_chart)
        _set(self._latency, snapshot.latency_chart)
        self._drift.show(snapshot.alerts)
        self._retraining.show(snapshot.round)
        self._feed.show(snapshot.feed)
        self._queue.show(snapshot.queue)
        self._add_to_log(snapshot, snapshot.printed - (before.printed if before else 0))

    def _draw_weights(self, snapshot: Snapshot) -> None:
        if self._weights is None:
            self._experts.set_visibility(True)
            with self._experts:
                self._weights = ui.echart(snapshot.weights_chart).classes("chart")
        _set(self._weights, snapshot.weights_chart)
        newest = ", ".join(f"{name} {weight:.0%}" for name, weight in snapshot.weights[-1][1].items())
        self._weights_text.set_text(escape_control_chars(newest, 500))

    def _add_to_log(self, snapshot: Snapshot, number: int) -> None:
        """Add the newest ``number`` lines at the top, and remove the oldest lines."""
        with self._log:
            for line in reversed(snapshot.news[: max(number, 0)]):
                ui.label(line).move(target_index=0)
        for old in self._log.default_slot.children[NEWS:]:
            old.delete()


def _set(chart: ui.echart, options: charts.Options) -> None:
    """Send options to the chart. As a property of the chart, NiceGUI would watch each point for changes."""
    chart.run_chart_method("setOption", options)


def _describe_accuracy(snapshot: Snapshot) -> str:
    """Return the content of the accuracy chart as text for a screen reader."""
    lines = [f"version {name}: {points[-1][1]:.3f}" for name, points in snapshot.rolling.items() if name and points]
    marks = [f"{mark.kind} at {mark.position}: {mark.words}" for mark in snapshot.marks[-5:]]
    return escape_control_chars("; ".join(lines + marks), 1000)
