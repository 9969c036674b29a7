"""Adaptation benchmark: policies, detectors and references on streams with known drift, in one table.

The loop is the live one without Kafka (`benchmarks.adaptation.in_process_loop`), on cached embeddings. Labels come
late, and with the annotators' errors. Predictions are scored against the true labels.

    driftloop bench adaptation                                # six kinds of drift, few systems, some minutes
    driftloop bench adaptation --full --seeds 7 8 9 10 11     # everything, some hours
    driftloop bench adaptation --csv reviews.csv --text review --label stars --systems never on-drift iid
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.adaptation import plots
from benchmarks.adaptation.in_process_loop import SECONDS
from benchmarks.adaptation.measurement import NEED_DRIFTS, SYSTEMS, measure
from benchmarks.adaptation.playback import Stream
from benchmarks.adaptation.results import Measured, key, read, write
from benchmarks.adaptation.tables import make_tables, put_into
from benchmarks.harness.cached_embeddings import embed
from benchmarks.harness.cli import exit_status
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import load_scenario

KINDS = ("tweets", "tweets-gradual", "tweets-recurring", "tweets-label-shift", "tweets-typos", "tweets-stationary")
"""Default scenarios: abrupt, gradual, recurring, label shift, covariate shift, and the control."""
OTHERS = ("prior", "topic", "swap", "relabel", "vocabulary", "noise", "liar")
"""Scenarios with one injected drift, and one with an annotator who lies. `--full` adds them."""
QUICK = ("never", "periodic:2000", "on-drift", "mixture", "online:softmax", "iid")
"""Default systems."""


def run(argv: Sequence[str] | None = None) -> list[Measured]:
    """Measure or read rows, print a table for each scenario and a summary, and write the files of the options.

    Raises:
        DriftloopError: A scenario, a system, a file or an option does not fit.
    """
    options = parse(argv)
    measured = list({key(one.row): one for path in options.read for one in read(path)}.values())
    for one in () if options.read else measure_all(options):
        row = one.row
        measured.append(one)
        sys.stderr.write(f"{row.scenario} {row.seed} {row.system}: {row.accuracy:.4f}, {one.cpu['whole']:.0f} s\n")
        if options.out is not None:
            write(options.out, measured)
    tables = make_tables(measured, cpu=options.cpu)
    print("\n\n".join(tables.values()))
    if options.tables is not None:
        put_into(options.tables, tables)
    if options.plots is not None:
        plots.draw([one.row for one in measured], options.plots)
    return measured


def measure_all(options: argparse.Namespace) -> Iterator[Measured]:
    """Measure each system on each stream."""
    settings = Settings()
    for stream in streams(options, settings):
        for system in options.systems:
            if system not in NEED_DRIFTS or stream.scenario.drifts_known:
                yield measure(stream, system, settings, options.seconds)


def streams(options: argparse.Namespace, settings: Settings) -> Iterator[Stream]:
    """Load each scenario with each seed, and embed its texts.

    Args:
        options: Options of `parse`.
        settings: Settings with the encoder.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [_scenario_of_csv(options, Path(folder))] if options.csv else options.scenarios
        for name, seed in itertools.product(names, options.seeds):
            scenario = load_scenario(str(name), seed=seed)
            yield Stream(scenario, embed([row.text for row in scenario.sequence], settings.model))


def _scenario_of_csv(options: argparse.Namespace, folder: Path) -> Path:
    """Write a scenario file for a CSV file, its rows in the order of the file."""
    text = {"path": str(options.csv.resolve()), "text": options.text, "label": options.label}
    if options.segment:
        text["segment"] = options.segment
    lines = [f"label_delay = {options.label_delay}"]
    lines += [f"bootstrap = {options.bootstrap}"] if options.bootstrap is not None else []
    lines += [f"drifts = {json.dumps(options.drifts)}"] if options.drifts is not None else []
    lines += ["[dataset]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in text.items())]
    path = folder / f"{options.csv.name.split('.')[0] or 'csv'}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise DriftloopError(f"{message}: see `{self.prog} --help`.")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options and fill in the default scenarios and systems."""
    parser = _Parser(
        prog="driftloop bench adaptation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="built-in names or TOML files")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help=f"of {', '.join(SYSTEMS)}, or signal:detector")
    parser.add_argument("--full", action="store_true", help="all systems, and all built-in scenarios by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7], metavar="N", help="seeds (default: 7)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"seconds from a decision to the new model (default: {SECONDS:g})",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="your own CSV file, in the order of its rows")
    parser.add_argument("--text", default="text", metavar="COLUMN", help="column of the texts (default: text)")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column of the labels (default: label)")
    parser.add_argument("--segment", default="", metavar="COLUMN", help="column of the segments (default: none)")
    parser.add_argument("--label-delay", type=int, default=200, metavar="EVENTS", help="with --csv (default: 200)")
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="EVENTS",
        help="with --csv: events of the first model (default: 500, at most a quarter)",
    )
    parser.add_argument("--drifts", nargs="*", type=int, metavar="POSITION", help="true drifts of the CSV file")
    parser.add_argument("--cpu", action="store_true", help="add columns of CPU seconds")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON, after each one")
    parser.add_argument(
        "--read", nargs="+", type=Path, default=[], metavar="FILE", help="print rows of such files and measure nothing"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw accuracy over time and its cost, as SVG")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="put the tables into a page")
    options = parser.parse_args(argv)
    if options.bootstrap is not None and options.bootstrap < 1:
        parser.error(f"--bootstrap {options.bootstrap} is not a number of events")
    if not options.scenarios:
        options.scenarios = [*KINDS, *(f"tweets-{name}" for name in OTHERS if options.full)]
    options.systems = options.systems or list(SYSTEMS if options.full else QUICK)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    return exit_status(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
