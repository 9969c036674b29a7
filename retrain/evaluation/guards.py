"""Guards of a promotion: named checks that a challenger must pass although it is better overall.

A check that tests for harm demands two things: the observed loss is larger than the limit, and a loss is beyond chance.
Beyond chance means that two equal models would show such a loss in at most ``alpha`` of all cases, by the paired
randomisation test `retrain.evaluation.paired_slice.fall_p_values`. The p-values of all classes or segments of one check
are adjusted by Holm's method. So each check refuses an equal challenger in at most ``alpha`` of all cases, for any
number of classes and segments. Row weights count in every figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retrain.evaluation.paired_slice import (
    Slice,
    Values,
    brier,
    effective_sample_size,
    fall_p_values,
    holm_adjusted,
    resampled_means,
    resampled_sums,
)

NEGLIGIBLE_MS = 1.0
"""Milliseconds per event below which the ratio of two latencies is mostly noise of the clock."""


@dataclass(frozen=True)
class Check:
    """Finding of one guard."""

    name: str
    passed: bool
    words: str
    """The finding as one short sentence; the other fields have the figures."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Figures by name. For classes and segments, the change of each: challenger minus champion."""
    excused: bool = False
    """Passed despite a loss, for the reason in the words."""
    limit: float | None = None
    """Limit of the loss or of the latency, or the minimum gain. `None` if the guard has none."""
    named: tuple[str, ...] = ()
    """Classes, segments or annotators that made the check fail."""


@dataclass(frozen=True)
class SignificanceLevel:
    """Level at which a loss counts as beyond chance."""

    min_rows: int = 20
    """Effective sample size of a class, segment or slice below which it is not tested."""
    alpha: float = 0.05
    seed: int = 7


