"""Drift detectors scored on streams with known drift: hits, delay, false alarms; and accuracy estimated without labels.

    python -m benchmarks.detection --parts synthetic text accuracy --seeds 7 8 9 --out detection.json

Definitions follow CapyMOA's `EvaluateDriftDetector`, see `serving.judgement`. The dummies stand beside every score.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from river.datasets import synth
from sklearn.naive_bayes import GaussianNB
from threadpoolctl import threadpool_limits

from benchmarks.detection_text import TEXT_SCENARIOS, Blocks, play, text_stream
from driftloop.messages import DriftAlert, Label, Prediction
from serving.judgement import MAX_DELAY, Truth, judge_alerts
from stream_processors.drift.watch import DriftWatch
from stream_processors.joins import outcome as join_one

SINGLE = (
    "error:adwin",
    "error:kswin",
    "error:page-hinkley",
    "error:ddm",
    "error:hddm-a",
    "error:hddm-w",
    "error:stepd",
)
THREE = "error:adwin confidence:adwin mix:adwin"
DETECTORS = ("fused", *SINGLE, THREE, "vote", "always", "never")
LENGTH, DRIFT, TRAINED, STEP = 4000, 2500, 500, 20
VOTES, VOTE_WITHIN, DUMMY_EVERY = 3, 100, 100


class Watch(Protocol):
    """What is scored: a `DriftWatch`, a vote of several, or a dummy."""

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Take a prediction."""
        ...

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """Take an outcome."""
        ...


class Vote:
    """The single detectors of the error together: an alarm when `VOTES` of them alarm within `VOTE_WITHIN` events."""

    def __init__(self) -> None:
        self._members = [DriftWatch([text], "vote") for text in SINGLE]
        self._alarms: dict[int, int] = {}

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Needs labels only."""
        return []

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """The alert of the member that made the majority."""
        last: list[DriftAlert] = []
        for number, member in enumerate(self._members):
            found = member.labelled(outcome, offset)
            if found:
                self._alarms[number], last = offset, found
        recent = sum(offset - at < VOTE_WITHIN for at in self._alarms.values())
        if last and recent >= VOTES:
            self._alarms.clear()
            return last[-1:]
        return []


class Dummy:
    """Alarms after every `DUMMY_EVERY` labelled events, or never: what any detector has to beat."""

    def __init__(self, every: int) -> None:
        self._every = every

    def predicted(self, prediction: Prediction, embedding: Any = None) -> list[DriftAlert]:
        """Looks at nothing."""
        return []

    def labelled(self, outcome: Any, offset: int) -> list[DriftAlert]:
        """An alarm by the clock."""
        if not self._every or (offset + 1) % self._every:
            return []
        return [
            DriftAlert(
                alert_id=str(offset),
                stream="dummy",
                detector="always",
                signal="error",
                severity=0.0,
                position=outcome.position,
                onset=outcome.position,
                onset_at=outcome.occurred_at,
                outcome_offset=offset,
                window=1,
                model_version=outcome.model_version,
                detected_at=outcome.occurred_at,
            )
        ]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One detector on one stream."""

    part: str
    stream: str
    seed: int
    detector: str
    drifts: int
    hits: int
    delays: list[int]
    """Labelled events from each drift to its detection."""
    false_alarms: int
    repeats: int
    quiet_events: int
    """Events that are no part of a detection's span: what false alarms are counted over."""
    microseconds: float
    """CPU time of the detector for each event, its prediction and its label together."""
    top3: list[bool] = []
    """For each detected drift whether the segment or class that moved is among the first three of the alert."""
    kinds: list[str] = []
    alerts_at: list[tuple[int, str, str]] = []


def make_watch(name: str) -> Watch:
    """A detector by its name in `DETECTORS`, or any line of configuration; several are joined by spaces."""
    if name == "vote":
        return Vote()
    if name in ("always", "never"):
        return Dummy(DUMMY_EVERY if name == "always" else 0)
    return DriftWatch(name.split(), "bench")


Item = tuple[dict[Any, Any], Any]
Concept = Callable[[int, int], Iterator[Item]]


def _sea(concept: int, seed: int) -> Iterator[Item]:
    return iter(synth.SEA(variant=(seed + concept) % 4, seed=10 * seed + concept, noise=0.1))


def _agrawal(concept: int, seed: int) -> Iterator[Item]:
    return iter(synth.Agrawal(classification_function=(seed + concept) % 10, seed=10 * seed + concept))


