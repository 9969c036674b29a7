"""Stage of `driftloop demo`: narrates the simulation and records the terminal and the live page."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from driftloop.cli.output import write
from driftloop.cli.simulation.prepare import PreparedRun
from serving.demo.asciicast import AsciicastWriter
from serving.demo.narrator import Narrator
from serving.demo.script import Caption, Story
from serving.live.loop_state import LoopState
from serving.simulation.summary import Summary

WIDTH, HEIGHT = 100, 30
"""Columns and rows of the recorded terminal."""


class DemoStage:
    """Narrates a simulation; see `driftloop.cli.simulation.stage.Stage`.

    Args:
        out: Run directory, which gets the recordings.
        pause: Seconds for each caption.
        minutes: Minutes after which the remaining captions have no pauses.
        film: Film the live page.
    """

    def __init__(self, out: Path, pause: float, minutes: float, *, film: bool) -> None:
        self._out = out
        self._pause = pause
        self._minutes = minutes
        self._film = film
        self._narrator: Narrator | None = None
        self._cast: AsciicastWriter | None = None
        self._timer: threading.Timer | None = None

    def open(self, console: Console, run: PreparedRun, loop: LoopState) -> Narrator:
        """Start the narration and both recordings.

        Args:
            console: Not used, because the narration has another console, which is recorded.
            run: Run that starts.
            loop: State of the loop, updated by the simulation.
        """
        scenario, truth = run.scenario, run.truth
        title = f"driftloop demo: {scenario.name}"
        self._cast = AsciicastWriter(self._out / "demo.cast", sys.stdout, WIDTH, HEIGHT, title)
        recorded = cast(IO[str], self._cast)
        shown = Console(file=recorded, width=WIDTH, force_terminal=True, highlight=False, markup=False, emoji=False)
        film = self._out / "demo.mp4" if self._film else None
        story = Story(scenario.about, truth.drifts, truth.bootstrap)
        self._narrator = Narrator(shown, loop, story, self._pause, film)
        self._timer = threading.Timer(self._minutes * 60, self._narrator.skip_pauses)
        self._timer.daemon = True
        self._timer.start()
        return self._narrator

    def on_page(self, address: str) -> None:
        """Start the film of the live page."""
        if self._narrator is not None:
            self._narrator.on_page(address)

    def conclude(self, found: Summary) -> None:
        """Narrate the outcome."""
        if self._narrator is None:
            return
        if not found.complete:  # the user has interrupted the run, and does not want to wait for the rest
            self._narrator.skip_pauses()
        self._narrator.add_caption(Caption("Result", _outcome(found)))

    def close(self) -> None:
        """End the recordings and print their paths."""
        if self._timer is not None:
            self._timer.cancel()
        if self._narrator is not None:
            self._narrator.close()
        if self._cast is not None:
            self._cast.close()
            write(f"Recorded: {', '.join(str(file) for file in sorted(self._out.glob('demo.*')))}")


def _outcome(found: Summary) -> str:
    accuracy = found.accuracy.prequential
    detected = sum(drift.detected_position is not None for drift in found.drifts)
    sentences = [
        f"{found.predictions - found.duplicates} of {found.events} events have a prediction, "
        f"{found.dead_letters} became dead letters."
    ]
    if accuracy is not None:
        sentences.append(f"{accuracy:.1%} of the labelled events were predicted correctly.")
    if found.drifts_known:
        sentences.append(
            f"{detected} of {len(found.drifts)} drifts were detected, with {found.false_alarms} false alarms."
        )
    sentences.append(f"{found.promotions} models were promoted, without any manual action.")
    return " ".join(sentences)
