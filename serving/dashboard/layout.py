"""The live page as it is laid out, and how it is brought up to date while it is open."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import resources

from nicegui import ui

from driftloop.core.terminal_text import escape_control_chars
from serving.dashboard import charts
from serving.dashboard import widgets as pieces
from serving.dashboard.drift_panel import Alerts, Retraining
from serving.dashboard.models_panel import Models, Wish
from serving.dashboard.predictions_panel import Lines
from serving.dashboard.snapshots import NEWS, QUEUE, Snapshot, Snapshots
from serving.http.auth import Caller
from serving.live.recent_predictions import SHOWN
from serving.routes import AppContext

EVERY = 1.0
"""Seconds from one look at the figures to the next."""
SLOWLY = 3
"""Charts and lists are drawn at each third of these looks: charts show minutes, and lists are read."""
TILES = ("predictions/s", "events waiting", "latency, median", "latency, 99th", "accuracy, newest 500", "labelled")


class LivePage:
    """One open page."""

    def __init__(self, parts: AppContext, caller: Caller, pictures: Snapshots) -> None:
        self._parts = parts
        self._pictures = pictures
        self._wish = Wish(parts, caller)
        self._looks = 0
        self._seen: Snapshot | None = None
        self._drawn: Snapshot | None = None
        ui.add_css(resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
        self._head(caller)
        with ui.element("div").props("tabindex=-1").classes("page") as main:
            self._tiles()
            self._charts()
            with pieces.panel("Drift", "what moved, and what came of it"):
                self._alerts = Alerts(parts)
            with pieces.panel("Retraining", "the newest"):
                self._retraining = Retraining()
                if caller.may("admin"):
                    pieces.button("Retrain now", lambda: self._wish.open("retrain"))
            with pieces.panel("Predictions", "stand still while you point at them"):
                self._feed = Lines(parts, caller, SHOWN, confirm=False)
            with pieces.panel("Worth labelling", "the model is least sure of these"):
                self._queue = Lines(parts, caller, QUEUE, confirm=True)
            with pieces.panel("Models", classes="wide-panel"):
                self._models = Models(parts, caller, pictures, self._wish)
            with pieces.panel("News", classes="wide-panel"):
                self._news = (
                    ui.element("div").props("role=log aria-live=polite aria-label=news tabindex=0").classes("news")
                )
        ui.skip_link("To the content", target=main)
        self._show(pictures.now())
        self._draw(pictures.now())
        ui.timer(EVERY, self._refresh)

    def _head(self, caller: Caller) -> None:
        with ui.element("header").classes("head"):
            ui.label("driftloop").classes("name").props("role=heading aria-level=1")
            pieces.label(self._parts.settings.stream, "dim")
            self._phase = ui.label().classes("chip").props("role=status")
            with ui.element("nav").props("aria-label=more").classes("links"):
                for text, target in (("API", "docs"), ("status", "v1/status"), ("metrics", "metrics")):
                    ui.link(text, target)
                dark = ui.dark_mode(None)
                for text, value in (("light", False), ("dark", True)):
                    pieces.button(text, partial(dark.set_value, value))
                if caller.name:
                    with ui.element("form").props('method=post action="logout"'):
                        pieces.button(f"Log {caller.name[:40]} out").props("type=submit")

    def _tiles(self) -> None:
        with ui.element("section").classes("tiles wide-panel").props('aria-label="figures"'):
            self._figures = []
            for name in TILES:
                with ui.element("div").classes("tile"):
                    self._figures.append(ui.label("–").classes("figure"))
                    ui.label(name).classes("dim")

    def _charts(self) -> None:
        legend = " · ".join(f"{sign} {name}" for sign, _, name in charts.SIGNS.values())
        with pieces.panel("Accuracy", f"over the newest 500 labelled events · {legend}", classes="wide-panel"):
            self._accuracy = ui.echart(charts.accuracy({}, [])).classes("chart tall")
            self._told = ui.label().classes("unseen")
        with pieces.panel("Speed"):
            self._speed = ui.echart(charts.speed([])).classes("chart")
        with pieces.panel("Latency"):
            self._latency = ui.echart(charts.latency([])).classes("chart")

    async def _refresh(self) -> None:
        self._looks += 1
        picture = await asyncio.to_thread(self._pictures.now)
        self._show(picture)
        if self._looks % SLOWLY == 0:
            self._draw(picture)
            await pieces.quietly(self._models.refresh)

    def _show(self, picture: Snapshot) -> None:
        """The figures."""
        if self._seen is picture:
            return
        self._seen = picture
        champion = f" · champion v{escape_control_chars(picture.champion, 40)}" if picture.champion else ""
        self._phase.set_text(f"{escape_control_chars(picture.phase, 80)}{champion}")
        dead = f", {picture.dead_letters} dead letters" if picture.dead_letters else ""
        texts = (
            f"{picture.rate:.1f}",
            f"{picture.lag:,}",
            f"{picture.latency[0]:.0f} ms",
            f"{picture.latency[1]:.0f} ms",
            pieces.share(picture.accuracy),
            f"{picture.outcomes:,} of {picture.predictions:,}{dead}",
        )
        for figure, text in zip(self._figures, texts, strict=True):
            figure.set_text(text)

    def _draw(self, picture: Snapshot) -> None:
        """The charts and the lists."""
        before, self._drawn = self._drawn, picture
        if before is picture:
            return
        if before is None or (before.rolling, before.marks) != (picture.rolling, picture.marks):
            _set(self._accuracy, picture.accuracy_chart)
            self._told.set_text(_told(picture))
        _set(self._speed, picture.speed_chart)
        _set(self._latency, picture.latency_chart)
        self._alerts.show(picture.alerts)
        self._retraining.show(picture.round)
        self._feed.show(picture.feed)
        self._queue.show(picture.queue)
        self._add_news(picture, picture.printed - (before.printed if before else 0))

    def _add_news(self, picture: Snapshot, number: int) -> None:
        """The newest ``number`` lines come on top, and as many go at the end."""
        with self._news:
            for line in reversed(picture.news[: max(number, 0)]):
                ui.label(line).move(target_index=0)
        for old in self._news.default_slot.children[NEWS:]:
            old.delete()


def _set(chart: ui.echart, options: charts.Options) -> None:
    """Told to the chart itself: as a property, NiceGUI would watch each point of it for changes."""
    chart.run_chart_method("setOption", options)


def _told(picture: Snapshot) -> str:
    """The chart for those who do not see it."""
    lines = [f"version {name}: {points[-1][1]:.3f}" for name, points in picture.rolling.items() if name and points]
    marks = [f"{mark.kind} at {mark.position}: {mark.words}" for mark in picture.marks[-5:]]
    return escape_control_chars("; ".join(lines + marks), 1000)
