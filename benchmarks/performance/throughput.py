"""Throughput benchmark: the scorer beside programs of other tools, with the same broker, texts and encoder.

Every system is a process that runs throughout, on its own topics. In each round each system in turn receives a burst
that takes it some seconds. Then each receives a load of half and of nine tenths of its measured capacity. The times of
that load are drawn before (an open loop), so that a slow prediction does not delay the next event. A latency counts
from the time that the event was due. Upper bounds, and the cost of the monitor with every event labelled, are measured
too.

    driftloop bench throughput --rounds 3 --seconds 8
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec.structs import replace
from sklearn.metrics import f1_score

from benchmarks.harness import train_champion
from benchmarks.harness.cli import save_json
from benchmarks.performance.scoring_systems import PEERS_PYTHON, Bench, System
from benchmarks.performance.upper_bounds import BareLoop, upper_bounds
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack
from producers.scenarios import scenarios
from retrain.candidates import catalogue

TRAINED_ON = 4000
"""First rows of the stream, which the models learn from. The rows after them are sent."""
HELD_OUT = 2000
"""Rows after those on which macro-F1 is measured."""
LOADS = (0.5, 0.9)
"""Parts of the capacity at which latencies are measured."""
WARM_UP_ROUNDS = 2
"""First rounds, which do not count."""
SERVED = "mlflow's server, by 32"
"""The peer that calls MLflow's model server."""
WATCHED = "driftloop, encoder"
"""The system that is measured with a monitor too."""
MONITOR = "its monitor"
HALF = ", half load"
OURS = {
    "driftloop, cascade": "cascade",
    "driftloop, encoder": "linear",
    "driftloop, TPOT's head": "tpot",
    "driftloop, fine-tuned": "finetune",
    "driftloop, mixture": "mixture",
    "driftloop, mixture with TPOT's head": "mixture+tpot",
    "driftloop, mixture with fine-tuned": "mixture+finetune",
}
"""Scorers of driftloop, and the bundle of each: of a candidate, or of a mixture and its guest."""
PEERS = {
    "faust agent, per event": "benchmarks.performance.peers.faust_agent",
    "quix, per event": "benchmarks.performance.peers.quix_app",
    "kafka-python, by 32": "benchmarks.performance.peers.kafka_python_batches",
    "bytewax, by 32": "benchmarks.performance.peers.bytewax_flow",
    SERVED: "benchmarks.performance.peers.kafka_python_batches",
}
"""Programs of other tools, and the module of each."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. None for a figure that does not apply."""

    system: str = msgspec.field(name="way")
    per_second: float
    """Events per second, median of the rounds."""
    lowest: float
    highest: float
    cpu_seconds: float
    """CPU seconds for 1,000 events, of the process and its children. Broker and store are left out."""
    latencies: dict[str, tuple[float, float, float]] = {}
    """p50, p95 and p99 in milliseconds, by part of the capacity."""
    macro_f1: float | None = None
    memory: float | None = None
    """Resident memory in MiB."""
    first: float | None = None
    """Seconds from the start of the process to the first prediction, with an event waiting."""


