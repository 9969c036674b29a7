"""Baselines: policies with more or less information than the loop, online learners, and a ceiling.

- `ScriptedAlerts`: the on-drift policy with a list of alerts in place of a detector, for the oracle and the dummies.
- `Cara`: retraining by accumulated cost, after Mahadevan and Mathioudakis, arXiv 2310.04216.
- `learn_online`: River's incremental learners, tested on each event and taught its label when that comes.
- `cross_validate`: the shipped head on all data, in no order, as the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import feature_extraction, forest, linear_model, naive_bayes, optim, tree
from sklearn.model_selection import KFold

from benchmarks.adaptation.in_process_loop import Loop
from benchmarks.adaptation.playback import Stream
from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.settings import MonitorSettings, Settings
from producers.label_schedule import LabelSchedule
from producers.scenarios.scenarios import Scenario
from retrain.candidates.linear import fit_head
from retrain.policies.base import ALWAYS, Policy, PolicyContext, Retrain, Wait
from retrain.policies.builtin import Never

DUMMY_EVERY = 100
"""Labelled events between two alerts of the dummy that always fires."""
FOLDS = 3

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ScriptedAlerts:
    """A policy that receives a list of alerts in place of a detector's.

    Each alert arrives with the label of its event.
    """

    base: Policy
    """Policy that decides."""
    alerts: tuple[DriftAlert, ...]
    name = "scripted"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Let the base policy decide by the scripted alerts.

        Args:
            now: State of the loop.
            alerts: Alerts of a detector. They are ignored.
            outcomes: Newest labelled predictions.
        """
        newest = outcomes[-1].position if outcomes else -1
        return self.base.decide(now, [alert for alert in self.alerts if alert.position <= newest], outcomes)


def oracle_alerts(scenario: Scenario) -> tuple[DriftAlert, ...]:
    """Return one alert at each true drift, with its exact onset."""
    return tuple(_alert("oracle", position) for position in scenario.drifts)


def dummy_alerts(scenario: Scenario, bootstrap: int, every: int = DUMMY_EVERY) -> tuple[DriftAlert, ...]:
    """Return alerts at regular distances after the first model. The onset of each is its own position.

    Args:
        scenario: The scenario.
        bootstrap: Events of the first model.
        every: Labels between two alerts.
    """
    sent = scenario.annotations
    labelled = [at for at in range(bootstrap, len(scenario)) if not sent or sent[at].label is not None]
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

    This is the cumulative-threshold variant of CARA, adapted to late labels. The paper estimates the staleness cost of
    a query from the loss on data near it. Here the labels give the cost of each prediction. As in the paper, the
    threshold is chosen offline on a prefix of the stream (`choose_threshold`) and then stays.
    """

    threshold: float
    name = "cara"

    def decide(self, now: PolicyContext, alerts: Sequence[DriftAlert], outcomes: Sequence[Outcome]) -> Retrain | Wait:
        """Retrain if the wrong predictions since the last window exceed the threshold.

        Args:
            now: State of the loop.
            alerts: Ignored.
            outcomes: Newest labelled predictions. Those of the first model's own window do not count.
        """
        since = now.past[-1].until_at if now.past else ALWAYS
        wrong = sum(not one.correct and not one.in_sample for one in outcomes if one.occurred_at > since)
        if wrong <= self.threshold:
            return Wait(f"{wrong} of {self.threshold:g} wrong predictions have added up")
        return Retrain(f"{wrong} wrong predictions since the last retraining", "cara", ALWAYS)


def choose_threshold(stream: Stream, settings: Settings, lag: int, rows: int) -> float:
    """Return the threshold with the lowest total cost on the first events of a stream.

    A wrong prediction costs ``cost_of_error`` and a retraining its seconds times ``cost_of_second``, the settings of
    the cost-aware policy. The powers of 2 from 8 on are tried, up to the first model's wrong predictions on the prefix.
    A higher threshold is never reached there.

    Args:
        stream: The stream.
        settings: Settings of the loop.
        lag: Events between a decision and the first prediction of the new model.
        rows: Number of first events.
    """
    prefix = Stream(_cut(stream.scenario, rows), stream.embeddings[:rows])
    chosen = settings.retrain
    seconds = lag / stream.rate
    without_detectors = with_detectors(settings)

    def play(policy: Policy) -> Loop:
        loop = Loop(prefix, policy, without_detectors, lag)
        loop.run()
        return loop

    highest = int(math.log2(max(8, (~play(Never()).correct[chosen.bootstrap :]).sum())))
    costs: dict[float, float] = {}
    for threshold in (2.0**power for power in range(highest, 2, -1)):
        loop = play(Cara(threshold))
        wrong = float((~loop.correct).sum()) * chosen.cost_of_error
        costs[threshold] = wrong + len(loop.past) * seconds * chosen.cost_of_second
    return min(costs, key=lambda threshold: costs[threshold])  # the highest of equal costs


def _cut(scenario: Scenario, rows: int) -> Scenario:
    return replace(scenario, sequence=scenario.sequence[:rows], annotations=scenario.annotations[:rows])


def with_detectors(settings: Settings, *lines: str) -> Settings:
    """Return the settings with other detectors. Without any, no drift is detected.

    Args:
        settings: Settings of the loop.
        *lines: Configuration lines of the detectors.
    """
    return msgspec.structs.replace(settings, monitor=MonitorSettings(detectors=lines))


ONLINE: dict[str, Callable[[int], Any]] = {
    "softmax": lambda seed: linear_model.SoftmaxRegression(optim.SGD(1.0)),
    "hoeffding-tree": lambda seed: tree.HoeffdingAdaptiveTreeClassifier(seed=seed),
    "random-forest": lambda seed: forest.ARFClassifier(seed=seed),
    "naive-bayes": lambda seed: feature_extraction.BagOfWords(lowercase=True) | naive_bayes.MultinomialNB(),
}
"""River's learners by name, at their defaults except for the softmax head's learning rate.

