"""`driftloop report`, and what `simulate` leaves for it: `report.json`, `report.html` and `report.pdf` in the run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from driftloop.cli.options import terminate_as_interrupt, write
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs

if TYPE_CHECKING:
    from driftloop.cli.run_directory import Record
    from driftloop.core.settings import Settings
    from producers.scenarios.scenarios import Scenario
    from serving.report.run_data import Source
    from serving.simulation.summary import Summary, Topics


def report(arguments: argparse.Namespace) -> int:
    """Write the report of a finished run anew, without any service. Returns the exit status."""
    from serving.report import run_data, writing
    from serving.report.costs import Rates

    terminate_as_interrupt()
    folder = Path(arguments.run)
    given = {name: getattr(arguments, name) for name in ("watts", "price", "currency")}
    rates = Rates(**{name: value for name, value in given.items() if value is not None})
    for path in writing.write(run_data.read(folder), folder, rates):
        write(str(path))
    return 0


def conclude(
    root: Path, record: Record, scenario: Scenario, planned: int, warm_up: int, settings: Settings, found: Topics,
    summary: Summary,
) -> None:  # fmt: skip
    """Write the report at the end of a simulation, while its stack still answers; what fails is said and no more."""
    from serving.report import collect, run_data, writing
    from serving.report.costs import Rates

    try:
        evidence = collect.collect(
            settings, found, source_of(record, scenario, settings, planned, warm_up), record.stack
        )
        run_data.write(evidence, root)
        _, pdf = writing.write(run_data.RunFacts(summary, evidence), root, Rates())
        write(f"The report: {pdf} and {pdf.with_suffix('.html').name}")
    except DriftloopError as error:
        logs.print_error(f"There is no report: {error}")
    except Exception as error:  # the run is over and its summary written: nothing here may take that back
        logs.print_error(f"There is no report: {type(error).__name__}: {error}; the summary is complete without it.")


def source_of(record: Record, scenario: Scenario, settings: Settings, planned: int, warm_up: int) -> Source:
    """What the scenario says about the stream, without the folders that anything lies in."""
    from producers.scenarios.scenarios import read_spec
    from serving.report.run_data import Annotator, Injected, Part, Source

    spec, _ = read_spec(record.scenario)
    data = spec.dataset
    kinds = {"packaged": data.packaged, "file": Path(data.path).name, "hub": data.hub}
    kind, origin = next(((kind, name) for kind, name in kinds.items() if name), ("synthetic", "made-up texts"))
    name = Path(record.scenario).name
    options = [f"--rate {record.rate}"] * bool(record.rate) + [f"--limit {record.limit}"] * (record.limit is not None)
    return Source(
        about=scenario.about,
        kind=kind,
        origin=origin,
        revision=data.revision or scenario.revision,
        seed=scenario.seed,
        rate=record.rate or ("max" if math.isinf(scenario.rate) else f"{scenario.rate:g}"),
        label_delay=scenario.label_delay,
        planned=planned,
        warm_up=warm_up,
        masked=list(spec.mask if settings.mask is None else settings.mask),
        parts=[
            Part(name=part, start=start, end=min(end, planned))
            for part, start, end in scenario.segments
            if start < planned
        ],
        injected=[
            Injected(
                kind=one.kind,
                onset=one.onset,
                end=one.end,
                width=one.width,
                classes=list(one.classes),
                segments=list(one.segments),
            )
            for one in scenario.injected
            if one.onset < planned
        ],
        annotators=[
            Annotator(name=one.name, share=one.share, flipped=one.flipped, missing=one.missing)
            for one in spec.annotators
        ],
        command=" ".join(["driftloop simulate", name, *options]),
    )
