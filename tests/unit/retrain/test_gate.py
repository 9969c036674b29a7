"""Gate: better beyond chance, or not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from driftloop.core.models.classifier import Predictions
from retrain.evaluation.gate import GateLimits, compare, judge
from retrain.evaluation.guards import Latency
from retrain.evaluation.paired_slice import Slice


def said(labels: Sequence[str], sure: float = 0.7) -> Predictions:
    """Return predictions of these labels, each with the probability ``sure``, out of `right` and `wrong`."""
    rows = [[sure, 1 - sure] if label == "right" else [1 - sure, sure] for label in labels]
    probabilities = np.array(rows, dtype=np.float32).reshape(-1, 2)
    return Predictions(("right", "wrong"), probabilities, np.zeros((len(labels), 1), dtype=np.float32), "test", 0.0)


def answers(seed: int, n: int, accuracy: float) -> Predictions:
    rng = random.Random(seed)
    return said(["right" if rng.random() < accuracy else "wrong" for _ in range(n)])


def test_a_clearly_better_challenger_wins() -> None:
    verdict = compare(["right"] * 200, answers(1, 200, 0.4), answers(2, 200, 0.7))
    assert verdict.better and verdict.low > 0
    assert verdict.challenger_accuracy - verdict.champion_accuracy > 0.2
    assert verdict.low < verdict.challenger_accuracy - verdict.champion_accuracy < verdict.high


def test_the_same_answers_never_win() -> None:
    same = answers(3, 100, 0.5)
    verdict = compare(["right"] * 100, same, same)
    assert not verdict.better
    assert (verdict.low, verdict.high, verdict.brier_low, verdict.brier_high) == (0.0, 0.0, 0.0, 0.0)


def test_small_difference_needs_many_events_to_win() -> None:
    old, new = ["right"] * 5 + ["wrong"] * 5, ["right"] * 6 + ["wrong"] * 4
    assert not compare(["right"] * 10, said(old), said(new)).better
    assert compare(["right"] * 1000, said(old * 100), said(new * 100)).better


def test_better_probabilities_win_when_accuracy_is_equal() -> None:
    labels = ["right"] * 24 + ["wrong"] * 6
    truth = ["right"] * 30
    assert compare(truth, said(labels, 0.55), said(labels, 0.7)).better
    assert not compare(truth, said(labels, 0.7), said(labels, 0.55)).better


def test_better_probabilities_do_not_excuse_a_lower_accuracy() -> None:
    truth = ["right"] * 100
    careful = said(["right"] * 80 + ["wrong"] * 20, 0.51)
    bold = said(["right"] * 79 + ["wrong"] * 21, 0.8)
    verdict = compare(truth, careful, bold)
    assert verdict.brier_low > 0 and not verdict.better


def test_class_missing_from_model_counts_as_wrong() -> None:
    blind = Predictions(
        ("right",), np.ones((40, 1), dtype=np.float32), np.zeros((40, 1), dtype=np.float32), "test", 0.0
    )
    seeing = said(["wrong"] * 40)
    verdict = compare(["wrong"] * 40, blind, seeing)
    assert verdict.better and verdict.champion_accuracy == 0.0


def test_challengers_that_are_no_better_are_rarely_promoted() -> None:
    wins = sum(
        compare(["right"] * 100, answers(2 * i, 100, 0.6), answers(2 * i + 1, 100, 0.6)).better for i in range(200)
    )
    # A two-sided 90% interval lets one in twenty through; 200 draws of that stay under 20 with probability 0.999.
    assert wins < 20


@pytest.mark.parametrize(("truth", "old", "new"), [([], [], []), (["a"], ["a"], []), (["a", "b"], ["a"], ["a"])])
def test_unequal_or_empty_answers_are_refused(truth: list[str], old: list[str], new: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(truth, said(old), said(new))


def rows(old: Sequence[str], new: Sequence[str], **more: object) -> Slice:
    """Return events whose label is `right` for the first half and `wrong` for the other."""
    half = len(old) // 2
    truth = ["right"] * half + ["wrong"] * (len(old) - half)
    return Slice(truth, said(old), said(new), **more)  # type: ignore[arg-type]


def mostly(seed: int, n: int, accuracy: float) -> list[str]:
    rng = random.Random(seed)
    half = n // 2
    swap = {"right": "wrong", "wrong": "right"}
    return [t if rng.random() < accuracy else swap[t] for t in ["right"] * half + ["wrong"] * (n - half)]


def test_label_weights_change_the_verdict() -> None:
    """Equal weights leave the interval as it is."""
    truth = ["right"] * 100
    old, new = said(["right"] * 50 + ["wrong"] * 50), said(["wrong"] * 30 + ["right"] * 70)
    assert compare(truth, old, new).better
    doubtful = np.array([1.0] * 50 + [0.1] * 50)
    verdict = compare(truth, old, new, weights=doubtful)
    assert not verdict.better and verdict.challenger_accuracy < verdict.champion_accuracy
    even = compare(truth, old, new, weights=np.full(100, 0.3))
    assert (even.low, even.high) == pytest.approx((compare(truth, old, new).low, compare(truth, old, new).high))


def test_harmless_better_challenger_passes_every_guard() -> None:
    newest = rows(
        mostly(1, 200, 0.6),
        mostly(2, 200, 0.85),
        segments=["x", "y"] * 100,
        annotators=["p", "q", "r", "s"] * 50,
    )
    before = rows(mostly(3, 100, 0.8), mostly(4, 100, 0.8))
    verdict = judge(newest, before=before, regression=before, latency=Latency(5.0, 6.0))
    assert verdict.better and verdict.reason.startswith("better")
    assert [check.name for check in verdict.checks] == [
        "minimum gain",
        "class recall",
        "calibration",
        "segment accuracy",
        "annotators",
        "forgetting",
        "regression set",
        "latency",
    ]
    assert [(g.name, g.rows) for g in verdict.segments] == [("x", 100), ("y", 100)]
    assert [(g.name, g.rows) for g in verdict.classes] == [("right", 100), ("wrong", 100)]


def test_harmed_segment_refuses_better_challenger() -> None:
    """Reason names the guard and the segment."""
    segments = ["big"] * 40 + ["small"] * 10
    old = mostly(1, 100, 0.6)
    new = [
        t if s == "big" else {"right": "wrong", "wrong": "right"}[t]
        for t, s in zip(["right"] * 50 + ["wrong"] * 50, segments * 2, strict=True)
    ]
    newest = rows(old, new, segments=segments * 2)
    assert compare(newest.truth, newest.champion, newest.challenger).better
    verdict = judge(newest)
    assert not verdict.better
    assert verdict.reason.startswith("refused by a guard: segment accuracy") and "'small'" in verdict.reason
    assert "\n" not in verdict.reason
    assert judge(newest, limits=GateLimits(max_segment_drop=1.0)).better


def test_slice_weights_reach_comparison_and_guards() -> None:
    old, new = ["right"] * 200, ["right"] * 60 + ["wrong"] * 140
    assert judge(rows(old, new), limits=GateLimits(max_recall_drop=1.0)).better
    weights = np.array([1.0] * 100 + [0.05] * 100)
    verdict = judge(rows(old, new, weights=weights), limits=GateLimits(max_recall_drop=1.0))
    assert not verdict.better and verdict.challenger_accuracy < verdict.champion_accuracy
    assert verdict.checks[0].numbers["gain"] < 0


@pytest.mark.parametrize(
    ("limits", "more", "name"),
    [
        (GateLimits(minimum_gain=0.5), {}, "minimum gain"),
        (GateLimits(), {"latency": Latency(5.0, 900.0)}, "latency"),
        (GateLimits(), {"regression": rows(mostly(8, 60, 0.9), mostly(9, 60, 0.5))}, "regression set"),
        (GateLimits(), {"before": rows(mostly(8, 200, 0.6), mostly(9, 200, 0.2))}, "forgetting"),
    ],
)
def test_single_failing_guard_refuses_challenger(limits: GateLimits, more: dict[str, object], name: str) -> None:
    newest = rows(mostly(1, 200, 0.6), mostly(2, 200, 0.85))
    verdict = judge(newest, limits=limits, **more)  # type: ignore[arg-type]
    assert not verdict.better and [check.name for check in verdict.checks if not check.passed] == [name]
    assert judge(newest, limits=limits).better is (name != "minimum gain")


def test_excused_forgetting_is_named_in_reason() -> None:
    """Check explains the excuse: the old concept no longer holds."""
    newest = rows(mostly(1, 200, 0.3), mostly(2, 200, 0.85))
    verdict = judge(newest, before=rows(mostly(8, 200, 0.8), mostly(9, 200, 0.4)))
    assert verdict.better and verdict.reason.startswith("better") and verdict.reason.endswith(", forgetting excused")
    assert ["no longer holds" in check.words for check in verdict.checks if check.excused] == [True]


def test_equal_challenger_is_not_better_beyond_chance() -> None:
    verdict = judge(rows(mostly(1, 60, 0.7), mostly(2, 60, 0.7)))
    assert not verdict.better and verdict.reason.startswith("not better beyond chance")


def test_reasons_are_short_and_their_figures_are_fields() -> None:
    truth = ["right"] * 100
    old, worse = said(["right"] * 60 + ["wrong"] * 40), said(["wrong"] * 30 + ["right"] * 70, 0.99)
    modest, surer = (said(["right"] * 80 + ["wrong"] * 20, sure) for sure in (0.55, 0.7))
    bold = said(["right"] * 30 + ["wrong"] * 20 + ["right"] * 45 + ["wrong"] * 5, 0.99)
    uneven = said(["right"] * 50 + ["wrong"] * 40 + ["right"] * 10)
    harmed = rows(mostly(1, 200, 0.6), ["right"] * 200, segments=["x", "y"] * 100)
    verdicts = {
        "better: ": compare(truth, old, said(["right"] * 90 + ["wrong"] * 10)),
        "better by a Brier score of -0.": compare(truth, modest, surer),
        "not better beyond chance: ": compare(truth, old, old),
        "a refresh, not worse beyond chance: ": compare(truth, old, old, refresh=True),
        "a refresh, worse beyond chance: ": compare(truth, worse, said(["wrong"] * 100), refresh=True),
        "refused by 2 guards: calibration, segment accuracy": judge(
            Slice(truth, uneven, bold, segments=["x"] * 50 + ["y"] * 50)
        ),
        "refused by a guard: latency, 900.00 ms per event": judge(
            rows(mostly(1, 200, 0.6), mostly(2, 200, 0.85)), latency=Latency(5.0, 900.0)
        ),
    }
    for beginning, verdict in verdicts.items():
        assert verdict.reason.startswith(beginning), verdict.reason
        assert len(verdict.reason.split()) <= 20 and ";" not in verdict.reason
    for check in (check for verdict in (*verdicts.values(), judge(harmed)) for check in verdict.checks):
        assert len(check.words.split()) <= 20, check.words
        assert check.limit is not None or check.name == "annotators"
    better = verdicts["better: "]
    assert "accuracy 0.900 against 0.600 on the newest 100 events" in better.reason
    assert (better.challenger_accuracy, better.champion_accuracy, better.rows) == pytest.approx((0.9, 0.6, 100))
    assert better.brier_low < better.brier_gain < better.brier_high and not better.refresh
    assert verdicts["a refresh, not worse beyond chance: "].refresh


def test_same_seed_gives_same_verdict() -> None:
    """Verdict is plain data that a round trip through JSON does not change."""
    newest = rows(mostly(1, 100, 0.6), mostly(2, 100, 0.8), segments=["x", "y"] * 50)
    plain = judge(newest, seed=3).as_json()
    assert plain == judge(newest, seed=3).as_json() == msgspec.json.decode(msgspec.json.encode(plain))
    assert plain["better"] is True and plain["checks"][0]["name"] == "minimum gain"
    assert set(plain["segments"][0]) == {"name", "rows", "champion", "challenger", "chance", "told"}


def test_unknown_or_invalid_gate_limits_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_recal_drop": 0.1}, GateLimits)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_recall_drop": -0.1}, GateLimits)
