"""How detectors are scored, and the tables.

Definitions follow CapyMOA's `EvaluateDriftDetector`, see `serving.simulation.drift_scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from scipy.stats import chi2

from driftloop.core.messages import DriftAlert
from serving.simulation.drift_scoring import MAX_DELAY, Truth, judge_alerts
from stream_processors.drift.accuracy_estimation import Block

Blocks = list[tuple[Block, bool]]
"""Blocks with both accuracies, and whether a drift began within them or in the 500 events before."""


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
    """For each detected drift whether what moved is among the first three of its sort in the alert."""
    kinds: list[bool] = []
    """For each detected drift whether the alert names its kind."""
    alerts_at: list[tuple[int, str, str]] = []


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
    line = "{:<24} {:<38} {:>18} {:>20} {:>9} {:>7} {:>20} {:>8} {:>6} {:>6} {:>6}"
    heads = ("stream", "detector", "hit rate", "delay", "n. delay", "median", "false per 10,000", "repeats")
    print(line.format(*heads, "top 3", "kind", "us"))
    for stream, detector in dict.fromkeys((row.stream, row.detector) for row in rows):
        chosen = [row for row in rows if (row.stream, row.detector) == (stream, detector)]
        hits = interval([row.hits / row.drifts for row in chosen if row.drifts])
        delays = [delay for row in chosen for delay in row.delays]
        missed = sum(row.drifts - row.hits for row in chosen)
        normalised = (sum(delays) + missed * MAX_DELAY) / max(1, len(delays) + missed) / MAX_DELAY
        false = interval([10_000 * row.false_alarms / row.quiet_events for row in chosen if row.quiet_events])
        print(
            line.format(
                stream, detector, _shown(hits, 2), _shown(interval(delays), 0), f"{normalised:.3f}",
                f"{np.median(delays):.0f}" if delays else "-", _shown(false, 2), sum(row.repeats for row in chosen),
                _share([good for row in chosen for good in row.top3]),
                _share([good for row in chosen for good in row.kinds]),
                f"{np.mean([row.microseconds for row in chosen]):.0f}",
            ),
            flush=True,
        )  # fmt: skip


def print_stationary(rows: Sequence[Row]) -> None:
    """The stated rate of false alarms beside the measured one, with its exact 95% interval under a Poisson law."""
    line = "{:<24} {:<16} {:>9} {:>7} {:>26}"
    print(line.format("stream", "detector", "events", "alarms", "measured per 10,000"))
    pairs = dict.fromkeys((row.stream, row.detector) for row in rows)
    for stream, detector in [*pairs, *dict.fromkeys(("all", row.detector) for row in rows)]:
        chosen = [row for row in rows if row.detector == detector and stream in (row.stream, "all")]
        events, alarms = sum(row.quiet_events for row in chosen), sum(row.false_alarms for row in chosen)
        low = chi2.ppf(0.025, 2 * alarms) / 2 if alarms else 0.0
        bounds = [10_000 * one / events for one in (alarms, low, chi2.ppf(0.975, 2 * alarms + 2) / 2)]
        shown = f"{bounds[0]:.3f} [{bounds[1]:.3f}, {bounds[2]:.3f}]"
        print(line.format(stream, detector, events, alarms, shown), flush=True)


def _share(found: Sequence[bool]) -> str:
    return f"{np.mean(found):.2f}" if found else "-"


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
