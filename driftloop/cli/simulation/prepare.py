"""Preparation of a simulation: options, run directory, settings and scenario."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

import driftloop
from driftloop.cli import external_stack, run_directory
from driftloop.cli.options import StackOptions, load_settings, open_project
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings
from driftloop.devstack.ports import free_port, is_free
from producers.scenarios.scenarios import Scenario, load_scenario, read_spec
from serving.simulation.drift_scoring import Truth

ADDRESSES = ("DRIFTLOOP_KAFKA", "DRIFTLOOP_REDIS", "DRIFTLOOP_MLFLOW")
SCRATCH = "work"
"""Folder with the scratch files of the processes, in the run directory."""
DEFAULT_SCENARIO = "tweets"


@dataclass(frozen=True)
class SimulateOptions:
    """Options of `driftloop simulate`."""

    stack: StackOptions
    scenario: str | None = None
    """Name, scenario file or project folder. `None` selects `DEFAULT_SCENARIO`."""
    rate: str | None = None
    """Events per second, or ``max``. `None` selects the scenario's own rate."""
    limit: int | None = None
    """Number of events. `None` sends all events."""
    out: Path | None = None
    """New run directory. `None` makes one under ``runs``."""
    resume: Path | None = None
    """Directory of an earlier run that continues. `None` starts a new run."""
    stack_kind: Literal["auto", "own", "embedded"] = "auto"
    """``auto`` uses an external stack if all three addresses are set."""
    page: bool = True
    """Start the live page."""
    keep: bool = False
    """Keep the stack running at the end, until Ctrl-C."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start."""

    root: Path
    """The run directory."""
    record: run_directory.Record
    settings: Settings
    scenario: Scenario
    events: int
    """Events that will be sent."""
    warm_up: int
    """Events at the beginning that the first model is trained on."""

    @property
    def truth(self) -> Truth:
        """The true drifts, to score the alerts against."""
        return Truth(self.scenario.name, self.settings.api.drifts, self.scenario.drifts_known, self.warm_up)


def prepare(options: SimulateOptions) -> PreparedRun:
    """Check the options, make the run directory or read the one to resume, and load settings and scenario.

    Raises:
        DriftloopError: an option or a setting does not fit, or the run directory or the external stack is not usable.
    """
    stack, scenario_name = options.stack, options.scenario
    if scenario_name is not None:
        scenario_name, stack = open_project(scenario_name, stack)
    if options.resume is not None:
        root, record = options.resume, _read_record(options.resume, options)
    else:
        root, record = _new_record(options, scenario_name or DEFAULT_SCENARIO, stack)
    settings = load_settings(stack, record.settings)
    scenario = load_scenario(record.scenario, mask=settings.mask)
    run = _fit_settings(root, record, settings, scenario)
    # Checked before the directory is made, because a refused run cannot be resumed.
    if record.stack == "own":
        external_stack.check(run.settings, fresh=options.resume is None)
    if options.resume is None:
        run_directory.new(root, record)
    clear_scratch(run)  # left over from a session that was killed
    return run


def clear_scratch(run: PreparedRun) -> None:
    """Empty the folder of scratch files if it belongs to the run, and make it if it is missing."""
    folder = Path(run.settings.scratch_dir)
    if folder == run.root.absolute() / SCRATCH:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _read_record(root: Path, options: SimulateOptions) -> run_directory.Record:
    """Read the record of a run to resume.

    Raises:
        DriftloopError: no run is found there, or an option contradicts its record.
    """
    record = run_directory.read(root)
    values = {"scenario": options.scenario, "rate": options.rate, "limit": options.limit}
    given = [name for name, value in values.items() if value is not None]
    if given:
        raise DriftloopError(
            f"A resumed run keeps its own {' and '.join(given)} ({root / run_directory.RECORD}): leave that out, or "
            "start a new run without --resume."
        )
    return record


def _new_record(options: SimulateOptions, scenario: str, stack: StackOptions) -> tuple[Path, run_directory.Record]:
    """Return the directory and the record of a new run; nothing is written yet.

    Raises:
        DriftloopError: the scenario is unknown, or a setting does not fit.
    """
    spec, _ = read_spec(scenario)
    path = Path(scenario).expanduser()
    record = run_directory.Record(
        scenario=str(path.absolute()) if path.is_file() else scenario,
        rate=options.rate or "",
        limit=options.limit,
        stack=_choose_stack(options, stack),
        version=driftloop.__version__,
        created_at=time.time(),
    )
    record.settings = run_directory.recorded_variables(load_settings(stack), own_stack=record.stack == "own")
    return options.out or Path(f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{spec.name}"), record


def _choose_stack(options: SimulateOptions, stack: StackOptions) -> Literal["embedded", "own"]:
    environ = stack.environ()
    given = [name for name in ADDRESSES if environ.get(name)]
    if options.stack_kind == "embedded" or (options.stack_kind == "auto" and not given):
        return "embedded"
    if len(given) < len(ADDRESSES):
        missing = " and ".join(name for name in ADDRESSES if name not in given)
        raise DriftloopError(f"A stack of your own needs {missing} too: set all three, or pass --stack embedded.")
    return "own"


def _fit_settings(root: Path, record: run_directory.Record, settings: Settings, scenario: Scenario) -> PreparedRun:
    """Adapt the settings to the scenario and to this machine.

    Raises:
        DriftloopError: the scenario sends fewer events than the first model needs.
    """
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
    drifts = tuple(position for position in scenario.drifts if position < events)
    fitted = replace(
        settings,
        retrain=retrain.until_labels_end,
        dataset=scenario.revision,
        scratch_dir=settings.scratch_dir or str(root.absolute() / SCRATCH),
        api=replace(settings.api, port=_choose_page_port(settings.api.port), drifts=drifts),
    )
    return PreparedRun(root, record, fitted, scenario, events, warm_up)


def _choose_page_port(configured: int) -> int:
    """Return the configured port, or a free one if another process uses it."""
    return configured if configured and is_free(configured) else free_port()
