"""What the loop is compared with: policies that are told more or less than it, learners without a loop, and a ceiling.

- `Told`: the on-drift policy with a list of alerts in place of a detector: the hindsight oracle and the dummies.
- `Cara`: retraining by accumulated cost, after Mahadevan and Mathioudakis, arXiv 2310.04216.
- `learn_online`: River's incremental learners, tested on each event and taught its label when that comes.
- `cross_validate`: the shipped head on all data at once, in no order: what there is to learn for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import feature_extraction, forest, linear_model, naive_bayes, optim, tree
from sklearn.model_selection import KFold

from benchmarks.loop import Loop, Model, Stream
from driftloop.messages import DriftAlert, Outcome
from driftloop.settings import MonitorSettings, Settings
from producers.labels import LabelSchedule
from producers.scenarios import Scenario
from retrain.candidates.linear import fit_head
from retrain.policies import ALWAYS, Now, Policy, Retrain, Wait

DUMMY_EVERY = 100
"""Labelled events between two alerts of the dummy that always fires."""
FOLDS = 3

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Told:
    """A policy that hears of ``alerts`` instead of a detector's, each once the label of its event is there."""

    base: Policy
    alerts: tuple[DriftAlert, ...]
    name: str = "told"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Ask the policy inside."""
        newest = outcomes[-1].position if outcomes else -1
        return self.base.decide(now, [alert for alert in self.alerts if alert.position <= newest], outcomes)


def oracle_alerts(scenario: Scenario) -> tuple[DriftAlert, ...]:
    """One alert at each true drift, its onset known exactly."""
    return tuple(_alert("oracle", position) for position in scenario.drifts)


def dummy_alerts(scenario: Scenario, bootstrap: int, every: int = DUMMY_EVERY) -> tuple[DriftAlert, ...]:
    """One alert after every ``every`` labels that come after the first model, each taking itself for the onset."""
    said = scenario.annotations
    labelled = [at for at in range(bootstrap, len(scenario)) if not said or said[at].label is not None]
    return tuple(_alert("always-fire", position) for position in labelled[every - 1 :: every])


def _alert(detector: str, position: int) -> DriftAlert:
    return DriftAlert(
        alert_id=f"{detector}-{position}",
        stream="bench",
        detector=detector,
        signal="error",
        severity=1.0,
        position=position,
        onset=position,
        onset_at=float(position),
        outcome_offset=-1,
        window=1,
        model_version="",
        detected_at=float(position),
    )


@dataclass(frozen=True)
class Cara:
    """Retrains on the newest window when the wrong predictions since the last retraining exceed ``threshold``.

    This is the cumulative-threshold variant of CARA read for late labels. The paper estimates the staleness cost of a
    query from the loss on data near it; here the labels say what each prediction cost. As there, the threshold is
    chosen offline on a prefix of the stream (`choose_threshold`) and then stays.
    """

    threshold: float
    name = "cara"

    def decide(self, now: Now, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Add up what the champion got wrong since its window was taken, the first model's own window left out."""
        since = now.past[-1].until_at if now.past else ALWAYS
        wrong = sum(not one.correct and not one.in_sample for one in outcomes if one.occurred_at > since)
        if wrong <= self.threshold:
            return Wait(f"{wrong} of {self.threshold:g} wrong predictions have added up")
        return Retrain(f"{wrong} wrong predictions since the last retraining", "cara", ALWAYS)


def choose_threshold(stream: Stream, settings: Settings, lag: int, rows: int) -> float:
    """The threshold of the least total cost on the first ``rows`` events.

    A wrong prediction costs ``cost_of_error`` and a retraining its seconds times ``cost_of_second``, the settings that
    the cost-aware policy weighs too. The thresholds tried are powers of 2, and infinity, which is never to retrain.
    """
    prefix = Stream(_cut(stream.scenario, rows), stream.embeddings[:rows])
    chosen = settings.retrain
    seconds = lag / min(stream.scenario.rate, 1000.0)
    quiet = _with_detectors(settings)
    costs: dict[float, float] = {}
    for threshold in (math.inf, *(2.0**power for power in range(int(math.log2(max(2, rows))), 2, -1))):
        loop = Loop(prefix, Cara(threshold), quiet, lag)
        loop.run()
        wrong = float((~loop.correct).sum()) * chosen.cost_of_error
        costs[threshold] = wrong + len(loop.past) * seconds * chosen.cost_of_second
    return min(costs, key=lambda threshold: costs[threshold])  # the highest, where several cost the same


def _cut(scenario: Scenario, rows: int) -> Scenario:
    from dataclasses import replace

    return replace(scenario, sequence=scenario.sequence[:rows], annotations=scenario.annotations[:rows])


def _with_detectors(settings: Settings, *lines: str) -> Settings:
    import msgspec

    return msgspec.structs.replace(settings, monitor=MonitorSettings(detectors=lines))


def _softmax() -> Any:
    return linear_model.SoftmaxRegression(optim.SGD(1.0))


ONLINE: dict[str, Callable[[int], Any]] = {
    "softmax": lambda seed: linear_model.SoftmaxRegression(optim.SGD(1.0)),
    "hoeffding-tree": lambda seed: tree.HoeffdingAdaptiveTreeClassifier(seed=seed),
    "random-forest": lambda seed: forest.ARFClassifier(seed=seed),
    "naive-bayes": lambda seed: feature_extraction.BagOfWords(lowercase=True) | naive_bayes.MultinomialNB(),
}
"""River's learners by name; the last one reads words, the others embeddings."""
READS_WORDS = frozenset({"naive-bayes"})
