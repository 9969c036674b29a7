"""After how many labels a concept that was seen before is answered as well as it was then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from benchmarks.adaptation.baselines import Flags

BEFORE = 500
"""Events at the end of a concept's earlier stretch that say how accurate the loop was on it."""
AFTER = 200
"""Events that have to be as accurate."""
ONE_SIDED = 1.645
"""Standard errors that the accuracy of `AFTER` events falls short of by chance in 5% of cases."""


def recoveries(correct: Flags, segments: Sequence[str], drifts: Sequence[int], delay: int) -> list[int | None]:
    """For each drift back to a concept seen before, the labelled events until it is answered as well as it was then.

    The concept of a stretch between two drifts is its most frequent segment. It is back at the first event from which
    on `AFTER` events are as accurate as the last `BEFORE` of its newest earlier stretch, but for chance; None where no
    event before the next drift is one. Labels are ``delay`` events late, so ``delay`` events after a drift pass
    before the first label that counts here. Empty where the events have no segments.
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
        then = float(correct[max(begin, last - BEFORE) : last].mean())
        least = then - ONE_SIDED * np.sqrt(then * (1 - then) / AFTER)
        back = (p for p in range(start, end - AFTER + 1) if correct[p : p + AFTER].mean() >= least)
        first = next(back, None)
        found.append(None if first is None else max(0, first - start - delay))
    return found
