"""The gate: a challenger replaces the champion only where it is better beyond chance, on events neither has seen."""

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
    """The comparison of a challenger with the champion on n held-out events."""

    better: bool
    """Better beyond chance, and no guard against it."""
    reason: str
    """One line for people, the decision first."""
    champion_accuracy: float
    challenger_accuracy: float
    low: float
    high: float
    """Bounds of the bootstrap interval of the difference in accuracy, challenger minus champion."""
    brier_low: float
    brier_high: float
    """Bounds of the bootstrap interval of how much lower the challenger's Brier score is."""
    rows: int
    checks: tuple[Check, ...] = ()
    """What each guard found; none where the two models were only compared."""
    segments: tuple[GroupAccuracy, ...] = ()
    """Both models' accuracy by segment: the fairness report."""
    classes: tuple[GroupAccuracy, ...] = ()
    """Both models' recall by true class."""

    def as_json(self) -> dict[str, Any]:
        """Plain data for MLflow and the topic `retraining`, figures rounded to four places."""
        plain: dict[str, Any] = _rounded(msgspec.to_builtins(self))
        return plain


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
    """Compare two models' answers to the same n events by a paired bootstrap (Efron and Tibshirani, 1993).

    The challenger wins when the interval of its gain in accuracy lies above zero, or when it is at least as accurate
    and the interval of its gain in Brier score (Brier, 1950) does: on the few dozen events after a drift, right and
    wrong alone seldom tell two models apart. ``confidence`` is the two-sided level of both percentile intervals.
    ``weights`` of shape (n,) say how much each label counts, all alike by default.

    A ``refresh`` is the champion's own recipe fitted on more of the same concept. More data is expected to help by a
    little each time, too little to be shown on the rows there are, so the burden of proof is the champion's: it is
    replaced unless the refresh is worse beyond chance, by its accuracy or its Brier score.

    Raises:
        ValueError: the truth is empty, the answers or weights are not as many, or a weight is negative or all are zero.
    """
    rows = Slice(truth, champion, challenger, weights=weights)
    old, new = correct(truth, champion), correct(truth, challenger)
    low, high = bootstrap_interval(new - old, confidence, seed, weights)
    gained = brier(truth, champion) - brier(truth, challenger)
    brier_low, brier_high = bootstrap_interval(gained, confidence, seed, weights)
    was, now, brier_gain = (float(np.average(values, weights=rows.row_weights)) for values in (old, new, gained))
    difference = float(np.average(new - old, weights=rows.row_weights))
    better = low > 0 or (difference >= 0 and brier_low > 0)
    said = "better" if better else "not better beyond chance"
    if refresh and not better:
        better = high >= 0 and brier_high >= 0
        said = "a refresh, and not worse beyond chance" if better else "a refresh, and worse beyond chance"
    return Verdict(
        better=better,
        reason=(
            f"{said}: {now:.3f} against {was:.3f} on the newest {len(truth)} events, "
            f"accuracy {difference:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"Brier score {-brier_gain:+.3f} [{-brier_high:+.3f}, {-brier_low:+.3f}]"
        ),
        champion_accuracy=was,
        challenger_accuracy=now,
        low=low,
        high=high,
        brier_low=brier_low,
        brier_high=brier_high,
        rows=len(truth),
    )


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
    """Decide on a promotion: `compare` on the newest slice, then every guard of `retrain.evaluation.guards` that has its rows.

    ``before`` is a slice from before the drift, ``regression`` the user's frozen rows; what is not given is not
    checked. Every guard that speaks of chance refuses an equal challenger in at most (1 - ``confidence``) / 2 of all
    cases, the chance that `compare` has of letting one through by its accuracy.
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


def _reason(verdict: Verdict, checks: Sequence[Check]) -> str:
    against = "; ".join(f"{check.name}: {check.words}" for check in checks if not check.passed)
    if not against:
        excused = "".join(f"; {check.name}: {check.words}" for check in checks if check.excused)
        return verdict.reason + excused
    if not verdict.better:
        return f"{verdict.reason}; besides, {against}"
    return f"refused by a guard: {against}; though {verdict.reason}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
