"""Recovery after a recurring drift: labels until a known concept is predicted as well as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from benchmarks.adaptation.baselines import Flags

BEFORE = 500
"""Events at the end of a concept's earlier stretch that give its reference accuracy."""
AFTER = 200
"""Events that must reach the reference accuracy."""
ONE_SIDED = 1.645
"""Standard errors by which the accuracy of `AFTER` events falls short by chance in 5% of cases."""


def recoveries(correct: Flags, segments: Sequence[str], drifts: Sequence[int], delay: int) -> list[int | None]:
    """Return the recovery time of each drift back to a known concept, in labelled events.

    The concept of a stretch between two drifts is its most frequent segment. It has recovered at the first event from
    which `AFTER` events are as accurate as the last `BEFORE` events of its newest earlier stretch, except for chance.

    Args:
        correct: True for each event that was predicted correctly.
        segments: Segment of each event.
        drifts: True drift positions.
        delay: Events between an event and its label. They pass before the first label that counts.

    Returns:
        None for a concept that did not recover before the next drift. Empty if the events have no segments.
    """
    if not any(segments):
        return []
    stretches = list(pairwise([0, *drifts, len(correct)]))
    concepts = [Counter(segments[start:end]).most_common(1)[0][0] for start, end in stretches]
    found: list[int | None] = []
    for at, (start, end) in enumerate(stretches):
        earlier = [one for one, seen in zip(stretches[:at], concepts, strict=False) if seen == concepts[at]]
        if not earlier:
            continue
        begin, last = earlier[-1]
        reference = float(correct[max(begin, last - BEFORE) : last].mean())
        least = reference - ONE_SIDED * np.sqrt(reference * (1 - reference) / AFTER)
        recovered = (p for p in range(start, end - AFTER + 1) if correct[p : p + AFTER].mean() >= least)
        first = next(recovered, None)
        found.append(None if first is None else max(0, first - start - delay))
    return found
