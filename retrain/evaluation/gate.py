"""Gate of a promotion: the challenger must be better beyond chance on events that neither model learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from driftloop.core.models.classifier import Predictions
from driftloop.core.settings import GateLimits
from retrain.evaluation import guards
from retrain.evaluation.guards import Check, GroupAccuracy, Latency, SignificanceLevel
from retrain.evaluation.paired_slice import Slice, Values, bootstrap_interval, brier, correct


@dataclass(frozen=True)
class Verdict:
    """Comparison of a challenger with the champion on n held-out events."""

    better: bool
    """True if the challenger is better beyond chance and no guard refuses it."""
    reason: str
    """The decision as one short sentence; the other fields have the figures."""
    champion_accuracy: float
    challenger_accuracy: float
    low: float
    high: float
    """Bounds of the bootstrap interval of the difference in accuracy, challenger minus champion."""
    brier_low: float
    brier_high: float
    """Bounds of the bootstrap interval of the gain in Brier score, champion minus challenger."""
    rows: int
    checks: tuple[Check, ...] = ()
    """Findings of the guards; empty if the two models were only compared."""
    segments: tuple[GroupAccuracy, ...] = ()
    """Accuracy of both models by segment: the fairness report."""
    classes: tuple[GroupAccuracy, ...] = ()
    """Recall of both models by true class."""
    brier_gain: float = 0.0
    """Brier score of the champion minus that of the challenger."""
    refresh: bool = False
    """True if the challenger was judged as a refresh, which must only not be worse."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data for MLflow and the topic `retraining`, with figures rounded to four places."""
        plain: dict[str, Any] = _rounded(msgspec.to_builtins(self))
        return plain


def judge(
    newest: Slice,
    *,
    limits: GateLimits | None = None,
    before: Slice | None = None,
    regression: Slice | None = None,
    latency: Latency | None = None,
    confidence: float = 0.9,
    seed: int = 7,
    refresh: bool = False,
) -> Verdict:
    """Decide on a promotion: `compare` on the newest events, then every guard whose rows are given.

    Every guard that tests for chance refuses an equal challenger in at most (1 - ``confidence``) / 2 of all cases.
    `compare` accepts an equal challenger by its accuracy equally often.

    Args:
        newest: Newest labelled events, which neither model learnt.
        limits: Limits of the guards.
        before: Events from before the drift. `None` leaves out the guard against forgetting.
        regression: The user's frozen rows. `None` leaves out the regression set.
        latency: Latency of both models. `None` leaves out the guard on latency.
        confidence: Two-sided level of the bootstrap intervals.
        seed: Seed of the resampling.
        refresh: True if the challenger is the champion's recipe on more of the same concept.
    """
    limits = limits or GateLimits()
    verdict = compare(
        newest.truth,
        newest.champion,
        newest.challenger,
        confidence=confidence,
        seed=seed,
        weights=newest.weights,
        refresh=refresh,
    )
    level = SignificanceLevel(min_rows=limits.min_rows, alpha=(1 - confidence) / 2, seed=seed)
    checks = [
        guards.class_recall(newest, limits.max_recall_drop, level),
        guards.overconfidence(newest, limits.max_overconfidence_rise, level),
    ]
    if not refresh:
        checks.insert(0, guards.minimum_gain(newest, limits.minimum_gain))
    if newest.segments:
        checks.append(guards.segment_accuracy(newest, limits.max_segment_drop, level))
    if newest.annotators:
        checks.append(guards.no_single_annotator(newest, limits.min_rows))
    if before is not None:
        checks.append(guards.forgetting(before, newest, limits.max_forgetting, level))
    if regression is not None:
        checks.append(guards.regression_set(regression, limits.max_regression_drop))
    if latency is not None:
        checks.append(guards.latency(latency, limits.max_latency_ms, limits.max_latency_factor))
    by_segment, by_class = (guards.compare_groups(newest, names, level) for names in (newest.segments, newest.truth))
    return replace(
        verdict,
        better=verdict.better and all(check.passed for check in checks),
        reason=_reason(verdict, checks),
        checks=tuple(checks),
        segments=tuple(by_segment),
        classes=tuple(by_class),
    )


def compare(
    truth: Sequence[str],
    champion: Predictions,
    challenger: Predictions,
    *,
    confidence: float = 0.9,
    seed: int = 7,
    weights: Values | None = None,
    refresh: bool = False,
) -> Verdict:
    """Compare two models' predictions of the same n events by a paired bootstrap (Efron and Tibshirani, 1993).

    The challenger wins if the interval of its gain in accuracy lies above zero. It also wins if it is at least as
    accurate and the interval of its gain in Brier score (Brier, 1950) lies above zero. On the few dozen events after a
    drift, the accuracy alone seldom separates two models.

    A refresh is the champion's own recipe fitted on more of the same concept. More data is expected to help by a little
    each time, too little to be shown on the rows available. So the burden of proof is reversed: a refresh wins unless
    it is worse beyond chance, by its accuracy or its Brier score.

    Args:
        truth: True labels, shape (n,).
        champion: Predictions of the champion.
        challenger: Predictions of the challenger.
        confidence: Two-sided level of both percentile intervals.
        seed: Seed of the resampling.
        weights: Weight of each label, shape (n,). `None` weighs all labels alike.
        refresh: True if the challenger is a refresh.

    Raises:
        ValueError: There are no events, the parts differ in length, or a weight is negative or all are zero.
    """
    rows = Slice(truth, champion, challenger, weights=weights)
    old, new = correct(truth, champion), correct(truth, challenger)
    low, high = bootstrap_interval(new - old, confidence, seed, weights)
    gained = brier(truth, champion) - brier(truth, challenger)
    brier_low, brier_high = bootstrap_interval(gained, confidence, seed, weights)
    was, now, brier_gain = (float(np.average(values, weights=rows.row_weights)) for values in (old, new, gained))
    difference = float(np.average(new - old, weights=rows.row_weights))
    better = low > 0 or (difference >= 0 and brier_low > 0)
    decision = "better" if better else "not better beyond chance"
    if better and not low > 0:
        decision = f"better by a Brier score of {-brier_gain:+.3f}"
    if refresh and not better:
        better = high >= 0 and brier_high >= 0
        decision = "a refresh, not worse beyond chance" if better else "a refresh, worse beyond chance"
    return Verdict(
        better=better,
        reason=f"{decision}: accuracy {now:.3f} against {was:.3f} on the newest {len(truth)} events",
        champion_accuracy=was,
        challenger_accuracy=now,
        low=low,
        high=high,
        brier_low=brier_low,
        brier_high=brier_high,
        rows=len(truth),
        brier_gain=brier_gain,
        refresh=refresh,
    )


def _reason(verdict: Verdict, checks: Sequence[Check]) -> str:
    """Return the decision as one sentence; the checks themselves have the details."""
    failed = [check for check in checks if not check.passed]
    excused = [check.name for check in checks if check.excused]
    if failed and not verdict.better:
        return f"{verdict.reason}, and {_count(len(failed), 'guard')} failed"
    if len(failed) > 1:
        return f"refused by {len(failed)} guards: {', '.join(check.name for check in failed)}"
    if failed:
        return f"refused by a guard: {failed[0].name}, {failed[0].words}"
    return f"{verdict.reason}, {' and '.join(excused)} excused" if excused else verdict.reason


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
