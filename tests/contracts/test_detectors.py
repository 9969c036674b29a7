"""The contract of detectors on every one of them, and on what happens to a bad line of configuration."""

from collections.abc import Callable

import pytest

from driftloop.core.errors import DriftloopError
from stream_processors.drift.checks import CHECKS, Subject, alarms, bernoulli
from stream_processors.drift.detectors import FAMILIES, make_detector

EVERY = [f"{signal}:{name}" for name, (_, signals) in FAMILIES.items() for signal in sorted(signals)]


def subject(text: str) -> Subject:
    # KSWIN tests at every value: its false alarm rate is alpha by design.
    return Subject(lambda: make_detector(text)[1], max_false_alarms=10 if "kswin" in text or "eddm" in text else 1)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", EVERY)
def test_the_contract_holds(text: str, check: Callable[[Subject], None]) -> None:
    check(subject(text))


@pytest.mark.parametrize("text", [text for text in EVERY if "kswin" not in text])  # it looks back 100 values only
def test_control_used_detector_differs_from_fresh_one(text: str) -> None:
    """Control of the check that restores a detector: without its state, its alarms are others."""
    used, fresh = (make_detector(text)[1] for _ in range(2))
    alarms(used, bernoulli(3, 0.3, 300))
    later = bernoulli(4, 0.75, 300)
    assert alarms(used, later) != alarms(fresh, later)


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
def test_invalid_detector_setting_names_the_fault(text: str, says: str) -> None:
    with pytest.raises(DriftloopError, match=says):
        make_detector(text)
