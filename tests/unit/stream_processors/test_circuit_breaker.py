"""Circuit breaker: it opens on too many dead letters, and closes after a good batch."""

from __future__ import annotations

from stream_processors.runtime.circuit_breaker import MIN_DEAD_LETTERS, WINDOW, CircuitBreaker

PAUSE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_few_dead_letters_keep_breaker_closed() -> None:
    """Share of exactly the limit keeps it closed, too."""
    breaker = CircuitBreaker(0.5, PAUSE, Clock())
    breaker.count(MIN_DEAD_LETTERS - 1, MIN_DEAD_LETTERS - 1)  # all of them bad, and still few
    assert not breaker.open and breaker.pause == 0
    breaker = CircuitBreaker(0.5, PAUSE, Clock())
    for _ in range(100):
        breaker.count(60, 30)  # many, and half of them good
    assert not breaker.open


def test_breaker_opens_when_most_recent_messages_fail() -> None:
    """Number of earlier good messages does not matter."""
    breaker = CircuitBreaker(0.5, PAUSE, Clock())
    for _ in range(1000):
        breaker.count(50, 0)
    batches = 0
    while not breaker.open:
        breaker.count(50, 50)
        batches += 1
    assert WINDOW / 2 < batches * 50 <= WINDOW / 2 + 100
    assert "could not be processed" in str(breaker)


def test_good_trial_batch_closes_breaker() -> None:
    """One batch is tried after each pause."""
    clock = Clock()
    breaker = CircuitBreaker(0.5, PAUSE, clock)
    breaker.count(200, 200)
    assert breaker.open and breaker.pause == PAUSE
    clock.now += PAUSE
    assert breaker.open and breaker.pause == 0
    breaker.count(50, 50)
    assert breaker.open and breaker.pause == PAUSE
    clock.now += PAUSE + 1
    breaker.count(50, 2)
    assert not breaker.open and breaker.pause == 0
    breaker.count(90, 90)  # what lies before the closing does not count any more
    assert not breaker.open


def test_limit_of_one_never_opens_breaker() -> None:
    breaker = CircuitBreaker(1.0, PAUSE, Clock())
    for _ in range(100):
        breaker.count(100, 100)
    assert not breaker.open
