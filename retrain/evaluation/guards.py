"""Guardrails of a promotion: small named checks that a challenger must pass although it is better on the whole.

Where a check speaks of harm it means two things at once: the loss that was seen is larger than the limit, and a loss
as such is beyond chance, that is, two equal models would show one like it in at most ``alpha`` of all cases (paired
randomisation test, see `retrain.evaluation.paired_slice.chance_of_fall`). The p-values of all classes or segments of one check are
adjusted by Holm's method, so each check refuses an equal challenger in at most ``alpha`` of all cases, however many
classes and segments there are. Row weights count in every figure.
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
"""Milliseconds per event under which a ratio of two latencies says nothing: there it is mostly the clock's noise."""


@dataclass(frozen=True)
class Check:
    """What one guard found."""

    name: str
    passed: bool
    words: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    excused: bool = False
    """Passed in spite of a loss, for a reason that the words give."""


@dataclass(frozen=True)
class SignificanceLevel:
    """When a loss counts as more than chance."""

    min_rows: int = 20
    """Rows in effect of a class, segment or slice below which nothing is said about it."""
    alpha: float = 0.05
    seed: int = 7


@dataclass(frozen=True)
class Latency:
    """Milliseconds per event of both models, measured on the same texts and machine."""

    champion_ms: float
    challenger_ms: float


@dataclass(frozen=True)
class GroupAccuracy:
    """Both models' accuracy on the rows of one segment, or of one true class (there it is the class's recall)."""

    name: str
    rows: int
    champion: float
    challenger: float
    chance: float
    """Chance of a loss like this between equal models, adjusted for all groups; 1 where there are too few rows."""
    told: bool
    """Whether there are enough rows to tell."""


def minimum_gain(newest: Slice, limit: float) -> Check:
    """The gain in accuracy is ``limit`` or more; that it is beyond chance is `retrain.evaluation.gate.compare`'s to say."""
    old, new = newest.correctness()
    gain = float(np.average(new - old, weights=newest.row_weights))
    passed = gain >= limit - 1e-9
    said = "reaches" if passed else "is below"
    return Check("minimum gain", passed, f"a gain of {gain:+.3f} {said} the minimum of {limit:.3f}", {"gain": gain})


