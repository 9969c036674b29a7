"""`driftloop demo`: a simulation that explains what happens, and records itself."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

from driftloop.cli.arguments import Verbs, stack_options
from driftloop.cli.options import StackOptions

DESCRIPTION = """\
Runs `simulate` with explanations: of the drift, the alert, the retraining, the gate and the promotion, as they happen.
It takes under 15 minutes, with --fast under 4. It records the terminal as an asciinema cast. If Chromium is installed
(`make browser` installs one), it also records the live page as a video with subtitles.

reads   the same as `simulate`
writes  the same as `simulate`; demo.cast, demo.mp4 and demo.vtt in the run directory
"""

MORE = """
examples
  driftloop demo                               the first true drift of the tweets
  driftloop demo --fast --out friday           in under four minutes, into a folder of that name
  driftloop demo mine.toml --no-video          your own data, and only the terminal
  asciinema play friday/demo.cast              or any other player of asciinema casts
"""


class Length(NamedTuple):
    """Length of a demo."""

    scenario: str
    limit: int | None
    """Events. `None` sends all events of the scenario."""
    pause: float
    """Seconds for each caption."""
    minutes: float
    """Minutes after which the remaining captions have no pauses."""


LONG = Length("tweets", 6500, 12.0, 13.0)
FAST = Length("tweets-short", None, 6.0, 3.4)
FAST_SETTINGS = {"DRIFTLOOP_RETRAIN__TPOT_SECONDS": "15", "DRIFTLOOP_RETRAIN__FINETUNE_SECONDS": "20"}
"""Defaults of a fast demo. The environment overrides them."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    verb = verbs.add("demo", run, "a guided run that records itself", DESCRIPTION, MORE, stack_options())
    verb.add_argument("scenario", nargs="?", metavar="SCENARIO", help="name or TOML file (default: the tweets)")
    verb.add_argument("--fast", action="store_true", help="under four minutes")
    verb.add_argument("--out", metavar="DIR", help="a new run directory (default: runs/TIME-demo)")
    verb.add_argument("--no-video", action="store_true", help="do not record the live page")
    verb.add_argument("--no-open", action="store_true", help="do not open the live page in a browser")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return the exit status."""
    from driftloop.cli.simulation.demo_stage import DemoStage
    from driftloop.cli.simulation.prepare import SimulateOptions
    from driftloop.cli.simulation.session import simulate

    length = FAST if arguments.fast else LONG
    if arguments.fast:
        for name, value in FAST_SETTINGS.items():
            os.environ.setdefault(name, value)
    out = Path(arguments.out or time.strftime("runs/%Y%m%d-%H%M%S-demo"))
    options = SimulateOptions(
        stack=StackOptions.of(arguments),
        scenario=arguments.scenario or length.scenario,
        limit=None if arguments.scenario else length.limit,
        out=out,
        stack_kind="embedded",
    )
    stage = DemoStage(out, length.pause, length.minutes, film=not arguments.no_video)
    try:
        return simulate(options, stage)
    finally:
        stage.close()