def main() -> int:
    """Print one table, and write the rows as JSON."""
    options = _parse()
    if not PEERS_PYTHON.exists():
        print("driftloop: the other tools are not installed: run `make bench`, which installs them.", file=sys.stderr)
        return 2
    rows = scenarios.load_scenario(options.scenario).sequence
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftloop-bench-")))
        settings = stack.enter_context(EmbeddedStack(folder)).settings(Settings())
        for bundle in dict.fromkeys(["linear", *(bundle for name, bundle in OURS.items() if wanted(name, options))]):
            mixture, _, guest = bundle.partition("+")
            for part in (part for part in (mixture, guest) if part and not (folder / part).exists()):
                print(f"fitting {part}", file=sys.stderr)
                candidate = catalogue.find("linear" if part == "cascade" else part)
                train_champion.fit(settings, folder, options.scenario, TRAINED_ON, part == "cascade", candidate)
            if guest:
                train_champion.join(settings, folder / mixture, folder / guest, folder / bundle)
        bench = Bench(settings, folder, rows[TRAINED_ON:], stack)
        measured = measure(bench, options, folder, settings)
    show(measured)
    save_json(options.out, measured)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="driftloop bench throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds that count (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of a burst, and of a load (default: 8)")
    parser.add_argument("--scenario", default="tweets-stationary", metavar="NAME", help="source of the texts")
    parser.add_argument(
        "--systems", "--ways", default="", metavar="PART,…", help="parts of the names to measure (default: all)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")
    return parser.parse_args()


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Return True if a system is to be measured.

    Args:
        name: Name of the system.
        options: Options of the command.
    """
    return any(part in name for part in options.systems.split(","))


def measure(bench: Bench, options: argparse.Namespace, folder: Path, settings: Settings) -> list[Row]:
    """Measure all systems and the upper bounds.

    Args:
        bench: The bench.
        options: Options of the command.
        folder: Folder with the bundles.
        settings: A started stack.
    """
    bounds = upper_bounds(settings, folder, bench.texts)
    systems = [bench.start_scorer(name, bundle) for name, bundle in OURS.items() if wanted(name, options)]
    systems += [
        bench.start_peer(name, module, name == SERVED) for name, module in PEERS.items() if wanted(name, options)
    ]
    _run_rounds(bench, systems, bounds, options)
    rows = []
    for system in systems:
        latencies = {f"{share:.0%}": bench.latencies(system, share, options.seconds) for share in LOADS}
        rows.append(_row(system.name, system.rounds, latencies=latencies, memory=system.memory(), first=system.first))
    scores = macro_f1_scores(bench, systems, folder)
    rows = [replace(row, macro_f1=scores.get(row.system)) for row in rows]
    rows += [row for system in systems if system.name == WATCHED for row in measure_monitor(bench, system, options)]
    return rows + [_row(bound.name, bound.rounds) for bound in bounds]


def _run_rounds(
    bench: Bench, systems: Sequence[System], bounds: Sequence[BareLoop], options: argparse.Namespace
) -> None:
    """Give each system a burst in each round. The first rounds find its speed, and are removed at the end."""
    for number in range(options.rounds + WARM_UP_ROUNDS):
        for system in systems:
            bench.burst(system, options.seconds if number >= WARM_UP_ROUNDS else 2.0)
        for bound in bounds:
            bound.run(options.seconds / 2 if number else 0.5)
        speeds = ", ".join(f"{system.name} {system.rounds[-1][0]:.0f}/s" for system in systems)
        print(f"round {number}: {speeds}", file=sys.stderr)
    for rounds in [one.rounds for one in systems] + [one.rounds for one in bounds]:
        del rounds[:WARM_UP_ROUNDS]


def measure_monitor(bench: Bench, system: System, options: argparse.Namespace) -> list[Row]:
    """Measure a scorer and its monitor at half of the scorer's capacity, with a label for each event.

    Args:
        bench: The bench.
        system: The scorer.
        options: Options of the command.
    """
    monitor = bench.start_monitor(MONITOR, system)
    rounds = [bench.load_with_labels(system, monitor, 0.5, options.seconds) for _ in range(options.rounds + 1)]
    return [_row(one.name + HALF, found[1:]) for one, *found in zip((system, monitor), *rounds, strict=True)]


def _row(name: str, rounds: Sequence[tuple[float, float]], **rest: Any) -> Row:
    speeds = [speed for speed, _ in rounds]
    cpu = 1000 * median(seconds for _, seconds in rounds)
    return Row(system=name, per_second=median(speeds), lowest=min(speeds), highest=max(speeds), cpu_seconds=cpu, **rest)


def macro_f1_scores(bench: Bench, systems: Sequence[System], folder: Path) -> dict[str, float]:
    """Return the macro-F1 of each system on the held-out rows. All peers share one model and so one score.

    Args:
        bench: The bench.
        systems: Systems that have predicted.
        folder: Folder with the bundles.

    Raises:
        RuntimeError: A peer's predictions differ from those of its model.
    """
    ids = [f"e{number}" for number in range(HELD_OUT)]
    truth = bench.truth[:HELD_OUT]
    scores: dict[str, float] = {}
    model_labels: list[str] = []
    for system in systems:
        predicted = bench.predicted_labels(system)
        if system.name in OURS or system.name == SERVED:  # the server has the same graph
            scores[system.name] = float(f1_score(truth, [predicted[one] for one in ids], average="macro"))
            continue
        if not model_labels:
            model_labels = _full_precision(folder, bench.texts[:HELD_OUT])
        pairs = [(predicted[one], label) for one, label in zip(ids, model_labels, strict=True) if one in predicted]
        if sum(one == other for one, other in pairs) < 0.995 * len(pairs):
            raise RuntimeError(f"the predictions of {system.name} differ from those of its model")
        scores[system.name] = float(f1_score(truth, model_labels, average="macro"))
    return scores


def _full_precision(folder: Path, texts: Sequence[str]) -> list[str]:
    """Predict texts with the peers' model."""
    from benchmarks.performance.peers.pipeline_model import PipelineModel

    model = PipelineModel(folder / "linear")
    return [label for start in range(0, len(texts), 32) for label in model.predict(texts[start : start + 32])]


def show(rows: Sequence[Row]) -> None:
    """Print the table, and the ratios between driftloop and the others."""
    print(
        f"{'system':<30} {'events/s':>9} {'lowest – highest':>18} {'CPU s/1,000':>12} {'p50/p95/p99 ms at 50%':>24} "
        f"{'at 90%':>24} {'macro-F1':>9} {'MiB':>6} {'first, s':>9}"
    )
    for row in rows:
        at_50, at_90 = ("/".join(f"{value:.0f}" for value in row.latencies.get(f"{load:.0%}", ())) for load in LOADS)
        spread = f"{row.lowest:.0f} – {row.highest:.0f}"
        print(
            f"{row.system:<30} {row.per_second:>9.0f} {spread:>18} {row.cpu_seconds:>12.2f} {at_50:>24} {at_90:>24} "
            f"{_number(row.macro_f1, 3):>9} {_number(row.memory, 0):>6} {_number(row.first, 1):>9}"
        )
    speeds = {row.system: row.per_second for row in rows}
    for ours in OURS:
        for other in (*PEERS, ours.replace("driftloop", "bare loop")):
            if ours in speeds and other in speeds:
                print(f"{ours} / {other}: {speeds[ours] / speeds[other]:.2f}")
    cpu = {row.system: row.cpu_seconds for row in rows}
    if MONITOR + HALF in cpu:
        print(f"CPU of {MONITOR} / {WATCHED}: {cpu[MONITOR + HALF] / cpu[WATCHED + HALF]:.3f}, both at half load")


def _number(value: float | None, digits: int) -> str:
    return format(value, f".{digits}f") if value else ""


if __name__ == "__main__":
    sys.exit(main())