def class_recall(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """No class's recall falls by more than ``limit`` beyond chance.

    A loss of recall is harm only where the class's F1 and its informedness fall beyond chance too: a champion that says
    one class always has a recall of 1 for it, and a challenger that tells the classes apart must lose some of that.
    """
    groups = compare_groups(newest, newest.truth, level)
    losers = [group for group in groups if _harmed(group, limit, level.alpha)]
    harmed = [group for group in losers if _tells_less(newest, group.name, level)]
    return _judged("class recall", "recall", groups, harmed, limit)


def segment_accuracy(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """No segment's accuracy falls by more than ``limit`` beyond chance, whatever the whole gains (fairness)."""
    groups = compare_groups(newest, newest.segments, level)
    return _judged("segment accuracy", "accuracy", groups, [g for g in groups if _harmed(g, limit, level.alpha)], limit)


def overconfidence(newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """The challenger is not more overconfident than the champion by more than ``limit`` beyond chance.

    Overconfidence is the mean probability of the answers given minus the share of them that are right, zero if
    negative: calibration in the large (Van Calster et al., 2019). It is one mean, with an error of about 0.09 on 30
    rows and 0.02 on 600; a binned calibration error on 30 rows shows the noise of its bins (Kumar et al., 2019,
    "Verified uncertainty calibration"). What it misses, errors of opposite sign that cancel, is in the Brier score that
    the comparison looks at. Underconfidence is no harm here: a head fitted to the few rows after a drift is modest.
    """
    old, new = newest.correctness()
    before = newest.champion.probabilities.max(axis=1) - old
    after = newest.challenger.probabilities.max(axis=1) - new
    weights = newest.row_weights
    was, now = (max(float(np.average(values, weights=weights)), 0.0) for values in (before, after))
    chance = float(fall_p_values(((before - after) * weights)[:, None], level.seed)[0])
    passed = now - was <= limit or chance > level.alpha
    words = f"overconfidence {now:.3f} against {was:.3f}"
    return Check(
        "calibration",
        passed,
        words if passed else f"{words}: a rise of more than {limit:.3f}",
        {"champion": was, "challenger": now, "chance": chance},
    )


def latency(measured: Latency, budget_ms: float, factor: float) -> Check:
    """The challenger answers within ``budget_ms`` per event and within ``factor`` times the champion's time.

    Under a millisecond the factor is not asked for.
    """
    champion_ms, challenger_ms = measured.champion_ms, measured.challenger_ms
    words = f"{challenger_ms:.2f} ms per event against {champion_ms:.2f}"
    numbers = {"champion_ms": champion_ms, "challenger_ms": challenger_ms}
    if not challenger_ms <= budget_ms:
        return Check("latency", False, f"{words}: over the budget of {budget_ms:g} ms", numbers)
    if challenger_ms > max(factor * champion_ms, NEGLIGIBLE_MS):
        return Check("latency", False, f"{words}: over {factor:g} times the champion's", numbers)
    return Check("latency", True, words, numbers)


def regression_set(rows: Slice, limit: float) -> Check:
    """The accuracy on a frozen set of the user's own rows falls by no more than ``limit``.

    The rows are chosen, not sampled: what is lost there is lost, and chance is no excuse.
    """
    old, new = (float(np.average(values, weights=rows.row_weights)) for values in rows.correctness())
    passed = old - new <= limit + 1e-9
    words = f"{new:.3f} against {old:.3f} on {len(rows)} frozen rows"
    numbers = {"champion": old, "challenger": new, "rows": float(len(rows))}
    return Check("regression set", passed, words if passed else f"{words}: a fall of more than {limit:.3f}", numbers)


def forgetting(before: Slice, newest: Slice, limit: float, level: SignificanceLevel) -> Check:
    """On a slice from before the drift the challenger loses no more than ``limit`` beyond chance.

    Unless the champion itself is worse on the newest events than on that slice beyond chance: then what it knew no
    longer holds, and forgetting is what is wanted. So it is after an abrupt shift and after labels were swapped; after
    a false alarm the champion is as good as ever, and the guard stands. A slice that one liar poisoned looks like
    swapped labels; therefore at least half of the champion's fall must be left without any single annotator's labels.
    Where all labels come from one source, a wrong labelling and a changed meaning cannot be told apart, and the words
    say so.

    Neither model may have been trained on ``before``: the champion would look worse afterwards than it became.
    """
    old, new = before.correctness()
    weights = before.row_weights
    was, now = float(np.average(old, weights=weights)), float(np.average(new, weights=weights))
    chance = float(fall_p_values(((new - old) * weights)[:, None], level.seed)[0])
    words = f"{now:.3f} against {was:.3f} on {len(before)} events from before the drift"
    numbers = {"champion": was, "challenger": now, "chance": chance, "rows": float(len(before))}
    name = "forgetting"
    if effective_sample_size(weights) < level.min_rows:
        return Check(name, True, f"{words}: too few to tell", numbers)
    if was - now <= limit or chance > level.alpha:
        return Check(name, True, words, numbers)
    answered = newest.correctness()[0]
    fallen = float(np.average(answered, weights=newest.row_weights))
    numbers["champion_newest"] = fallen
    if not _fell(old, weights, answered, newest.row_weights, level):
        words += f", and the champion ({fallen:.3f} on the newest) has not become worse beyond chance"
        return Check(name, False, words, numbers)
    rest = list(_without_each(newest, level.min_rows))
    for annotator, kept in rest:
        if was - float(np.average(answered[kept], weights=newest.row_weights[kept])) < (was - fallen) / 2:
            words += f", and the champion's fall to {fallen:.3f} on the newest is mostly in the labels of {annotator!r}"
            return Check(name, False, words, numbers)
    words += f": excused, since the champion fell to {fallen:.3f} on the newest, so what it knew no longer holds"
    words += "" if rest else " (or the labels are wrong: there is no second annotator to tell)"
    return Check(name, True, words, numbers, excused=True)


def no_single_annotator(newest: Slice, min_rows: int) -> Check:
    """The gain does not hang on one annotator: without any one of them the challenger is still not worse.

    It counts as worse where both its accuracy and its Brier score are. An annotator without whom fewer than
    ``min_rows`` rows remain cannot be checked.
    """
    old, new = newest.correctness()
    better = brier(newest.truth, newest.champion) - brier(newest.truth, newest.challenger)
    gains = {}
    for annotator, kept in _without_each(newest, min_rows):
        weights = newest.row_weights[kept]
        gain = float(np.average((new - old)[kept], weights=weights))
        gains[annotator] = gain
        if gain < 0 and np.average(better[kept], weights=weights) < 0:
            words = f"without the labels of {annotator!r} the challenger is worse ({gain:+.3f})"
            return Check("annotators", False, words, {"gain_without": gain})
    if not gains:
        return Check("annotators", True, "too few annotators to tell")
    least = min(gains.values())
    return Check("annotators", True, f"{least:+.3f} or more without any one annotator", {"gain_without": least})


def compare_groups(rows: Slice, names: Sequence[str], level: SignificanceLevel) -> list[GroupAccuracy]:
    """Both models' accuracy by group; ``names`` has shape (n,), or is empty where nothing is known of the rows.

    Raises:
        ValueError: there are neither none nor as many names as rows.
    """
    if len(names) not in (0, len(rows)):
        raise ValueError(f"{len(names)} names for {len(rows)} rows")
    old, new = rows.correctness()
    masks = [(name, mask) for name, mask in rows.groups(names) if rows.row_weights[mask].any()]
    told = [effective_sample_size(rows.row_weights[mask]) >= level.min_rows - 1e-9 for _, mask in masks]
    chances = np.ones(len(masks))
    if any(told):
        columns = np.stack([(new - old) * rows.row_weights * mask for _, mask in masks], axis=1)
        chances[told] = holm_adjusted(fall_p_values(columns[:, told], level.seed))
    return [
        GroupAccuracy(
            name,
            int(mask.sum()),
            float(np.average(old[mask], weights=rows.row_weights[mask])),
            float(np.average(new[mask], weights=rows.row_weights[mask])),
            float(chance),
            enough,
        )
        for (name, mask), chance, enough in zip(masks, chances, told, strict=True)
    ]


def _judged(name: str, measure: str, groups: list[GroupAccuracy], harmed: list[GroupAccuracy], limit: float) -> Check:
    """A check over groups in words: the harmed ones, or the one that loses most."""
    numbers = {f"{group.name}": group.challenger - group.champion for group in groups if group.told}
    if harmed:
        worst = ", ".join(f"{group.name!r} from {group.champion:.3f} to {group.challenger:.3f}" for group in harmed)
        return Check(name, False, f"{measure} falls by more than {limit:.3f}: {worst}", numbers)
    if not numbers:
        return Check(name, True, "too few to tell", numbers)
    least = min(numbers, key=lambda group: numbers[group])
    few = len(groups) - len(numbers)
    rest = f", too few to tell for {few}" if few else ""
    return Check(name, True, f"no {measure} harmed, least {numbers[least]:+.3f} for {least!r}{rest}", numbers)


def _harmed(group: GroupAccuracy, limit: float, alpha: float) -> bool:
    return group.champion - group.challenger > limit + 1e-9 and group.chance <= alpha


def _tells_less(rows: Slice, name: str, level: SignificanceLevel) -> bool:
    """Whether the class's F1 and its informedness both fall beyond chance: paired bootstrap of all rows.

    Informedness is recall minus the share of other rows called so (Youden, 1950). To say a class always has none, but
    an F1 of 2p / (1 + p) at a share p of the rows, which is much for a frequent class.
    """
    true = np.asarray(rows.truth, dtype=object) == name
    old, new = (np.asarray(model.labels, dtype=object) == name for model in (rows.champion, rows.challenger))
    columns = np.stack([true, ~true, old, new, true & old, true & new], axis=1) * rows.row_weights[:, None]
    sums = np.maximum(resampled_sums(columns, level.seed), 1e-12)
    is_true, is_other, said_old, said_new, hit_old, hit_new = sums.T
    f1 = hit_new / (is_true + said_new) - hit_old / (is_true + said_old)
    informed = (hit_new - hit_old) / is_true - ((said_new - hit_new) - (said_old - hit_old)) / is_other
    return bool(min((f1 < 0).mean(), (informed < 0).mean()) >= 1 - level.alpha)


def _fell(was: Values, was_weights: Values, now: Values, now_weights: Values, level: SignificanceLevel) -> bool:
    """Whether accuracy on other rows is lower beyond chance: two bootstraps, since the rows are not paired."""
    first = resampled_means(was, level.seed, was_weights)
    second = resampled_means(now, level.seed + 1, now_weights)
    return float((second >= first).mean()) <= level.alpha


def _without_each(rows: Slice, min_rows: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each annotator with the mask of the rows that the others labelled, where there are enough of them.

    Others whose labels count less than half of the annotator's own cannot speak against him.
    """
    weights = rows.row_weights
    for annotator, mask in rows.groups(rows.annotators):
        enough = effective_sample_size(weights[~mask]) >= min_rows - 1e-9
        if enough and weights[~mask].mean() >= weights[mask].mean() / 2:
            yield annotator, ~mask
