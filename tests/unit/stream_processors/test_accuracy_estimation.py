"""Accuracy estimation: it is right while P(y|x) holds, and visibly wrong when it changes."""

import numpy as np

from stream_processors.drift.accuracy_estimation import ConfidenceBasedEstimator


def play(
    estimate: ConfidenceBasedEstimator, start: int, n: int, centre: float, *, swapped: bool = False, delay: int = 200
) -> None:
    """Feed an overconfident model: its true rate of correct answers is 0.5 + (confidence - 0.5) / 2."""
    rng = np.random.default_rng(start)
    waiting: list[tuple[float, bool, int]] = []
    for i in range(start, start + n + delay):
        if i < start + n:
            confidence = float(rng.uniform(centre - 0.1, centre + 0.1))
            estimate.predicted(confidence, "1", i, float(i))
            right = bool(rng.random() < 0.5 + (confidence - 0.5) / 2)
            waiting.append((confidence, right != swapped, i))
        if i - start >= delay:
            said, correct, position = waiting[i - start - delay]
            estimate.labelled(said, correct, "1", float(position))


def test_accuracy_estimate_follows_confidence() -> None:
    """Overconfidence of the model is corrected."""
    estimate = ConfidenceBasedEstimator(block_size=500)
    play(estimate, 0, 2000, 0.75)
    rng = np.random.default_rng(1)
    assert estimate.estimate([0.7] * 500, "1")[0] is not None
    last = estimate.blocks[-1]
    assert last.estimate is not None and last.realised is not None and last.labels == 500
    assert abs(last.estimate - last.realised) < 0.07 and abs(last.estimate - 0.75) > 0.05, "confidence was believed"
    assert not last.failed
    low = estimate.estimate(list(rng.uniform(0.65, 0.67, 500)), "1")[0]
    high = estimate.estimate(list(rng.uniform(0.83, 0.85, 500)), "1")[0]
    assert low is not None and high is not None and high - low > 0.03


def test_label_swap_marks_estimate_as_failed() -> None:
    estimate = ConfidenceBasedEstimator()
    play(estimate, 0, 2000, 0.85)
    play(estimate, 3000, 250, 0.85, swapped=True)
    block = estimate.blocks[-1]
    assert block.estimate is not None and block.realised is not None
    assert block.estimate > 0.6 > 0.45 > block.realised and block.failed


def test_no_estimate_before_first_outcomes() -> None:
    """New model version begins a new block."""
    estimate = ConfidenceBasedEstimator(block_size=10)
    assert estimate.estimate([0.9], "1") == (None, None, None)
    for i in range(15):
        estimate.predicted(0.9, "1", i, float(i))
    for i in range(15, 25):
        done = estimate.predicted(0.9, "2", i, float(i))
    assert done is not None and (done.start, done.end, done.version) == (15, 24, "2")
    assert [(one.start, one.end) for one in estimate.blocks] == [(0, 9), (15, 24)]