@dataclass(frozen=True)
class Latency:
    """Milliseconds per event of both models, measured on the same texts and machine."""

    champion_ms: float
    challenger_ms: float


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy of both models on one segment, or their recall of one true class."""

    name: str
    rows: int
    champion: float
    challenger: float
    chance: float
    """p-value of the loss, adjusted for all groups; 1 with too few rows."""
    told: bool
    """True if there are enough rows for a test."""


def minimum_gain(newest: Slice, limit: float) -> Check:
    """Check that the gain in accuracy reaches the minimum; `retrain.evaluation.gate.compare` tests it for chance.

    Args:
        newest: Newest labelled events.
        limit: Minimum gain in accuracy.
    """
    old, new = newest.correctness()
    gain = float(np.average(new - old, weights=newest.row_weights))
    passed = gain >= limit - 1e-9
    relation = "reaches" if passed else "is below"
    words = f"a gain of {gain:+.3f} {relation} the minimum of {limit:.3f}"
    return Check("minimum gain", passed, words, {"gain": gain}, limit=limit)


def class_recall(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """Check that no class's recall falls by more than the limit beyond chance.

    A loss of recall is harm only if the class's F1 and its informedness fall beyond chance too. A champion that
    predicts one class always has a recall of 1 for it. A challenger that separates the classes must lose some of that.

    Args:
        newest: Newest labelled events.
        limit: Largest loss of recall.
        level: Level at which a loss counts as beyond chance.
    """
    groups = compare_groups(newest, newest.truth, level)
    losers = [group for group in groups if _is_harmed(group, limit, level.alpha)]
    harmed = [group for group in losers if _separates_less(newest, group.name, level)]
    return _group_check("class recall", "recall", groups, harmed, limit)


def segment_accuracy(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """Check that no segment's accuracy falls by more than the limit beyond chance (fairness).

    Args:
        newest: Newest labelled events with their segments.
        limit: Largest loss of accuracy.
        level: Level at which a loss counts as beyond chance.
    """
    groups = compare_groups(newest, newest.segments, level)
    harmed = [group for group in groups if _is_harmed(group, limit, level.alpha)]
    return _group_check("segment accuracy", "accuracy", groups, harmed, limit)


def overconfidence(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """Check that the challenger's overconfidence exceeds the champion's by no more than the limit beyond chance.

    Overconfidence is the mean probability of the predicted labels minus the accuracy, zero if negative: calibration in
    the large (Van Calster et al., 2019). It is one mean, with an error of about 0.09 on 30 rows and 0.02 on 600. A
    binned calibration error on 30 rows shows the noise of its bins (Kumar et al., 2019, "Verified uncertainty
    calibration"). Errors of opposite sign cancel here; the Brier score in the comparison sees them. Underconfidence is
    no harm: a head fitted to the few rows after a drift is underconfident.

    Args:
        newest: Newest labelled events.
        limit: Largest rise of overconfidence.
        level: Level at which a rise counts as beyond chance.
    """
    old, new = newest.correctness()
    before = newest.champion.probabilities.max(axis=1) - old
    after = newest.challenger.probabilities.max(axis=1) - new
    weights = newest.row_weights
    was, now = (max(float(np.average(values, weights=weights)), 0.0) for values in (before, after))
    chance = float(fall_p_values(((before - after) * weights)[:, None], level.seed)[0])
    passed = now - was <= limit or chance > level.alpha
    words = f"overconfidence {now:.3f} against {was:.3f}"
    if not passed:
        words += f", a rise of more than {limit:.3f}"
    return Check("calibration", passed, words, {"champion": was, "challenger": now, "chance": chance}, limit=limit)


def latency(measured: Latency, budget_ms: float, factor: float) -> Check:
    """Check that the challenger answers within a time budget, and not much more slowly than the champion.

    Below `NEGLIGIBLE_MS` the factor is not checked.

    Args:
        measured: Latency of both models.
        budget_ms: Largest number of milliseconds per event.
        factor: Largest ratio to the champion's latency.
    """
    champion_ms, challenger_ms = measured.champion_ms, measured.challenger_ms
    words = f"{challenger_ms:.2f} ms per event against {champion_ms:.2f}"
    passed = True
    if not challenger_ms <= budget_ms:
        passed, words = False, f"{words}, over the budget of {budget_ms:g} ms"
    elif challenger_ms > max(factor * champion_ms, NEGLIGIBLE_MS):
        passed, words = False, f"{words}, more than {factor:g} times the champion's"
    numbers = {"champion_ms": champion_ms, "challenger_ms": challenger_ms, "factor": factor}
    return Check("latency", passed, words, numbers, limit=budget_ms)


def regression_set(rows: Slice, limit: float) -> Check:
    """Check that the accuracy on the user's frozen rows falls by no more than the limit.

    The rows are chosen, not sampled. So there is no test for chance.

    Args:
        rows: Frozen rows.
        limit: Largest loss of accuracy.
    """
    old, new = (float(np.average(values, weights=rows.row_weights)) for values in rows.correctness())
    passed = old - new <= limit + 1e-9
    words = f"accuracy {new:.3f} against {old:.3f} on {len(rows)} frozen rows"
    if not passed:
        words += f", a fall of more than {limit:.3f}"
    numbers = {"champion": old, "challenger": new, "rows": float(len(rows))}
    return Check("regression set", passed, words, numbers, limit=limit)


def forgetting(before: Slice, newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """Check that the challenger loses no more than the limit beyond chance on events from before the drift.

    A loss is excused if the champion itself is worse on the newest events than on the older ones, beyond chance. Then
    its knowledge no longer holds, and forgetting is wanted: after an abrupt shift, or after labels were swapped. After
    a false alarm the champion is as good as before, and the loss is not excused.

    A slice poisoned by one annotator looks like swapped labels. So at least half of the champion's fall must remain
    without the labels of any single annotator. With one source of labels, wrong labels and a changed meaning cannot be
    told apart; the words then mention the missing second annotator.

    Args:
        before: Events from before the drift that neither model learnt. A model that learnt them would look too good.
        newest: Newest labelled events.
        limit: Largest loss of accuracy.
        level: Level at which a loss counts as beyond chance.
    """
    old, new = before.correctness()
    weights = before.row_weights
    was, now = float(np.average(old, weights=weights)), float(np.average(new, weights=weights))
    chance = float(fall_p_values(((new - old) * weights)[:, None], level.seed)[0])
    words = f"accuracy {now:.3f} against {was:.3f} on {len(before)} events from before the drift"
    numbers = {"champion": was, "challenger": now, "chance": chance, "rows": float(len(before))}
    name = "forgetting"
    if effective_sample_size(weights) < level.min_rows:
        return Check(name, True, f"{words}, too few to tell", numbers, limit=limit)
    if was - now <= limit or chance > level.alpha:
        return Check(name, True, words, numbers, limit=limit)
    champion_newest = newest.correctness()[0]
    fallen = float(np.average(champion_newest, weights=newest.row_weights))
    numbers["champion_newest"] = fallen
    if not _accuracy_fell(old, weights, champion_newest, newest.row_weights, level):
        words = f"accuracy on older events falls from {was:.3f} to {now:.3f}, but the champion has not become worse"
        return Check(name, False, words, numbers, limit=limit)
    without_one = list(_without_each_annotator(newest, level.min_rows))
    numbers["annotators"] = float(len(without_one))
    for annotator, kept in without_one:
        if was - float(np.average(champion_newest[kept], weights=newest.row_weights[kept])) < (was - fallen) / 2:
            words = f"the champion's fall to {fallen:.3f} on the newest events is mostly in the labels of {annotator!r}"
            return Check(name, False, words, numbers, limit=limit, named=(annotator,))
    words = f"the champion fell to {fallen:.3f} on the newest events, so what it knew no longer holds"
    words += "" if without_one else " (no second annotator confirms the labels)"
    return Check(name, True, words, numbers, excused=True, limit=limit)


def no_single_annotator(newest: Slice, min_rows: int) -> Check:
    """Check that without any one annotator's labels the challenger is still not worse.

    It counts as worse if both its accuracy and its Brier score are. An annotator is not checked if fewer than
    ``min_rows`` rows remain.

    Args:
        newest: Newest labelled events with their annotators.
        min_rows: Smallest effective sample size of the remaining rows.
    """
    old, new = newest.correctness()
    better = brier(newest.truth, newest.champion) - brier(newest.truth, newest.challenger)
    gains = {}
    for annotator, kept in _without_each_annotator(newest, min_rows):
        weights = newest.row_weights[kept]
        gain = float(np.average((new - old)[kept], weights=weights))
        gains[annotator] = gain
        if gain < 0 and np.average(better[kept], weights=weights) < 0:
            words = f"without the labels of {annotator!r} the challenger is worse ({gain:+.3f})"
            return Check("annotators", False, words, {"gain_without": gain}, named=(annotator,))
    if not gains:
        return Check("annotators", True, "too few annotators to tell")
    least = min(gains.values())
    return Check("annotators", True, f"a gain of {least:+.3f} or more without any one", {"gain_without": least})


def compare_groups(rows: Slice, names: Sequence[str], level: SignificanceLevel) -> list[GroupAccuracy]:
    """Return both models' accuracy by group, sorted by name.

    Args:
        rows: Labelled events.
        names: Group of each row, shape (n,); empty if none is known.
        level: Level at which a loss counts as beyond chance.

    Raises:
        ValueError: There are names, but not one for each row.
    """
    if len(names) not in (0, len(rows)):
        raise ValueError(f"{len(names)} names for {len(rows)} rows")
    old, new = rows.correctness()
    masks = [(name, mask) for name, mask in rows.groups(names) if rows.row_weights[mask].any()]
    testable = [effective_sample_size(rows.row_weights[mask]) >= level.min_rows - 1e-9 for _, mask in masks]
    chances = np.ones(len(masks))
    if any(testable):
        columns = np.stack([(new - old) * rows.row_weights * mask for _, mask in masks], axis=1)
        chances[testable] = holm_adjusted(fall_p_values(columns[:, testable], level.seed))
    return [
        GroupAccuracy(
            name,
            int(mask.sum()),
            float(np.average(old[mask], weights=rows.row_weights[mask])),
            float(np.average(new[mask], weights=rows.row_weights[mask])),
            float(chance),
            enough,
        )
        for (name, mask), chance, enough in zip(masks, chances, testable, strict=True)
    ]


def _group_check(
    name: str, measure: str, groups: list[GroupAccuracy], harmed: list[GroupAccuracy], limit: float
) -> Check:
    """Return the check over groups: its words name the harmed group, or the one that loses most."""
    numbers = {group.name: group.challenger - group.champion for group in groups if group.told}
    if harmed:
        worst = max(harmed, key=lambda group: group.champion - group.challenger)
        words = f"{measure} of {worst.name!r} falls from {worst.champion:.3f} to {worst.challenger:.3f}"
        if len(harmed) > 1:
            words += f", and that of {len(harmed) - 1} more by over {limit:.3f}"
        return Check(name, False, words, numbers, limit=limit, named=tuple(group.name for group in harmed))
    if not numbers:
        return Check(name, True, "too few to tell", numbers, limit=limit)
    least = min(numbers, key=lambda group: numbers[group])
    few = len(groups) - len(numbers)
    rest = f", too few to tell for {few}" if few else ""
    words = f"least change of {measure} {numbers[least]:+.3f} for {least!r}{rest}"
    return Check(name, True, words, numbers, limit=limit)


def _is_harmed(group: GroupAccuracy, limit: float, alpha: float) -> bool:
    return group.champion - group.challenger > limit + 1e-9 and group.chance <= alpha


def _separates_less(rows: Slice, name: str, level: SignificanceLevel) -> bool:
    """Return True if the class's F1 and its informedness both fall beyond chance, by a paired bootstrap of all rows.

    Informedness is recall minus the share of other rows with this prediction (Youden, 1950). It is 0 for a model that
    always predicts the class. Such a model has an F1 of 2p / (1 + p) at a share p of the rows, which is high for a
    frequent class.
    """
    true = np.asarray(rows.truth, dtype=object) == name
    old, new = (np.asarray(model.labels, dtype=object) == name for model in (rows.champion, rows.challenger))
    columns = np.stack([true, ~true, old, new, true & old, true & new], axis=1) * rows.row_weights[:, None]
    sums = np.maximum(resampled_sums(columns, level.seed), 1e-12)
    is_true, is_other, predicted_old, predicted_new, hit_old, hit_new = sums.T
    f1 = hit_new / (is_true + predicted_new) - hit_old / (is_true + predicted_old)
    informedness = (hit_new - hit_old) / is_true - ((predicted_new - hit_new) - (predicted_old - hit_old)) / is_other
    return bool(min((f1 < 0).mean(), (informedness < 0).mean()) >= 1 - level.alpha)


def _accuracy_fell(
    was: Values, was_weights: Values, now: Values, now_weights: Values, level: SignificanceLevel
) -> bool:
    """Return True if the accuracy on other rows is lower beyond chance; two bootstraps, since they are not paired."""
    first = resampled_means(was, level.seed, was_weights)
    second = resampled_means(now, level.seed + 1, now_weights)
    return float((second >= first).mean()) <= level.alpha


def _without_each_annotator(rows: Slice, min_rows: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each annotator with the mask of the rows that the others labelled, if these are enough.

    The others must weigh at least half as much per row as the annotator; otherwise they cannot outvote their peer.
    """
    weights = rows.row_weights
    for annotator, mask in rows.groups(rows.annotators):
        enough = effective_sample_size(weights[~mask]) >= min_rows - 1e-9
        if enough and weights[~mask].mean() >= weights[mask].mean() / 2:
            yield annotator, ~mask
