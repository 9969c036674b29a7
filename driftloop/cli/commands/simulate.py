"""`driftloop simulate`: a run directory, a simulation, a view, and a summary, put together."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import webbrowser
from pathlib import Path
from typing import Literal

from msgspec.structs import replace
from rich.console import Console

import driftloop
from driftloop.cli import external_stack, run_directory, simulation
from driftloop.cli.commands import report as report_command
from driftloop.cli.options import (
    INTERRUPTED,
    environ_of,
    load_settings,
    open_console,
    open_project,
    terminate_as_interrupt,
    write,
)
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs
from driftloop.core.processes import resource_usage
from driftloop.core.settings import Settings
from driftloop.devstack.ports import free_port, is_free
from producers.scenarios.scenarios import Scenario, load_scenario, read_spec
from serving.simulation import summary, summary_view, terminal_view
from serving.simulation.drift_scoring import Truth

WORK = "work"
"""Scratch files of the processes, in the run directory."""


class Stage:
    """Where a simulation is shown: here, the terminal and the browser."""

    def __init__(self, plain: bool, no_open: bool) -> None:
        self._plain = plain
        self._no_open = no_open
        self._console: Console | None = None

    def open(self, console: Console, scenario: Scenario, drifts: tuple[int, ...], warm_up: int) -> terminal_view.View:
        """The view."""
        self._console = console
        return terminal_view.open_view(console, scenario.name, plain=self._plain, bootstrap=warm_up, drifts=drifts)

    def page(self, address: str) -> None:
        """Show the live page to whoever sits at this machine; a browser inside the terminal would hide the view."""
        graphical = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if self._console is not None and self._console.is_terminal and graphical and not self._no_open:
            webbrowser.open(address)

    def conclude(self, found: summary.Summary) -> None:
        """Told how it ended, while the live page is still there."""


def simulate(arguments: argparse.Namespace, stage: Stage | None = None) -> int:
    """Run the verb and return its exit status; it is shown on ``stage``."""
    stage = stage or Stage(arguments.plain, arguments.no_open)
    terminate_as_interrupt()
    open_project(arguments)
    root, record = _run_record(arguments)
    settings = load_settings(arguments, record.settings)
    scenario = load_scenario(record.scenario, mask=settings.mask)
    settings, events, warm_up = _fit(settings, scenario, record, root)
    if record.stack == "own":  # before the folder is made: a run that is refused is none to be resumed
        external_stack.check(settings, fresh=arguments.resume is None)
    if arguments.resume is None:
        run_directory.new(root, record)
    _clear(settings, root)  # what a killed session left there is of no use to this one
    truth = Truth(scenario.name, settings.api.drifts, scenario.drifts_known, warm_up)
    console = open_console()
    plan = simulation.Plan(
        scenario=record.scenario,
        events=events,
        rate=record.rate,
        limit=record.limit,
        embedded=record.stack == "embedded",
        page=None if arguments.no_page else stage.page,
        # The command's own start: what was imported so far counts as well.
        began=resource_usage.started(),
    )
    write(f"Run directory: {root}")
    view = stage.open(console, scenario, truth.drifts, warm_up)
    interrupted, complete = True, False
    try:
        with simulation.Simulation(root, plan, settings, view) as running:
            report = running.follow()
            running.stop_processes()
            record = simulation.remember(root, record, report)
            topics = summary.collect(running.settings)
            found = _conclude(root, record, report, truth, topics, console, view, stage)
            report_command.conclude(root, record, scenario, events, warm_up, running.settings, topics, found)
            if arguments.keep and not report.interrupted:
                _keep(running.settings)
            interrupted, complete = report.interrupted, found.complete
    except KeyboardInterrupt:
        pass
    finally:
        view.close()
        _clear(settings, root)
    if interrupted:
        logs.print_error(f"Interrupted; go on with `driftloop simulate --resume {root}`.")
        return INTERRUPTED
    return 0 if complete else 1


def _clear(settings: Settings, root: Path) -> None:
    """Empty the folder of scratch files, and of bundles that scorers keep, where it is the run's own."""
    if Path(settings.work) == root.absolute() / WORK:
        shutil.rmtree(settings.work, ignore_errors=True)
    Path(settings.work).mkdir(parents=True, exist_ok=True)


