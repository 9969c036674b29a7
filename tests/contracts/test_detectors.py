"""The same checks on every detector, and on what happens to a bad line of configuration."""

import random

import pytest

from driftloop.errors import DriftloopError
from stream_processors.drift.detectors import FAMILIES, Detector, RiverDetector, State, make_detector

EVERY = [f"{signal}:{name}" for name, (_, signals) in FAMILIES.items() for signal in sorted(signals)]


def bernoulli(seed: int, rate: float, n: int) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < rate) for _ in range(n)]


def alarms(detector: RiverDetector, values: list[float]) -> list[int]:
    return [i for i, value in enumerate(values) if detector.update(value) is State.DRIFT]


@pytest.mark.parametrize("text", EVERY)
def test_a_jump_is_found_and_a_flat_signal_is_mostly_left_alone(text: str) -> None:
    _, detector = make_detector(text)
    assert isinstance(detector, Detector)
    before = alarms(detector, bernoulli(1, 0.2, 1000))
    after = alarms(detector, bernoulli(2, 0.8, 400))
    assert after, "a rise from 0.2 to 0.8 was not found within 400 values"
    # KSWIN tests at every value: its false alarm rate is alpha by design.
    assert len(before) <= (10 if "kswin" in text or "eddm" in text else 1), before


@pytest.mark.parametrize("text", EVERY)
def test_a_restored_detector_goes_on_as_if_nothing_had_happened(text: str) -> None:
    _, one = make_detector(text)
    _, other = make_detector(text)
    alarms(one, bernoulli(3, 0.3, 300))
    other.restore(one.dump())
    later = bernoulli(4, 0.75, 300)
    found = alarms(one, later)
    assert found and found == alarms(other, later)
    _, fresh = make_detector(text)
    if "kswin" not in text:  # it looks back 100 values only
        assert found != alarms(fresh, later), "the state made no difference, so this test shows nothing"


@pytest.mark.parametrize("text", EVERY)
def test_reset_forgets(text: str) -> None:
    _, used = make_detector(text)
    alarms(used, bernoulli(5, 0.05, 500))
    used.reset()
    _, fresh = make_detector(text)
    values = bernoulli(6, 0.6, 500)
    assert alarms(used, values) == alarms(fresh, values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("error:adwinn", "no detector 'adwinn'"),
        ("mood:adwin", "cannot watch 'mood'"),
        ("confidence:ddm", "cannot watch 'confidence'"),
        ("error:adwin?delta=little", "is not a number"),
        ("error:adwin?gamma=1", "does not take"),
        ("", "no detector ''"),
    ],
)
def test_a_bad_line_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(DriftloopError, match=says):
        make_detector(text)
