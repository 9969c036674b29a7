"""Newest drift alerts, retrainings and promotions of a loop, with counts of all of them."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import TypeVar

from driftloop.core.messages import DriftAlert, Message, MixtureUpdate, ModelUpdate, Retraining

T = TypeVar("T")

ALERTS, RUNS = 1000, 1000
"""Alerts and retrainings that are kept; older ones are only counted."""
SAMPLES = 1000
"""Samples of the experts' weights that are kept."""
ENDS = ("promoted", "kept", "failed")
"""Outcomes of a retraining; `kept` means that the champion stays."""
DECIDED = ("promoted", "rejected", "waiting", "rolled-back")
"""States of a retraining that change what the registry records about a version."""


class LoopHistory:
    """Alerts, retrainings and promotions, in the order of arrival."""

    def __init__(self) -> None:
        self.alerts: OrderedDict[str, DriftAlert] = OrderedDict()
        """By alert id; the newest `ALERTS`."""
        self.alerts_by_signal: Counter[str] = Counter()
        self.runs: OrderedDict[str, list[Retraining]] = OrderedDict()
        """Messages of each retraining and each manual action by its id, oldest first; the newest `RUNS`."""
        self.open_runs: set[str] = set()
        """Ids of the retrainings that have not ended. The next worker closes those that its predecessor left open."""
        self.newest_step: Retraining | None = None
        self.retrainings_by_end: Counter[str] = Counter()
        """Ended retrainings by which of `ENDS`."""
        self.decisions = 0
        """Messages with a state of `DECIDED`."""
        self.promotions: deque[ModelUpdate] = deque(maxlen=RUNS)
        self.champion = ""
        """Version of the current champion; empty before the first."""
        self.weights: deque[tuple[int, dict[str, float]]] = deque(maxlen=SAMPLES)
        """Samples of the weights of a mixture: labelled events so far, and the weight of each expert."""
        self._promoting: set[str] = set()

    def take(self, message: Message) -> None:
        """Add one message."""
        match message:
            case DriftAlert():
                self.alerts_by_signal[message.signal] += 1
                _put(self.alerts, message.alert_id, message, ALERTS)
            case ModelUpdate():
                self.champion = message.version
                self.promotions.append(message)
            case MixtureUpdate() if message.is_sample:
                self.weights.append((message.outcome_offset + 1, message.weights))
            case Retraining():
                self._take_step(message)
            case _:
                pass

    def _take_step(self, step: Retraining) -> None:
        """Add one step of a retraining."""
        run = step.run_id
        self.newest_step = step
        self.decisions += step.state in DECIDED
        # A new list: readers may still hold the old one.
        _put(self.runs, run, [*self.runs.get(run, ()), step], RUNS)
        if step.state == "promoted":
            self._promoting.add(run)
        if not step.is_final:
            self.open_runs.add(run)
            return
        self.open_runs.discard(run)
        end = "promoted" if run in self._promoting else "kept" if step.state == "finished" else "failed"
        self._promoting.discard(run)
        self.retrainings_by_end[end] += 1


def _put(log: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Store a value in a log of at most ``most`` entries; a known key keeps its place."""
    log[key] = value
    if len(log) > most:
        log.popitem(last=False)