def _conclude(
    root: Path,
    record: run_directory.Record,
    report: simulation.Report,
    truth: Truth,
    topics: summary.Topics,
    console: Console,
    view: terminal_view.View,
    stage: Stage,
) -> summary.Summary:
    """Write summary.json, and show it."""
    clock = summary.Clock(
        seconds=record.seconds,
        first_prediction_seconds=record.first_prediction_seconds,
        first_promotion_seconds=record.first_promotion_seconds,
        peak_memory_mb=record.peak_memory_mb,
        restarts=report.restarts,
        cpu_seconds=record.cpu_seconds,
        missing=report.missing,
        software=simulation.software(),
    )
    found = summary.summarise(topics, truth, clock)
    stage.conclude(found)
    view.close()
    summary_view.show(found, summary.write(found, root), console)
    return found


def _run_record(arguments: argparse.Namespace) -> tuple[Path, run_directory.Record]:
    """The run directory and what is to be run there: from the options, or from the directory to resume."""
    if arguments.resume is not None:
        root = Path(arguments.resume)
        record = run_directory.read(root)
        given = [n for n in ("scenario", "rate", "limit") if getattr(arguments, n) is not None]
        if given:
            raise DriftloopError(
                f"A resumed run keeps its own {' and '.join(given)} ({root / run_directory.RECORD}): leave that out, or start a "
                "new run without --resume."
            )
        return root, record
    name = arguments.scenario or "tweets"
    spec, _ = read_spec(name)  # an unknown scenario is said before anything is made
    path = Path(name).expanduser()
    record = run_directory.Record(
        scenario=str(path.absolute()) if path.is_file() else name,
        rate=arguments.rate or "",
        limit=arguments.limit,
        stack=_which_stack(arguments),
        version=driftloop.__version__,
        created_at=time.time(),
    )
    record.settings = run_directory.to_remember(load_settings(arguments), own_stack=record.stack == "own")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path(arguments.out or f"runs/{stamp}-{spec.name}"), record


def _which_stack(arguments: argparse.Namespace) -> Literal["embedded", "own"]:
    names = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW")
    environ = environ_of(arguments)
    own = [name for name in names if environ.get(name)]
    if arguments.stack == "embedded" or (arguments.stack == "auto" and not own):
        return "embedded"
    if len(own) < len(names):
        lacking = " and ".join(name for name in names if name not in own)
        raise DriftloopError(f"A stack of your own needs {lacking} too: set all three, or pass --stack embedded.")
    return "own"


def _fit(settings: Settings, scenario: Scenario, record: run_directory.Record, root: Path) -> tuple[Settings, int, int]:
    """The settings for this scenario, the events it will send, and how many of them the first model is trained on."""
    retrain = settings.retrain
    if scenario.bootstrap is not None:
        retrain = replace(retrain, bootstrap=scenario.bootstrap)
    events = min(len(scenario), record.limit or len(scenario))
    warm_up = 0 if settings.model.classifier else retrain.bootstrap
    if events < warm_up:
        raise DriftloopError(
            f"The scenario sends {events} events, fewer than the {warm_up} that the first model is trained on: raise "
            "--limit, or lower DRIFTLOOP_RETRAIN__BOOTSTRAP."
        )
    work = settings.work or str(root.absolute() / WORK)
    drifts = tuple(position for position in scenario.drifts if position < events)
    api = replace(settings.api, port=_page_port(settings.api.port), drifts=drifts)
    return replace(settings, retrain=retrain, dataset=scenario.revision, work=work, api=api), events, warm_up


def _page_port(wanted: int) -> int:
    """That of the settings; another where somebody else listens there."""
    return wanted if wanted and is_free(wanted) else free_port()


def _keep(settings: Settings) -> None:
    write(f"Still running: Kafka {settings.kafka}, Redis {settings.redis}, MLflow {settings.mlflow} (open it).")
    write("Press Ctrl-C to stop them.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
