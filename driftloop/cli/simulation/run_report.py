"""Report at the end of a simulation: `report.json`, `report.html` and `report.pdf` in the run directory."""

from __future__ import annotations

import math
from pathlib import Path

from driftloop.cli.output import write
from driftloop.cli.simulation.prepare import PreparedRun
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.topic_history import TopicHistory
from driftloop.core.observability import logs
from producers.scenarios.scenarios import read_spec
from serving.report import build, collect, run_data
from serving.report.chapters.cost import Rates
from serving.report.run_data import Annotator, Injected, Part, RunFacts, Source
from serving.simulation.summary import Summary


def write_report(run: PreparedRun, topics: TopicHistory, summary: Summary) -> None:
    """Write the report while the stack still answers. A failure is printed and does not affect the run.

    Args:
        run: The run, with the addresses of its stack in the settings.
        topics: Messages of the run.
        summary: Summary of the run.
    """
    try:
        data = collect.collect(run.settings, topics, describe_source(run), run.record.stack)
        run_data.write(data, run.root)
        _, pdf = build.write_report(RunFacts(summary, data), run.root, Rates())
        write(f"The report: {pdf} and {pdf.with_suffix('.html').name}")
    except DriftloopError as error:
        logs.print_error(f"There is no report: {error}")
    except Exception as error:  # the run is complete, so that a bug in the report must not change its exit status
        logs.print_error(f"There is no report: {type(error).__name__}: {error}; the summary is complete without it.")


def describe_source(run: PreparedRun) -> Source:
    """Return the description of the run's stream, without the paths of local folders."""
    record, scenario = run.record, run.scenario
    spec, _ = read_spec(record.scenario)
    data = spec.dataset
    kinds = {"packaged": data.packaged, "file": Path(data.path).name, "hub": data.hub}
    kind, origin = next(((kind, name) for kind, name in kinds.items() if name), ("synthetic", "made-up texts"))
    return Source(
        about=scenario.about,
        kind=kind,
        origin=origin,
        revision=data.revision or scenario.revision,
        seed=scenario.seed,
        rate=record.rate or ("max" if math.isinf(scenario.rate) else f"{scenario.rate:g}"),
        label_delay=scenario.label_delay,
        planned=run.events,
        warm_up=run.warm_up,
        masked=list(spec.mask if run.settings.mask is None else run.settings.mask),
        parts=[
            Part(name=name, start=start, end=min(end, run.events))
            for name, start, end in scenario.segments
            if start < run.events
        ],
        injected=_injected(run),
        annotators=[
            Annotator(name=one.name, share=one.share, flipped=one.flipped, missing=one.missing)
            for one in spec.annotators
        ],
        command=_command(run),
    )


def _injected(run: PreparedRun) -> list[Injected]:
    return [
        Injected(
            kind=drift.kind,
            onset=drift.onset,
            end=drift.end,
            width=drift.width,
            classes=list(drift.classes),
            segments=list(drift.segments),
        )
        for drift in run.scenario.injected
        if drift.onset < run.events
    ]


def _command(run: PreparedRun) -> str:
    """Return the command that repeats the run."""
    rate = [f"--rate {run.record.rate}"] if run.record.rate else []
    limit = [f"--limit {run.record.limit}"] if run.record.limit is not None else []
    return " ".join(["driftloop simulate", Path(run.record.scenario).name, *rate, *limit])
