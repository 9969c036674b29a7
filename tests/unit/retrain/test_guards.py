"""Guards: each refuses its kind of harm, passes the harmless, and keeps its rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from driftloop.core.models.classifier import Predictions
from retrain.evaluation import guards
from retrain.evaluation.guards import Latency, SignificanceLevel
from retrain.evaluation.paired_slice import (
    RESAMPLES,
    Slice,
    Values,
    effective_sample_size,
    fall_p_values,
    holm_adjusted,
)

LEVEL = SignificanceLevel()
CLASSES = ("a", "b", "c")


def said(labels: Sequence[str], sure: float = 0.7, classes: tuple[str, ...] = CLASSES) -> Predictions:
    """Return predictions of these labels, each with the probability ``sure``."""
    rows = np.full((len(labels), len(classes)), (1 - sure) / (len(classes) - 1), dtype=np.float32)
    rows[np.arange(len(labels)), [classes.index(label) for label in labels]] = sure
    return Predictions(classes, rows, np.zeros((len(labels), 1), dtype=np.float32), "test", 0.0)


def answers(truth: Sequence[str], accuracy: float | Values, seed: int) -> list[str]:
    """Return each label with the given chance, else the next class."""
    right = np.random.default_rng(seed).random(len(truth)) < accuracy
    return [t if ok else other(t) for t, ok in zip(truth, right, strict=True)]


def other(label: str) -> str:
    return CLASSES[(CLASSES.index(label) + 1) % 3]


def labels(n: int, seed: int = 0) -> list[str]:
    return [CLASSES[i] for i in np.random.default_rng(seed).integers(0, 3, n)]


def pair(truth: Sequence[str], champion: float | Values, challenger: float | Values, seed: int = 1) -> Slice:
    """Return a slice on which the two models are right with these chances."""
    return Slice(truth, said(answers(truth, champion, seed)), said(answers(truth, challenger, seed + 1)))


class TestSlices:
    def test_three_losses_are_chance_six_are_not(self) -> None:
        """Rows are twenty, and the p-values 1/8 and 1/64."""
        columns = np.zeros((20, 2))
        columns[:3, 0] = -1
        columns[:6, 1] = -1
        three, six = fall_p_values(columns, 7)
        assert three == pytest.approx(1 / 8, abs=0.03) and six == pytest.approx(1 / 64, abs=0.01)

    def test_p_value_is_reproducible_and_never_zero(self) -> None:
        columns = -np.ones((200, 1))
        assert fall_p_values(columns, 3) == fall_p_values(columns, 3) == 1 / (RESAMPLES + 1)

    def test_holm_adjustment_matches_original_paper(self) -> None:
        assert holm_adjusted(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert len(holm_adjusted(np.array([]))) == 0

    def test_effective_sample_size_follows_weights(self) -> None:
        assert effective_sample_size(np.ones(30)) == pytest.approx(30)
        assert effective_sample_size(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2)
        assert effective_sample_size(np.zeros(3)) == 0

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"segments": ["x"]}, "for all"),
            ({"annotators": ["x"]}, "for all"),
            ({"weights": np.array([1.0, -1.0])}, "from 0 up"),
            ({"weights": np.array([1.0])}, "1 weights for 2"),
            ({"weights": np.zeros(2)}, "weight zero"),
        ],
    )
    def test_invalid_slice_parts_are_refused(self, change: dict[str, Sequence[str]], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            Slice(["a", "b"], said(["a", "b"]), said(["a", "b"]), **change)  # type: ignore[arg-type]


class TestRecall:
    def test_lost_class_fails_despite_overall_gain(self) -> None:
        truth = ["a"] * 150 + ["b"] * 50
        rows = pair(truth, np.array([0.5] * 150 + [0.8] * 50), np.array([0.95] * 150 + [0.1] * 50))
        check = guards.class_recall(rows, 0.1, LEVEL)
        assert not check.passed and "'b'" in check.words and "'a'" not in check.words
        assert check.numbers["b"] < -0.5 and check.numbers["a"] > 0.3

    def test_recall_of_constant_champion_may_be_lost(self) -> None:
        """Control: a challenger that always says one class harms the other."""
        truth = ["a"] * 60 + ["b"] * 60
        better = ["a"] * 42 + ["b"] * 18 + ["b"] * 54 + ["a"] * 6
        check = guards.class_recall(Slice(truth, said(["a"] * 120), said(better)), 0.1, LEVEL)
        assert check.passed and check.numbers["a"] == pytest.approx(-0.3)
        # The other way round, a challenger that says one class always, is harm to the other class.
        assert not guards.class_recall(Slice(truth, said(better), said(["a"] * 120)), 0.1, LEVEL).passed

    def test_overpredicted_rare_class_may_be_predicted_less(self) -> None:
        truth = ["a"] * 480 + ["b"] * 80
        old = ["b"] * 168 + ["a"] * 312 + ["b"] * 68 + ["a"] * 12
        new = ["b"] * 12 + ["a"] * 468 + ["b"] * 30 + ["a"] * 50  # informedness falls from 0.50 to 0.35, F1 does not
        check = guards.class_recall(Slice(truth, said(old), said(new)), 0.1, LEVEL)
        assert check.passed and check.numbers["b"] < -0.4

    def test_class_predicted_nearly_always_is_not_protected(self) -> None:
        """Fall of F1 is no harm where informedness rises."""
        truth = ["a"] * 60 + ["b"] * 60
        old = ["a"] * 58 + ["b"] * 2 + ["a"] * 56 + ["b"] * 4
        new = ["a"] * 18 + ["b"] * 42 + ["b"] * 57 + ["a"] * 3  # F1 falls from 0.67 to 0.44, informedness rises
        check = guards.class_recall(Slice(truth, said(old), said(new)), 0.1, LEVEL)
        assert check.passed and check.numbers["a"] < -0.5

    def test_class_with_too_few_rows_passes(self) -> None:
        truth = ["a"] * 80 + ["b"] * 10
        rows = Slice(truth, said(truth), said(["a"] * 90))
        check = guards.class_recall(rows, 0.1, LEVEL)
        assert check.passed and "too few to tell for 1" in check.words and "b" not in check.numbers
        assert not guards.class_recall(rows, 0.1, SignificanceLevel(min_rows=10)).passed

    def test_class_unknown_to_challenger_fails_recall(self) -> None:
        truth = ["a"] * 60 + ["c"] * 40
        blind = said(["a"] * 60 + ["b"] * 40, classes=("a", "b"))
        assert not guards.class_recall(Slice(truth, said(truth), blind), 0.1, LEVEL).passed


class TestSegments:
    truth = labels(300)
    segments = ["big"] * 240 + ["small"] * 60

    def rows(self, small: float, weights: Values | None = None) -> Slice:
        new = said(answers(self.truth, np.array([0.9] * 240 + [small] * 60), 2))
        return Slice(self.truth, said(answers(self.truth, 0.7, 1)), new, self.segments, weights=weights)

    def test_harmed_segment_fails_despite_overall_gain(self) -> None:
        rows = self.rows(0.3)
        old, new = rows.correctness()
        assert new.mean() > old.mean()
        check = guards.segment_accuracy(rows, 0.1, LEVEL)
        assert not check.passed and "'small'" in check.words and "'big'" not in check.words

    def test_loss_within_limit_or_chance_passes(self) -> None:
        assert guards.segment_accuracy(self.rows(0.3), 0.9, LEVEL).passed
        assert guards.segment_accuracy(self.rows(0.7), 0.0, LEVEL).passed

    def test_zero_weight_labels_do_not_fail_segment(self) -> None:
        weights = np.array([1.0] * 240 + [0.0] * 60)
        check = guards.segment_accuracy(self.rows(0.0, weights), 0.1, LEVEL)
        assert check.passed and "small" not in check.numbers

    def test_weights_enter_the_chance_estimate(self) -> None:
        truth = ["a"] * 40
        old, new = ["a"] * 20 + ["b"] * 20, ["b"] * 20 + ["a"] * 20
        doubtful = np.array([1.0] * 20 + [0.5] * 20)
        rows = Slice(truth, said(old), said(new), ["x"] * 40, weights=doubtful)
        assert not guards.segment_accuracy(rows, 0.1, LEVEL).passed

    def test_slice_without_segments_reports_too_few_rows(self) -> None:
        assert "too few" in guards.segment_accuracy(pair(self.truth, 0.9, 0.1), 0.1, LEVEL).words

    def test_equal_challenger_is_rarely_refused_across_segments(self) -> None:
        refused = 0
        for seed in range(200):
            truth = labels(240, seed)
            rows = Slice(
                truth,
                said(answers(truth, 0.7, 2 * seed)),
                said(answers(truth, 0.7, 2 * seed + 1)),
                [f"s{i % 8}" for i in range(240)],
            )
            refused += not guards.segment_accuracy(rows, 0.0, LEVEL).passed
        # 5% for all eight segments together is 10 of 200; each alone at 5% would be about 60.
        assert refused <= 20


class TestOverconfidence:
    def test_overconfident_challenger_is_refused(self) -> None:
        truth = labels(100)
        old, new = answers(truth, 0.6, 1), answers(truth, 0.65, 2)
        check = guards.overconfidence(Slice(truth, said(old, 0.65), said(new, 0.99)), 0.1, LEVEL)
        assert not check.passed and check.numbers["challenger"] > 0.2
        assert guards.overconfidence(Slice(truth, said(old, 0.99), said(new, 0.65)), 0.1, LEVEL).passed

    def test_underconfident_challenger_passes(self) -> None:
        truth = labels(100)
        right = said(answers(truth, 0.9, 2), 0.4)
        assert guards.overconfidence(Slice(truth, said(answers(truth, 0.7, 1)), right), 0.0, LEVEL).passed

    def test_champion_underconfidence_counts_as_zero(self) -> None:
        truth = ["a"] * 100
        modest, even = said(["a"] * 90 + ["b"] * 10, 0.5), said(["a"] * 90 + ["b"] * 10, 0.95)
        bold = said(["a"] * 70 + ["b"] * 30, 0.95)
        assert guards.overconfidence(Slice(truth, modest, even), 0.1, LEVEL).passed
        check = guards.overconfidence(Slice(truth, modest, bold), 0.1, LEVEL)
        assert not check.passed and check.numbers["champion"] == 0.0

    def test_equal_challenger_is_rarely_refused_on_thirty_rows(self) -> None:
        truths = [labels(30, seed) for seed in range(200)]
        refused = sum(
            not guards.overconfidence(pair(truth, 0.7, 0.7, 2 * seed), 0.0, LEVEL).passed
            for seed, truth in enumerate(truths)
        )
        assert refused <= 20


class TestForgetting:
    """Four causes of a challenger's loss on events from before the drift."""

    def test_forgetting_after_abrupt_shift_is_excused(self) -> None:
        before = pair(labels(200), 0.85, 0.4)
        newest = pair(labels(60, 1), 0.35, 0.8)
        check = guards.forgetting(before, newest, 0.1, LEVEL)
        assert check.passed and check.excused and "no longer holds" in check.words

    def test_forgetting_after_label_swap_is_excused(self) -> None:
        swap = {"a": "b", "b": "a", "c": "c"}
        texts, later = labels(200), labels(90, 1)
        before = Slice(texts, said(answers(texts, 0.85, 1)), said([swap[t] for t in texts]))
        meant = [swap[t] for t in later]
        annotators = [f"person {i % 3}" for i in range(90)]
        newest = Slice(meant, said(answers(later, 0.85, 3)), said(answers(meant, 0.8, 4)), annotators=annotators)
        check = guards.forgetting(before, newest, 0.1, LEVEL)
        assert check.passed and check.excused and "second annotator" not in check.words

    def test_forgetting_after_false_alarm_is_refused(self) -> None:
        before = pair(labels(200), 0.8, 0.55)
        newest = pair(labels(60, 1), 0.8, 0.85)
        check = guards.forgetting(before, newest, 0.1, LEVEL)
        assert not check.passed and not check.excused and "has not become worse" in check.words

    @pytest.mark.parametrize("weighted", [False, True])
    def test_forgetting_after_poisoned_labels_is_refused(self, weighted: bool) -> None:
        newest = poisoned(weighted)
        before = pair(labels(200), 0.85, 0.4)
        check = guards.forgetting(before, newest, 0.1, LEVEL)
        assert not check.passed
        assert ("has not become worse" if weighted else "in the labels of 'liar'") in check.words

    def test_poisoning_by_single_annotator_cannot_be_detected(self) -> None:
        """Check passes and says that there is no second annotator."""
        known = poisoned(weighted=False)
        newest = Slice(known.truth, known.champion, known.challenger, annotators=["only one"] * len(known))
        check = guards.forgetting(pair(labels(200), 0.85, 0.4), newest, 0.1, LEVEL)
        assert check.passed and "no second annotator" in check.words

    def test_forgetting_with_small_loss_or_few_rows_passes(self) -> None:
        newest = pair(labels(60, 1), 0.8, 0.85)
        truth = labels(200)
        slight = Slice(truth, said(truth), said([other(t) for t in truth[:16]] + truth[16:]))
        sound = pair(labels(60, 1), 1.0, 1.0)
        assert guards.forgetting(slight, sound, 0.1, LEVEL).passed
        assert not guards.forgetting(slight, sound, 0.07, LEVEL).passed
        few = guards.forgetting(pair(labels(10), 1.0, 0.0), newest, 0.1, LEVEL)
        assert few.passed and "too few to tell" in few.words


