"""Policies compared in-process on the same stream, with the very watch, policies, candidate and gate of the live loop.

Without Kafka and on cached embeddings a stream of 24,000 events takes a minute instead of ten. What is left out: TPOT
and fine-tuning (the linear head alone competes), and the time model is simple: a retraining's model takes over so many
seconds after the decision, at the scenario's rate.

    python -m benchmarks.adaptation --scenarios tweets tweets-stationary --policies never on-drift --seeds 7 8
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.embeddings import embed
from driftloop.classifiers.base import Matrix, Predictions
from driftloop.classifiers.heads import Head
from driftloop.messages import DriftAlert, Label, Outcome, Prediction
from driftloop.settings import RetrainSettings, Settings
from producers.labels import LabelSchedule
from producers.scenarios import Scenario, load_scenario
from retrain.candidates.base import CannotFit
from retrain.candidates.linear import fit_head, learn
from retrain.gate import compare
from retrain.policies import Now, Past, Policy, Retrain, make_policy
from retrain.window import Window
from serving.judgement import Truth, judge_alerts
from stream_processors.drift.watch import DriftWatch
from stream_processors.joins import outcome as join_one

COUNTED_FROM = 2000
"""Accuracy is taken over the events from here on, as in `summary.json`."""
DECIDE_EVERY = 8
"""Labels between two looks of the policy: what the live worker sees in its 0.2 s at 40 events/s."""
BLOCK = 250
ENCODER = Path("encoder")
"""Stands for the encoder's folder: the linear head is fitted without it."""