def _led(concept: int, seed: int) -> Iterator[Item]:
    drifting = 7 if concept else 0
    return iter(
        synth.LEDDrift(
            seed=10 * seed + concept, noise_percentage=0.1, irrelevant_features=True, n_drift_features=drifting
        )
    )


STREAMS: dict[str, Concept] = {"SEA": _sea, "Agrawal": _agrawal, "LED": _led}


def synthetic(name: str, seed: int, learns: bool) -> list[tuple[Prediction, Label]]:
    """A stream with one abrupt drift at `DRIFT`, answered by Gaussian naive Bayes, its labels coming at once.

    The model learns from `STEP` labels after its answers to them (``learns``), or from the first `TRAINED` events only.
    """
    make = STREAMS[name]
    items = itertools.chain(itertools.islice(make(0, seed), DRIFT), itertools.islice(make(1, seed), LENGTH - DRIFT))
    drawn = list(items)
    x = np.array([[float(value) for value in row.values()] for row, _ in drawn])
    y = np.array([str(int(label)) for _, label in drawn])
    classes = np.unique(y)
    model = GaussianNB(priors=np.full(len(classes), 1 / len(classes)))  # no class is impossible before it was seen
    model.partial_fit(x[:TRAINED], y[:TRAINED], classes=classes)
    answers = []
    for start in range(TRAINED, LENGTH, STEP):
        span = slice(start, min(start + STEP, LENGTH))
        for i, said in enumerate(model.predict_proba(x[span]), start):
            event_id = f"{seed}-{i}"
            prediction = Prediction(
                event_id=event_id, label=str(classes[said.argmax()]), model_version="1", route="", latency_ms=0.0,
                probabilities=dict(zip(classes.tolist(), said.tolist(), strict=True)), text="",
                occurred_at=float(i), predicted_at=float(i), position=i,
            )  # fmt: skip
            answers.append((prediction, Label(event_id=event_id, label=str(y[i]), labelled_at=float(i), position=i)))
        if learns:
            model.partial_fit(x[span], y[span])
    return answers


def measure_synthetic(seeds: Sequence[int], detectors: Sequence[str]) -> Iterator[Row]:
    """One row for each stream, way of learning, seed and detector."""
    for (name, learns), seed in itertools.product(itertools.product(STREAMS, (True, False)), seeds):
        answers = synthetic(name, seed, learns)
        joined = [(prediction, join_one(prediction, label)) for prediction, label in answers]
        for detector in detectors:
            watch, alerts = make_watch(detector), []
            began = time.process_time()
            for offset, (prediction, outcome) in enumerate(joined):
                alerts += watch.predicted(prediction)
                alerts += watch.labelled(outcome, offset)
            spent = time.process_time() - began
            stream = f"{name}, {'online' if learns else 'frozen'}"
            yield score("synthetic", stream, seed, detector, alerts, (DRIFT,), LENGTH, TRAINED, spent)


def score(
    part: str, stream: str, seed: int, detector: str, alerts: Sequence[DriftAlert], drifts: tuple[int, ...],
    length: int, start: int, seconds: float, **more: Any,
) -> Row:  # fmt: skip
    """The row of a detector's alerts, judged as everywhere else."""
    found, judged = judge_alerts(alerts, Truth(stream, drifts, True, start), range(length))
    ends = [*drifts[1:], length][: len(drifts)]
    busy = sum(min(end - at, MAX_DELAY) for at, end in zip(drifts, ends, strict=True))
    return Row(
        part=part,
        stream=stream,
        seed=seed,
        detector=detector,
        drifts=len(drifts),
        hits=sum(one.delay is not None for one in found),
        delays=[one.delay for one in found if one.delay is not None],
        false_alarms=sum(one.verdict == "false alarm" for one in judged),
        repeats=sum(one.verdict == "repeat" for one in judged),
        quiet_events=max(0, length - start - busy),
        microseconds=round(1e6 * seconds / max(1, length - start), 1),
        alerts_at=[(one.position, one.signal, one.verdict) for one in judged],
        **more,
    )


def measure_text(scenarios: Sequence[str], seeds: Sequence[int], detectors: Sequence[str]) -> Iterator[tuple[Row, Any]]:
    """One row for each scenario, seed and detector, with the blocks of estimated and realised accuracy."""
    for name, seed in itertools.product(scenarios, seeds):
        stream = text_stream(name, seed)
        for detector in detectors:
            played = play(stream, make_watch(detector))
            yield (
                score(
                    "text", name, seed, detector, played.alerts, stream.drifts, len(stream.rows), TRAINED,
                    played.seconds, top3=played.top3(MAX_DELAY), kinds=[alert.kind for alert in played.alerts],
                ),
                played.blocks,
            )  # fmt: skip


