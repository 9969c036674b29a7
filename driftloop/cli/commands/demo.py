"""`driftloop demo`: a guided run of the loop that tells what happens as it happens, and records itself."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from driftloop.cli.commands import simulate
from driftloop.cli.options import write
from producers.scenarios.scenarios import Scenario
from serving.demo.asciicast import AsciicastWriter
from serving.demo.narrator import Narrator
from serving.demo.script import Caption, Story
from serving.live.loop_view import LoopView
from serving.simulation.summary import Summary

WIDTH, HEIGHT = 100, 30
LONG, SHORT = ("tweets", 6500, 12.0, 13.0), ("tweets-short", None, 6.0, 3.4)
"""Scenario, events, seconds for each thing that is told, and minutes after which it is hurried to its end."""
QUICK = {"DRIFTLOOP_RETRAIN__TPOT_SECONDS": "15", "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "20"}


def demo(arguments: argparse.Namespace) -> int:
    """Run the verb and return its exit status."""
    scenario, limit, pause, minutes = SHORT if arguments.fast else LONG
    if arguments.fast:
        for name, value in QUICK.items():
            os.environ.setdefault(name, value)
    out = Path(arguments.out or time.strftime("runs/%Y%m%d-%H%M%S-demo"))
    fixed = {"rate": None, "resume": None, "plain": True, "stack": "embedded", "keep": False, "no_page": False}
    asked = argparse.Namespace(**{**vars(arguments), **fixed, "out": str(out)})
    asked.limit = None if arguments.scenario else limit
    asked.scenario = arguments.scenario or scenario
    stage = _Stage(out, pause, minutes, film=not arguments.no_video)
    try:
        return simulate.simulate(asked, stage)
    finally:
        stage.close()


class _Stage(simulate.Stage):
    """What a demo does where a simulation shows its view."""

    def __init__(self, out: Path, pause: float, minutes: float, film: bool) -> None:
        self._out = out
        self._pause = pause
        self._minutes = minutes
        self._film = film
        self._guide: Narrator | None = None
        self._cast: AsciicastWriter | None = None
        self._timer: threading.Timer | None = None

    def open(self, console: Console, scenario: Scenario, drifts: tuple[int, ...], warm_up: int) -> Narrator:
        """Begin the telling and both recordings."""
        self._cast = AsciicastWriter(
            self._out / "demo.cast", sys.stdout, WIDTH, HEIGHT, f"driftloop demo: {scenario.name}"
        )
        recorded = cast(IO[str], self._cast)
        shown = Console(file=recorded, width=WIDTH, force_terminal=True, highlight=False, markup=False, emoji=False)
        film = self._out / "demo.mp4" if self._film else None
        board = LoopView(scenario.name, warm_up, drifts)
        self._guide = Narrator(shown, board, Story(scenario.about, drifts, warm_up), self._pause, film)
        self._timer = threading.Timer(self._minutes * 60, self._guide.hurry)
        self._timer.daemon = True
        self._timer.start()
        return self._guide

    def page(self, address: str) -> None:
        """The live page answers."""
        if self._guide is not None:
            self._guide.on_page(address)

    def conclude(self, found: Summary) -> None:
        """Tell how it ended."""
        if self._guide is None:
            return
        if not found.complete:  # whoever interrupts it does not want to hear the rest
            self._guide.hurry()
        right = found.accuracy.prequential
        share = "" if right is None else f"{right:.1%} of the labelled events were right when they came. "
        detected = sum(drift.detected_position is not None for drift in found.drifts)
        drifts = f"{detected} of {len(found.drifts)} drifts were found, with {found.false_alarms} false alarms. "
        text = (
            f"{found.predictions - found.duplicates} of {found.events} events were answered, {found.dead_letters} "
            f"could not be. {share}{drifts if found.drifts_known else ''}{found.promotions} models were promoted, "
            "and nobody touched anything."
        )
        self._guide.tell(Caption("The end", text))

    def close(self) -> None:
        """End the recordings, and say where they are."""
        if self._timer is not None:
            self._timer.cancel()
        if self._guide is not None:
            self._guide.close()
        if self._cast is not None:
            self._cast.close()
            write(f"Recorded: {', '.join(str(one) for one in sorted(self._out.glob('demo.*')))}")
