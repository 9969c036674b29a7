"""Sequential test: it keeps its error rate at every stopping time, and decides quickly on large gains."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from retrain.evaluation.sequential_test import PairedTest, ShadowTest, brier_score

ALPHA = 0.1


def differences(seed: int, gain: float, n: int, disagree: float = 0.3) -> list[float]:
    """Return paired differences of correctness of two models that disagree on a share of the events."""
    shares = [(disagree + gain) / 2, (disagree - gain) / 2, 1 - disagree]
    return [float(d) for d in np.random.default_rng(seed).choice([1.0, -1.0, 0.0], n, p=shares)]


def play(test: PairedTest, values: list[float]) -> int | None:
    """Return the events until the test decides, `None` if it never does."""
    return next((at for at, value in enumerate(values, 1) if test.update(0.0, value) != "undecided"), None)


def test_equal_models_are_rarely_decided_at_any_time() -> None:
    """Control: a test of fixed size, asked after every event, decides far more often."""
    decided = sum(play(PairedTest(ALPHA), differences(seed, 0.0, 400)) is not None for seed in range(200))
    # At most one in ten is expected; more than 33 of 200 would have a chance of one in a thousand.
    assert decided <= 33
    # A paired test with a fixed number of rows, asked after every event, is wrong far more often.
    peeked = 0
    for seed in range(200):
        values = np.array(differences(seed, 0.0, 400))
        n = np.arange(1, 401)
        error = np.sqrt(np.maximum(np.cumsum(values**2), 1)) / n
        peeked += bool((np.abs(np.cumsum(values) / n) > 1.645 * error)[20:].any())
    assert peeked > 60


def test_larger_gains_are_decided_sooner() -> None:
    """Decision is never for the champion."""
    medians = []
    for gain in (0.2, 0.1):
        found = []
        for seed in range(40):
            test = PairedTest(0.05)
            found.append(play(test, differences(seed, gain, 800)) or 800)
            assert test.verdict != "champion"
        medians.append(float(np.median(found)))
    assert medians[0] < 80 and medians[1] < 320


def test_swapped_models_give_mirrored_result() -> None:
    one, other = PairedTest(0.05), PairedTest(0.05)
    for value in differences(1, 0.2, 300):
        one.update(0.0, value)
        other.update(value, 0.0)
    assert one.verdict == "challenger" and other.verdict == "champion"
    assert one.evidence.challenger == pytest.approx(other.evidence.champion)
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_interval_covers_true_gain_at_all_times() -> None:
    missed = 0
    for seed in range(60):
        test, out = PairedTest(ALPHA), False
        for at, value in enumerate(differences(seed, 0.1, 200), 1):
            test.update(0.0, value)
            if at % 20 == 0:
                low, high = test.interval
                out |= not low <= 0.1 <= high
        missed += out
    assert missed <= 14  # at most 6 are expected
    assert test.interval[1] - test.interval[0] < 0.5


def test_the_interval_and_the_decision_agree() -> None:
    test = PairedTest(0.05, minimum_gain=0.02)
    assert test.interval == (-1.0, 1.0) and test.gain == 0.0
    play(test, differences(3, 0.25, 500))
    assert test.verdict == "challenger"
    assert test.interval[0] == pytest.approx(0.02, abs=0.02) and test.gain > 0.02


def test_gain_below_minimum_is_not_promoted() -> None:
    test = PairedTest(0.05, minimum_gain=0.15)
    play(test, differences(4, 0.02, 2000))
    assert test.verdict == "champion"


def test_decision_does_not_change_afterwards() -> None:
    test = PairedTest(0.05)
    play(test, [1.0] * 30)
    assert test.verdict == "challenger"
    for _ in range(200):
        test.update(1.0, 0.0)
    assert test.verdict == "challenger" and test.gain < 0


def test_no_evidence_from_models_that_always_agree() -> None:
    test = PairedTest(0.05)
    assert play(test, [0.0] * 500) is None
    assert test.evidence == pytest.approx((1.0, 1.0)) and test.verdict == "undecided"


@pytest.mark.parametrize(("alpha", "gain"), [(0.0, 0.0), (1.0, 0.0), (0.05, 1.0)])
def test_invalid_test_settings_are_refused(alpha: float, gain: float) -> None:
    with pytest.raises(ValueError, match="no test"):
        PairedTest(alpha, gain)


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_values_outside_the_bounds_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        PairedTest(0.05).update(0.0, value)
    assert PairedTest(0.05, bound=2.0).update(-1.5, 0.0) == "undecided"


def mass(right: float) -> dict[str, float]:
    return {"a": right, "b": 1 - right}


def test_probabilities_decide_when_accuracy_cannot() -> None:
    test = ShadowTest(0.05)
    for _ in range(150):
        test.update("a", mass(0.55), mass(0.9))
    assert test.verdict == "challenger" and test.accuracy.verdict == "undecided"
    assert (
        test.summary()
        == "the challenger is better after 150 events: accuracy of the challenger +0.000, Brier score -0.385"
    )
    back = ShadowTest(0.05)
    for _ in range(150):
        back.update("a", mass(0.9), mass(0.55))
    assert back.verdict == "champion" and back.summary("the predecessor").startswith("the predecessor is better after")
    assert "Brier score +0.3" in back.summary("the predecessor")


def test_result_is_plain_data_with_both_intervals() -> None:
    test = ShadowTest(0.05)
    assert test.summary().startswith("undecided after 0 events")
    for number in range(40):
        test.update("a", mass(0.4), mass(0.9 if number % 4 else 0.3))
    plain = test.as_json()
    assert plain == msgspec.json.decode(msgspec.json.encode(plain))
    assert (plain["verdict"], plain["events"]) == ("challenger", 40)
    for name, paired in (("accuracy", test.accuracy), ("brier", test.brier)):
        assert plain[f"{name}_gain"] == pytest.approx(paired.gain, abs=1e-4)
        assert (plain[f"{name}_low"], plain[f"{name}_high"]) == pytest.approx(paired.interval, abs=1e-4)
        assert plain[f"{name}_low"] < plain[f"{name}_gain"] < plain[f"{name}_high"]


def test_better_probabilities_do_not_excuse_a_lower_accuracy() -> None:
    test = ShadowTest(0.05)
    for number in range(60):
        # One event in ten is lost narrowly, the others are won by more confidence.
        test.update("a", mass(0.55), mass(0.49) if number % 10 == 9 else mass(0.95))
    assert test.brier.verdict == "challenger" and test.verdict == "undecided"


def test_better_predecessor_is_found_during_probation() -> None:
    rng, test = np.random.default_rng(5), ShadowTest(0.05)
    for _ in range(400):
        promoted, predecessor = (mass(0.8 if rng.random() < share else 0.3) for share in (0.5, 0.7))
        if test.update("a", champion=promoted, challenger=predecessor) == "challenger":
            break
    assert test.verdict == "challenger" and test.accuracy.events < 200


def test_the_brier_score_runs_from_zero_to_two() -> None:
    assert brier_score("a", {"a": 1.0}) == 0.0
    assert brier_score("a", {"b": 1.0}) == 2.0
    assert brier_score("a", mass(0.5)) == pytest.approx(0.5)