@dataclass
class Stream:
    """A scenario with the embeddings of its texts, shape (n, d)."""

    scenario: Scenario
    embeddings: Matrix

    def __len__(self) -> int:
        return len(self.scenario)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table, and of the JSON file."""

    scenario: str
    seed: int
    policy: str
    accuracy: float
    """Prequential, from event `COUNTED_FROM` on."""
    retrainings: int
    promotions: int
    detected: int
    drifts: int
    mean_delay: float | None
    """Labelled events, over the detected drifts."""
    false_alarms: int
    repeats: int
    cpu_seconds: float
    promoted_at: list[int]
    alerts_at: list[tuple[int, str, str]]
    """Position, signal and verdict of each alert."""


@dataclass
class Loop:
    """The loop at work on one stream: scorer, monitor and retraining job in turn, by the clock of the positions."""

    stream: Stream
    policy: Policy
    settings: Settings
    lag: int
    """Events between a decision and the first prediction of the model that came of it."""
    alerts: list[DriftAlert] = field(default_factory=list)
    past: list[Past] = field(default_factory=list)
    promoted_at: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._watch = DriftWatch(self.settings.monitor.detectors, "bench")
        self._outcomes: deque[Outcome] = deque(maxlen=self.settings.retrain.window)
        self._bootstrap = self.settings.retrain.bootstrap
        self._heads: list[Head] = []
        self._block: tuple[int, list[str], Matrix] = (0, [], np.zeros((0, 0), dtype=np.float32))
        self._pending: tuple[int, Head | None, Past] | None = None
        self._labelled = 0
        self.correct = np.zeros(len(self.stream), dtype=bool)

    def run(self) -> None:
        """Play the stream from its first event to its last label."""
        head, _ = learn(self._window(range(self._bootstrap), 0))
        self._heads.append(head)
        schedule = LabelSchedule(len(self.stream), self.stream.scenario.label_delay, self._bootstrap)
        waiting: dict[int, Prediction] = {}
        for tick in range(schedule.ticks):
            self._take_over(tick)
            if tick < len(self.stream):
                waiting[tick] = self._predict(tick)
                self.alerts += self._watch.predicted(waiting[tick])
            for position in schedule.due(tick):
                self._label(waiting.pop(position))

    def _predict(self, position: int) -> Prediction:
        start, labels, probabilities = self._block
        if not start <= position < start + len(labels):
            span = slice(position, min(position + BLOCK, len(self.stream)))
            texts = [row.text for row in self.stream.scenario.sequence[span]]
            head = self._heads[-1]
            probabilities = head.predict_proba(texts, self.stream.embeddings[span])
            labels = [head.classes[i] for i in probabilities.argmax(axis=1)]
            start = position
            self._block = (start, labels, probabilities)
        row = self.stream.scenario.sequence[position]
        at = position - start
        return Prediction(
            event_id=str(position),
            label=labels[at],
            probabilities={labels[at]: float(probabilities[at].max())},
            model_version=str(len(self._heads)),
            route="",
            latency_ms=0.0,
            text=row.text,
            segment=row.segment,
            occurred_at=float(position),
            predicted_at=float(position),
            position=position,
            in_sample=position < self._bootstrap,
        )

    def _label(self, prediction: Prediction) -> None:
        position = prediction.position
        row = self.stream.scenario.sequence[position]
        label = Label(event_id=prediction.event_id, label=row.label, labelled_at=float(position), position=position)
        outcome = join_one(prediction, label)
        self.correct[position] = outcome.correct
        self._outcomes.append(outcome)
        self._labelled += 1
        self.alerts += self._watch.labelled(outcome, self._labelled - 1)
        if self._pending is None and self._labelled % DECIDE_EVERY == 0:
            decision = self.policy.decide(Now(self._labelled, tuple(self.past)), self.alerts[-200:], self._outcomes)
            if isinstance(decision, Retrain):
                self._retrain(decision, position + self.stream.scenario.label_delay)

    def _retrain(self, decision: Retrain, tick: int) -> None:
        rows = sum(outcome.occurred_at >= decision.onset_at for outcome in self._outcomes)
        newest = self._outcomes[-1].occurred_at
        positions = [outcome.position for outcome in self._outcomes]
        onset = sum(outcome.occurred_at < decision.onset_at for outcome in self._outcomes)
        window = self._window(positions, 0 if onset == len(positions) else onset)
        train, held = window.hold_out(self.settings.retrain.holdout)
        head: Head | None = None
        try:
            challenger, old_weight = learn(train)
        except CannotFit:
            pass
        else:
            chosen = self.settings.retrain
            said = [_answers(one, held) for one in (self._heads[-1], challenger)]
            if compare(held.labels, said[0], said[1], confidence=chosen.confidence, seed=chosen.seed).better:
                head = fit_head(window, old_weight)
        past = Past(self._labelled, decision.onset_at, rows, newest, decision.trigger, head is not None)
        self._pending = (tick + self.lag, head, past)

    def _take_over(self, tick: int) -> None:
        if self._pending is not None and tick >= self._pending[0]:
            _, head, past = self._pending
            self._pending = None
            self.past.append(past)
            if head is not None:
                self._heads.append(head)
                self._block = (0, [], self._block[2])
                self.promoted_at.append(tick)

    def _window(self, positions: Sequence[int], onset: int) -> Window:
        rows = [self.stream.scenario.sequence[position] for position in positions]
        return Window(
            event_ids=tuple(map(str, positions)),
            texts=tuple(row.text for row in rows),
            labels=tuple(row.label for row in rows),
            embeddings=self.stream.embeddings[list(positions)],
            encoder=ENCODER,
            onset=onset,
        )


def _answers(head: Head, rows: Window) -> Predictions:
    return Predictions(head.classes, head.predict_proba(rows.texts, rows.embeddings), rows.embeddings, "head", 0.0)


def measure(stream: Stream, policy: str, settings: Settings, seconds: float) -> Row:
    """Run one policy over one stream."""
    scenario = stream.scenario
    loop = Loop(stream, make_policy(settings.retrain), settings, round(seconds * min(scenario.rate, 1000.0)))
    began = time.process_time()
    with threadpool_limits(1):  # as the sandbox of the live loop does
        loop.run()
    cpu = time.process_time() - began
    truth = Truth(scenario.name, scenario.drifts, True, settings.retrain.bootstrap)
    drifts, judged = judge_alerts(loop.alerts, truth, range(len(stream)))
    delays = [drift.delay for drift in drifts if drift.delay is not None]
    start = min(COUNTED_FROM, len(stream) // 2)
    return Row(
        scenario=scenario.name,
        seed=scenario.seed,
        policy=policy,
        accuracy=round(float(loop.correct[start:].mean()), 4),
        retrainings=len(loop.past),
        promotions=len(loop.promoted_at),
        detected=len(delays),
        drifts=len(drifts),
        mean_delay=round(float(np.mean(delays)), 1) if delays else None,
        false_alarms=sum(alert.verdict == "false alarm" for alert in judged),
        repeats=sum(alert.verdict == "repeat" for alert in judged),
        cpu_seconds=round(cpu, 1),
        promoted_at=loop.promoted_at,
        alerts_at=[(alert.position, alert.signal, alert.verdict) for alert in judged],
    )


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """One row for each scenario, seed and policy, in this order."""
    for name in options.scenarios:
        for seed in options.seeds:
            scenario = load_scenario(name, seed=seed)
            stream = Stream(scenario, embed([row.text for row in scenario.sequence], Settings().model))
            for policy in options.policies:
                word, _, period = policy.partition(":")
                chosen = msgspec.convert({"policy": word, "period": int(period or 2000)}, RetrainSettings)
                yield measure(stream, policy, Settings(retrain=chosen), options.seconds)


def main() -> int:
    """Print one table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.adaptation", description=__doc__.split("\n")[0])
    parser.add_argument("--scenarios", nargs="+", default=["tweets", "tweets-stationary"], metavar="NAME")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=["never", "periodic:2000", "periodic:1000", "on-drift", "cost-aware"],
        metavar="POLICY",
        help="never, periodic:PERIOD, on-drift, cost-aware",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[7], metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="from a decision to the new model's first prediction"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    line = "{:<18} {:>4} {:<14} {:>8} {:>11} {:>8} {:>9} {:>7} {:>6} {:>8} {:>6}"
    heads = (
        "scenario",
        "seed",
        "policy",
        "accuracy",
        "retrainings",
        "promoted",
        "detected",
        "delay",
        "false",
        "repeats",
    )
    print(line.format(*heads, "cpu s"))
    rows = []
    for row in measure_all(options):
        rows.append(row)
        found = f"{row.detected}/{row.drifts}"
        delay = "-" if row.mean_delay is None else f"{row.mean_delay:.0f}"
        shown = (
            row.scenario,
            row.seed,
            row.policy,
            f"{row.accuracy:.4f}",
            row.retrainings,
            row.promotions,
            found,
            delay,
        )
        print(line.format(*shown, row.false_alarms, row.repeats, row.cpu_seconds), flush=True)
    if options.out is not None:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
