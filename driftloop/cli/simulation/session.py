"""Session of `driftloop simulate`: runs the loop until it is finished, then writes the summary and the report."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import msgspec

import driftloop
from driftloop.cli import run_directory
from driftloop.cli.options import INTERRUPTED, terminate_as_interrupt
from driftloop.cli.output import open_console, write
from driftloop.cli.run_directory import Record
from driftloop.cli.simulation.prepare import PreparedRun, SimulateOptions, clear_scratch, prepare
from driftloop.cli.simulation.processes import Plan
from driftloop.cli.simulation.run_report import write_report
from driftloop.cli.simulation.simulation import Report, Simulation
from driftloop.cli.simulation.stage import Stage
from driftloop.core.observability import logs
from driftloop.core.processes import resource_usage
from driftloop.core.settings import Settings
from serving.live.loop_state import LoopState
from serving.live.status import LoopStatus
from serving.simulation import summarise, summary, summary_view


def simulate(options: SimulateOptions, stage: Stage) -> int:
    """Run one session of a simulation and return the exit status of the command.

    Args:
        options: Options of the command line.
        stage: Shows the simulation.

    Raises:
        DriftloopError: the run cannot start, or a process failed for good.
    """
    terminate_as_interrupt()
    run = prepare(options)
    console = open_console()
    # The clock starts with the command itself, so that the time of its imports counts.
    status = LoopStatus(began=resource_usage.process_start_time(), total=run.events)
    loop = LoopState(run.scenario.name, run.warm_up, run.truth.drifts, status)
    write(f"Run directory: {run.root}")
    view = stage.open(console, run, loop)
    interrupted, complete = True, False
    try:
        with Simulation(run.root, _plan(run, options, stage), run.settings, loop, view) as simulation:
            report = simulation.follow()
            simulation.stop_processes()
            record = record_session(run.root, run.record, report)
            run = replace(run, record=record, settings=simulation.settings)
            topics = summarise.collect(run.settings)
            found = summarise.summarise(topics, run.truth, _clock(record, report))
            stage.conclude(found)
            view.close()
            summary_view.show(found, summary.write(found, run.root), console)
            write_report(run, topics, found)
            if options.keep and not report.interrupted:
                _keep_running(run.settings)
            interrupted, complete = report.interrupted, found.complete
    except KeyboardInterrupt:
        pass
    finally:
        view.close()
        clear_scratch(run)
    if interrupted:
        logs.print_error(f"Interrupted; continue with `driftloop simulate --resume {run.root}`.")
        return INTERRUPTED
    return 0 if complete else 1


def record_session(root: Path, record: Record, report: Report) -> Record:
    """Add a session to the record of a run, write it to the run directory, and return it.

    Args:
        root: The run directory.
        record: Record before the session.
        report: Report of the session.
    """
    before = record.seconds

    def first(known: float | None, seconds: float | None) -> float | None:
        return known if known is not None or seconds is None else before + seconds

    processes = {**record.cpu_seconds, **report.cpu_seconds}
    updated = msgspec.structs.replace(
        record,
        sessions=record.sessions + 1,
        seconds=before + report.seconds,
        first_prediction_seconds=first(record.first_prediction_seconds, report.first_prediction_seconds),
        first_promotion_seconds=first(record.first_promotion_seconds, report.first_promotion_seconds),
        peak_memory_mb=max(record.peak_memory_mb, report.peak_memory_mb),
        cpu_seconds={name: record.cpu_seconds.get(name, 0.0) + report.cpu_seconds.get(name, 0.0) for name in processes},
    )
    run_directory.save(root, updated)
    return updated


def _plan(run: PreparedRun, options: SimulateOptions, stage: Stage) -> Plan:
    return Plan(
        scenario=run.record.scenario,
        rate=run.record.rate,
        limit=run.record.limit,
        embedded=run.record.stack == "embedded",
        on_page=stage.on_page if options.page else None,
    )


def _clock(record: Record, report: Report) -> summarise.Clock:
    return summarise.Clock(
        seconds=record.seconds,
        first_prediction_seconds=record.first_prediction_seconds,
        first_promotion_seconds=record.first_promotion_seconds,
        peak_memory_mb=record.peak_memory_mb,
        restarts=report.restarts,
        cpu_seconds=record.cpu_seconds,
        missing=report.missing,
        software={
            "driftloop": driftloop.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
    )


def _keep_running(settings: Settings) -> None:
    """Keep the stack running until Ctrl-C."""
    write(f"Still running: Kafka {settings.kafka}, Redis {settings.redis}, MLflow {settings.mlflow} (open it).")
    write("Press Ctrl-C to stop them.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