def interval(values: Sequence[float], seed: int = 7) -> tuple[float, float, float]:
    """Mean and its 95% bootstrap interval (percentiles of 1,000 resamples)."""
    if not values:
        return (float("nan"),) * 3
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(array, (1000, len(array))).mean(axis=1)
    return float(array.mean()), float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def _shown(found: tuple[float, float, float], digits: int) -> str:
    mean, low, high = found
    return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def print_table(rows: Sequence[Row]) -> None:
    """One line for each stream and detector: means over the seeds with bootstrap intervals."""
    line = "{:<20} {:<38} {:>18} {:>20} {:>9} {:>7} {:>20} {:>8} {:>7} {:>7}"
    print(
        line.format(
            "stream",
            "detector",
            "hit rate",
            "delay",
            "n. delay",
            "median",
            "false per 10,000",
            "repeats",
            "top 3",
            "us",
        )
    )
    keys = dict.fromkeys((row.stream, row.detector) for row in rows)
    for stream, detector in keys:
        chosen = [row for row in rows if (row.stream, row.detector) == (stream, detector)]
        hits = interval([row.hits / row.drifts for row in chosen if row.drifts])
        delays = [delay for row in chosen for delay in row.delays]
        missed = sum(row.drifts - row.hits for row in chosen)
        normalised = (sum(delays) + missed * MAX_DELAY) / max(1, len(delays) + missed) / MAX_DELAY
        false = interval([10_000 * row.false_alarms / row.quiet_events for row in chosen if row.quiet_events])
        top = [good for row in chosen for good in row.top3]
        print(
            line.format(
                stream, detector, _shown(hits, 2), _shown(interval(delays), 0), f"{normalised:.3f}",
                f"{np.median(delays):.0f}" if delays else "-", _shown(false, 2), sum(row.repeats for row in chosen),
                f"{np.mean(top):.2f}" if top else "-", f"{np.mean([row.microseconds for row in chosen]):.0f}",
            ),
            flush=True,
        )  # fmt: skip


def print_accuracy(found: Sequence[tuple[str, int, Blocks]]) -> None:
    """Estimated against realised accuracy: away from drifts, and in the blocks that follow one."""
    line = "{:<20} {:>7} {:>24} {:>16} {:>14}"
    print(line.format("stream", "blocks", "mean absolute error", "mean error", "flagged failed"))
    for name in dict.fromkeys(name for name, _, _ in found):
        for after in (False, True):
            blocks = [
                block for stream, _, part in found if stream == name for block, moved in part if moved == after
            ]  # fmt: skip
            gaps = [
                block.estimate - block.realised
                for block in blocks
                if block.estimate is not None and block.realised is not None
            ]
            if gaps:
                flagged = np.mean([block.failed for block in blocks if block.estimate is not None])
                label = f"{name}{', drifted' if after else ''}"
                print(
                    line.format(
                        label,
                        len(gaps),
                        _shown(interval(np.abs(gaps).tolist()), 3),
                        f"{np.mean(gaps):+.3f}",
                        f"{flagged:.2f}",
                    )
                )


def main() -> int:
    """Print one table for each part, and write everything as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.detection", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", default=["synthetic", "text", "accuracy"], metavar="PART")
    parser.add_argument("--synthetic-seeds", type=int, default=30, metavar="N", help="seeds of each synthetic stream")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9, 10, 11], metavar="N", help="of the texts")
    parser.add_argument("--scenarios", nargs="+", default=list(TEXT_SCENARIOS), metavar="NAME")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="LINE")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    rows: list[Row] = []
    accuracy: list[tuple[str, int, Blocks]] = []
    with threadpool_limits(1):
        if "synthetic" in options.parts:
            measured = measure_synthetic(range(options.synthetic_seeds), options.detectors)
            for _, part in itertools.groupby(measured, key=lambda row: row.stream):
                rows += (shown := list(part))
                print_table(shown)
        if "text" in options.parts:
            found = list(measure_text(options.scenarios, options.seeds, options.detectors))
            rows += [row for row, _ in found]
            print_table([row for row, _ in found])
        if "accuracy" in options.parts:
            if "text" not in options.parts or "fused" not in options.detectors:
                found = list(measure_text(options.scenarios, options.seeds, ["fused"]))
            accuracy += [(row.stream, row.seed, blocks) for row, blocks in found if row.detector == "fused"]
            print_accuracy(accuracy)
    if options.out is not None:
        body = {"rows": rows, "accuracy": [{"stream": s, "seed": n, "blocks": b} for s, n, b in accuracy]}
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