def poisoned(weighted: bool) -> Slice:
    """Return 90 events of which one annotator labelled 60, all wrong, as the challenger has learnt them."""
    meant = labels(90, 5)
    annotators = ["liar"] * 60 + ["honest"] * 30
    given = [other(t) if who == "liar" else t for t, who in zip(meant, annotators, strict=True)]
    champion, challenger = said(answers(meant, 0.85, 6)), said(answers([other(t) for t in meant], 0.85, 7))
    weights = np.array([0.02] * 60 + [1.0] * 30) if weighted else None
    return Slice(given, champion, challenger, annotators=annotators, weights=weights)


class TestAnnotators:
    def test_gain_seen_by_one_annotator_is_refused(self) -> None:
        rows = poisoned(weighted=False)
        old, new = rows.correctness()
        assert new.mean() > old.mean()
        check = guards.no_single_annotator(rows, 20)
        assert not check.passed and "'liar'" in check.words

    def test_gain_seen_by_all_annotators_passes(self) -> None:
        rows = pair(labels(90), 0.5, 0.8)
        shared = Slice(rows.truth, rows.champion, rows.challenger, annotators=[f"p{i % 3}" for i in range(90)])
        check = guards.no_single_annotator(shared, 20)
        assert check.passed and check.numbers["gain_without"] > 0

    def test_low_weight_labels_accuse_no_annotator(self) -> None:
        rows = poisoned(weighted=False)
        swapped = [{"liar": "honest", "honest": "liar"}[who] for who in rows.annotators]
        weights = np.array([1.0 if who == "honest" else 0.1 for who in swapped])
        gained = Slice(rows.truth, rows.champion, rows.challenger, annotators=swapped, weights=weights)
        assert guards.no_single_annotator(gained, 20).passed

    def test_one_annotator_alone_cannot_be_checked(self) -> None:
        rows = pair(labels(90), 0.5, 0.8)
        alone = Slice(rows.truth, rows.champion, rows.challenger, annotators=["p"] * 90)
        assert "too few" in guards.no_single_annotator(alone, 20).words


