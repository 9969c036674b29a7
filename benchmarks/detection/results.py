"""Scores of drift detectors, and their tables.

The definitions follow CapyMOA's `EvaluateDriftDetector`, see `serving.simulation.drift_scoring`.
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
"""Blocks with estimated and realised accuracy, and True if a drift began in them or in the 500 events before."""


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
    """Further alerts within a drift's span."""
    quiet_events: int
    """Events outside every drift's span. False alarms are counted per quiet event."""
    microseconds: float
    """CPU time of the detector for each event, its prediction and its label together."""
    top3: list[bool] = []
    """For each detected drift, True if the alert has a true change among its first three of that sort."""
    kinds: list[bool] = []
    """For each detected drift, True if the alert names its kind."""
    alerts_at: list[tuple[int, str, str]] = []
    """Position, signal and verdict of each alert."""


def score(
    part: str, stream: str, seed: int, detector: str, alerts: Sequence[DriftAlert], drifts: tuple[int, ...],
    length: int, start: int, seconds: float, **more: Any,
) -> Row:  # fmt: skip
    """Judge the alerts of a detector and return its row.

    Args:
        part: Part of the benchmark.
        stream: Name of the stream.
        seed: Seed of the stream.
        detector: Name of the detector.
        alerts: Its alerts.
        drifts: True drift positions.
        length: Events of the stream.
        start: Events of the first model. Alerts before it do not count.
        seconds: CPU time of the detector.
        **more: Further fields of the row.
    """
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
    """Return the mean and its 95% bootstrap interval, by the percentiles of 1,000 resamples.

    Args:
        values: Values to resample.
        seed: Seed of the resampling.

    Returns:
        Mean, lower and upper bound. NaN without values.
    """
    if not values:
        return (float("nan"),) * 3
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(array, (1000, len(array))).mean(axis=1)
    return float(array.mean()), float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def print_table(rows: Sequence[Row]) -> None:
    """Print one line for each stream and detector, as means over the seeds with bootstrap intervals."""
    line = "{:<24} {:<38} {:>18} {:>20} {:>11} {:>12} {:>24} {:>8} {:>6} {:>6} {:>7}"
    heads = ("stream", "detector", "hit rate", "mean delay", "norm. delay", "median delay", "false alarms per 10,000")
    print(line.format(*heads, "repeats", "top 3", "kind", "CPU us"))
    for stream, detector in dict.fromkeys((row.stream, row.detector) for row in rows):
        chosen = [row for row in rows if (row.stream, row.detector) == (stream, detector)]
        print(line.format(stream, detector, *_cells(chosen)), flush=True)


def _cells(rows: Sequence[Row]) -> list[str]:
    """Return the cells of one detector on one stream."""
    hits = interval([row.hits / row.drifts for row in rows if row.drifts])
    false_alarms = interval([10_000 * row.false_alarms / row.quiet_events for row in rows if row.quiet_events])
    delays = [delay for row in rows for delay in row.delays]
    return [
        _with_interval(hits, 2),
        _with_interval(interval(delays), 0),
        f"{_normalised_delay(rows):.3f}",
        f"{np.median(delays):.0f}" if delays else "-",
        _with_interval(false_alarms, 2),
        str(sum(row.repeats for row in rows)),
        _share([good for row in rows for good in row.top3]),
        _share([good for row in rows for good in row.kinds]),
        f"{np.mean([row.microseconds for row in rows]):.0f}",
    ]


def _normalised_delay(rows: Sequence[Row]) -> float:
    """Return the mean delay as a share of the maximum, which a missed drift counts as."""
    delays = [delay for row in rows for delay in row.delays]
    missed = sum(row.drifts - row.hits for row in rows)
    return (sum(delays) + missed * MAX_DELAY) / max(1, len(delays) + missed) / MAX_DELAY


def _with_interval(found: tuple[float, float, float], digits: int) -> str:
    mean, low, high = found
    return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _share(found: Sequence[bool]) -> str:
    return f"{np.mean(found):.2f}" if found else "-"


def print_stationary(rows: Sequence[Row]) -> None:
    """Print the measured rate of false alarms with its exact 95% interval under a Poisson law."""
    line = "{:<24} {:<16} {:>9} {:>7} {:>26}"
    print(line.format("stream", "detector", "events", "alarms", "alarms per 10,000"))
    pairs = dict.fromkeys((row.stream, row.detector) for row in rows)
    for stream, detector in [*pairs, *dict.fromkeys(("all", row.detector) for row in rows)]:
        chosen = [row for row in rows if row.detector == detector and stream in (row.stream, "all")]
        events, alarms = sum(row.quiet_events for row in chosen), sum(row.false_alarms for row in chosen)
        low = chi2.ppf(0.025, 2 * alarms) / 2 if alarms else 0.0
        bounds = [10_000 * one / events for one in (alarms, low, chi2.ppf(0.975, 2 * alarms + 2) / 2)]
        shown = f"{bounds[0]:.3f} [{bounds[1]:.3f}, {bounds[2]:.3f}]"
        print(line.format(stream, detector, events, alarms, shown), flush=True)


def print_accuracy(found: Sequence[tuple[str, int, Blocks]]) -> None:
    """Print estimated against realised accuracy, for the blocks after a drift and for all others."""
    line = "{:<30} {:>7} {:>24} {:>16} {:>14}"
    print(line.format("stream", "blocks", "mean absolute error", "mean error", "flagged failed"))
    for name in dict.fromkeys(name for name, _, _ in found):
        for after in (False, True):
            blocks = [
                block for stream, _, part in found if stream == name for block, drifted in part if drifted == after
            ]  # fmt: skip
            cells = _accuracy_cells(blocks)
            if cells:
                print(line.format(f"{name}{', after a drift' if after else ''}", *cells))


def _accuracy_cells(blocks: Sequence[Block]) -> list[str]:
    """Return number of blocks, errors of the estimate, and share of flagged blocks. Empty without any estimate."""
    estimated = [block for block in blocks if block.estimate is not None]
    errors = [
        block.estimate - block.realised
        for block in blocks
        if block.estimate is not None and block.realised is not None
    ]  # fmt: skip
    if not errors:
        return []
    return [
        str(len(errors)),
        _with_interval(interval(np.abs(errors).tolist()), 3),
        f"{np.mean(errors):+.3f}",
        f"{np.mean([block.failed for block in estimated]):.2f}",
    ]
