"""Promotions under load: pauses between predictions, and the recovery from a bad model.

    python -m benchmarks.resilience.promotions_under_load --promotions 100 --poisoned 5

Three phases have the same load: no promotion, a promotion about every second, and the same with scorers that are
killed, added and removed. Then a model with flipped labels is promoted without the gate, as an operator could do. The
benchmark counts the labels until the loop has replaced it by a good one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.harness.cli import save_json
from benchmarks.harness.loop_under_load import LoopUnderLoad
from driftloop.core import topics
from driftloop.core.kafka import clients
from driftloop.core.messages import ModelUpdate, Outcome, Prediction
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack
from retrain.promotion.promoter import Promoter

EVERY = 1.0
"""Seconds between two promotions."""
FAULT_EVERY = 10
"""Promotions between two faults."""
SECOND = "second scorer"


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One phase, with the pauses between two predictions in milliseconds."""

    name: str
    promotions: int
    faults: int
    predictions: int
    versions: int
    """Number of model versions that predicted."""
    p50: float
    p99: float
    longest: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the benchmark."""

    phases: list[Phase]
    verdict: str
    """Verdict of the audit."""
    findings: list[str]
    """Findings of the audit."""
    unregistered: int
    """Predictions of a version that is not in the registry."""
    labels_until_rolled_back: list[int]
    """Labelled predictions of each bad model before another one was promoted."""


def main() -> int:
    """Print the tables, and write them as JSON. Return 1 if the audit has findings."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resilience.promotions_under_load", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--promotions", type=int, default=100, help="promotions of a phase (default: 100)")
    parser.add_argument("--poisoned", type=int, default=5, help="number of bad models (default: 5)")
    parser.add_argument("--rate", type=float, default=60.0, help="events per second (default: 60)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="driftloop-swaps-") as folder,
        EmbeddedStack(Path(folder, "stack")) as stack,
    ):
        settings = stack.settings(Settings(stream="swaps", topic_prefix="swaps."))
        with LoopUnderLoad(stack, settings, Path(folder), rate=options.rate) as running:
            done = measure(running, options.promotions, options.poisoned)
    show(done.phases)
    print(f"audit: {done.verdict}; {'; '.join(done.findings) or 'no findings'}")
    print(f"predictions of an unregistered version: {done.unregistered}")
    print(f"labels until a bad model was replaced: {done.labels_until_rolled_back}")
    save_json(options.out, done)
    return int(bool(done.findings))


def show(phases: Sequence[Phase]) -> None:
    """Print a line for each phase, with the pauses in milliseconds."""
    heads = f"{'promotions':>10} {'faults':>6} {'predictions':>11} {'versions':>8} {'p50':>6} {'p99':>7} {'max':>8}"
    print(f"{'phase':<24} {heads}")
    for row in phases:
        counts = f"{row.promotions:>10} {row.faults:>6} {row.predictions:>11} {row.versions:>8}"
        print(f"{row.name:<24} {counts} {row.p50:>6.0f} {row.p99:>7.0f} {row.longest:>8.0f}")


def measure(running: LoopUnderLoad, promotions: int, poisoned: int) -> Result:
    """Run all phases.

    Args:
        running: A running loop.
        promotions: Number of promotions of a phase.
        poisoned: Number of bad models.
    """
    pair = [running.harness.promote(rows=rows) for rows in (80, 120)]
    phases = [
        _phase(running, "no promotion", 0, pair, faults=False, seconds=promotions * EVERY),
        _phase(running, "promotions", promotions, pair, faults=False),
        _phase(running, "promotions and faults", promotions, pair, faults=True),
    ]
    labels = [_poison(running) for _ in range(poisoned)]
    report = running.pause_and_audit()
    known = {str(one.version) for one in Promoter(running.settings, running.harness.outbox).registry.versions()}
    return Result(
        phases=phases,
        verdict=report.verdict,
        findings=[f"{one.count} {one.what}" for one in report.findings],
        unregistered=sum(one.model_version not in known for one in _read(running, 0.0)),
        labels_until_rolled_back=labels,
    )


def _phase(
    running: LoopUnderLoad, name: str, promotions: int, pair: Sequence[str], *, faults: bool, seconds: float = 0.0
) -> Phase:
    promoter = Promoter(running.settings, running.harness.outbox)
    began, faults_done = time.time(), 0
    time.sleep(seconds)
    for number in range(promotions):
        promoter.promote(pair[number % 2], "benchmark", "benchmark")
        if faults and number % FAULT_EVERY == FAULT_EVERY - 1:
            faults_done += 1
            _disturb_scorers(running, faults_done)
        time.sleep(EVERY)
    running.pause_and_audit()
    predictions = _read(running, began)
    times = sorted({one.predicted_at for one in predictions})
    gaps = np.diff(times) * 1000 if len(times) > 1 else np.zeros(1)
    p50, p99 = np.percentile(gaps, [50, 99])
    return Phase(
        name=name,
        promotions=promotions,
        faults=faults_done,
        predictions=len(predictions),
        versions=len({one.model_version for one in predictions}),
        p50=round(float(p50), 1),
        p99=round(float(p99), 1),
        longest=round(float(gaps.max()), 1),
    )


def _disturb_scorers(running: LoopUnderLoad, number: int) -> None:
    """Add a second scorer, kill the first, or remove the second, in turn."""
    if number % 3 == 1:
        running.children["scorer"].kill()
    elif SECOND not in running.children:
        running.start(SECOND, "score", DRIFTLOOP_SCORER__GROUP_INSTANCE_ID="second")
    else:
        running.stop(SECOND)


def _poison(running: LoopUnderLoad) -> int:
    """Promote a model with flipped labels. Return its labelled predictions until another one is promoted."""
    bad = running.harness.promote(flipped=True)

    def replaced() -> float | None:
        name = topics.name(running.settings, topics.MODEL_UPDATES)
        updates = clients.read_all(running.settings, name, ModelUpdate)
        since = max(one.published_at for one in updates if one.version == bad)
        later = [one.published_at for one in updates if one.published_at > since]
        return min(later) if later else None

    running.until("another model", lambda: replaced() is not None)
    running.pause_and_audit()
    name = topics.name(running.settings, topics.OUTCOMES)
    outcomes = clients.read_all(running.settings, name, Outcome)
    until = replaced() or 0.0
    return sum(one.model_version == bad and one.labelled_at < until for one in outcomes)


def _read(running: LoopUnderLoad, since: float) -> list[Prediction]:
    """Return the first prediction of each event that was made after ``since``."""
    name = topics.name(running.settings, topics.PREDICTIONS)
    first: dict[str, Prediction] = {}
    for one in clients.read_all(running.settings, name, Prediction):
        first.setdefault(one.event_id, one)
    return [one for one in first.values() if one.predicted_at > since]


if __name__ == "__main__":
    sys.exit(main())