@pytest.mark.parametrize(
    ("champion_ms", "challenger_ms", "passed", "word"),
    [
        (5.0, 20.0, True, "20.00 ms"),
        (5.0, 120.0, False, "budget"),
        (5.0, 60.0, False, "10 times"),
        (0.01, 0.9, True, "0.90 ms"),
        (5.0, float("nan"), False, "budget"),
    ],
)
def test_latency_guard_checks_budget_and_ratio(
    champion_ms: float, challenger_ms: float, passed: bool, word: str
) -> None:
    check = guards.latency(Latency(champion_ms, challenger_ms), 100.0, 10.0)
    assert check.passed is passed and word in check.words


def test_regression_set_losses_beyond_limit_are_refused() -> None:
    truth = labels(40)
    lost = said([other(truth[0]), other(truth[1]), other(truth[2]), *truth[3:]])
    assert not guards.regression_set(Slice(truth, said(truth), lost), 0.05).passed
    assert guards.regression_set(Slice(truth, said(truth), lost), 0.075).passed
    assert guards.regression_set(Slice(truth, lost, said(truth)), 0.0).passed


def test_gain_below_minimum_is_refused() -> None:
    truth = ["a"] * 100
    rows = Slice(truth, said(["a"] * 80 + ["b"] * 20), said(["a"] * 85 + ["b"] * 15))
    assert guards.minimum_gain(rows, 0.05).passed
    check = guards.minimum_gain(rows, 0.06)
    assert not check.passed and "+0.050" in check.words