Unit-length embeddings need a higher rate than the default of 0.01.
"""
READS_WORDS = frozenset({"naive-bayes"})
"""Learners that read words. The others read embeddings."""


def learn_online(stream: Stream, name: str, bootstrap: int, seed: int) -> tuple[Flags, int]:
    """Test an online learner on each event and teach it the label when that is sent.

    Predictions are compared with the true labels.

    Args:
        stream: The stream.
        name: One of `ONLINE`.
        bootstrap: Number of first events whose labels come without delay.
        seed: Seed of the learner.

    Returns:
        True for each event predicted correctly, shape (n,), and the number of labels learnt.
    """
    model = ONLINE[name](seed)
    rows, sent = stream.scenario.sequence, stream.scenario.annotations
    schedule = LabelSchedule(len(stream), stream.scenario.label_delay, bootstrap)
    correct = np.zeros(len(stream), dtype=bool)
    waiting: dict[int, Any] = {}
    learnt = 0
    for tick in range(schedule.ticks):
        if tick < len(stream):
            x = rows[tick].text if name in READS_WORDS else dict(enumerate(stream.embeddings[tick].tolist()))
            waiting[tick] = x
            correct[tick] = model.predict_one(x) == rows[tick].label
        for position in schedule.due(tick):
            label = sent[position].label if sent else rows[position].label
            x = waiting.pop(position)
            if label is not None:
                model.learn_one(x, label)
                learnt += 1
    return correct, learnt


def cross_validate(stream: Stream, seed: int, borders: Sequence[int] = ()) -> Flags:
    """Predict each event by a head fitted on the other folds, with true labels.

    Args:
        stream: The stream.
        seed: Seed of the folds.
        borders: Positions between which each part gets its own head. One head cannot learn texts that change their
            label.

    Returns:
        True for each event predicted correctly, shape (n,).
    """
    correct = np.zeros(len(stream), dtype=bool)
    for start, end in pairwise([0, *borders, len(stream)]):
        if end - start < FOLDS:
            continue
        for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(end - start)):
            rows, held = stream.window((train + start).tolist()), stream.window((test + start).tolist())
            if len(rows.classes) < 2:
                correct[test + start] = np.asarray(held.labels) == rows.labels[0]
                continue
            head = fit_head(rows, 1.0, seed)
            best = head.predict_proba(held.texts, held.embeddings).argmax(axis=1)
            correct[test + start] = np.asarray(head.classes)[best] == np.asarray(held.labels)
    return correct
