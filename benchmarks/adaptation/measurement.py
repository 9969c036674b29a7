"""Measurement of one system on one stream: accuracy, detections, retrainings and CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from threadpoolctl import threadpool_limits

from benchmarks.adaptation import baselines
from benchmarks.adaptation.baselines import Cara, Flags, ScriptedAlerts, with_detectors
from benchmarks.adaptation.in_process_loop import Loop
from benchmarks.adaptation.mixture_loop import MixtureLoop, parse_system
from benchmarks.adaptation.playback import Playback, Stream
from benchmarks.adaptation.recurrence import recoveries
from benchmarks.adaptation.results import BLOCK, Measured, Row
from driftloop.core.errors import DriftloopError
from driftloop.core.messages import DriftAlert
from driftloop.core.settings import Settings
from producers.scenarios.scenarios import Scenario
from retrain.candidates.base import CannotFit
from retrain.policies.base import Policy
from retrain.policies.builtin import Never
from retrain.policies.catalogue import make_policy
from serving.simulation.drift_scoring import MAX_DELAY, Truth, judge_alerts
from stream_processors.drift.detectors import FAMILIES, make_detector

COUNTED_FROM = 2000
"""Position from which accuracy counts, as in `summary.json`. Half of a shorter stream."""
SYSTEMS = (
    "never", *(f"periodic:{period}" for period in (5000, 2000, 1000, 500, 250, 125)), "on-drift", "cost-aware",
    "mixture",
    *(f"error:{name}" for name in FAMILIES), "oracle", "always-fire", "never-fire", "cara",
    *(f"online:{name}" for name in baselines.ONLINE), "iid", "iid-concepts",
)  # fmt: skip
"""Policies, single detectors under the on-drift policy (any `signal:detector`), and references."""
WITHOUT_LOOP: dict[str, Any] = {"retrainings": 0, "refreshes": 0, "swaps": 0, "rollbacks": 0, "swapped_at": []}
"""Fields of a row of a system that retrains nothing."""
NEED_DRIFTS = frozenset({"oracle", "iid-concepts"})
"""Systems that know the true drifts. They are skipped if the drifts are unknown."""


def measure(stream: Stream, system: str, settings: Settings, seconds: float) -> Measured:
    """Play one stream under one system.

    Args:
        stream: The stream.
        system: One of `SYSTEMS`, `periodic:EVENTS`, a detector such as `error:adwin?delta=0.01`, or a mixture such as
            `mixture?share=0.02`; see `benchmarks.adaptation.mixture_loop.LoopOptions`.
        settings: Settings of the loop.
        seconds: Time from a decision to the new model's first prediction, at the scenario's rate.

    Raises:
        DriftloopError: The system is unknown, or the first model cannot be fitted.
    """
    settings = _with_bootstrap(settings, stream.scenario)
    began = time.process_time()
    with threadpool_limits(1):  # as the sandbox of the live loop does
        if system.partition("?")[0] == "mixture":
            mixture = MixtureLoop(stream, settings, parse_system(system))
            _play(mixture, settings)
            row = _row(stream, system, mixture.correct, settings, mixture.alerts, mixture)
            cpu = mixture.cpu
        elif system.startswith("online:"):
            row = _measure_online(stream, system, settings)
            cpu = {"watch": 0.0, "retrain": time.process_time() - began}
        elif system in ("iid", "iid-concepts"):
            borders = stream.scenario.drifts if system == "iid-concepts" else ()
            correct = baselines.cross_validate(stream, settings.retrain.seed, borders)
            row = _row(stream, system, correct, settings, fits=baselines.FOLDS)
            cpu = {"watch": 0.0, "retrain": time.process_time() - began}
        else:
            row, cpu = _measure_loop(stream, system, settings, seconds)
    cpu = {name: round(spent, 2) for name, spent in {**cpu, "whole": time.process_time() - began}.items()}
    return Measured(row, cpu)


def _with_bootstrap(settings: Settings, scenario: Scenario) -> Settings:
    """Set the events of the first model: at most a quarter of the stream, unless the scenario has a number.

    The mixture is a system of its own; the policies are those of a single champion.

    Raises:
        DriftloopError: No event would be left.
    """
    bootstrap = scenario.bootstrap or min(settings.retrain.bootstrap, max(1, len(scenario) // 4))
    if bootstrap >= len(scenario):
        raise DriftloopError(
            f"The first model of {scenario.name} would learn {bootstrap} events, and there are {len(scenario)}: set "
            "`bootstrap` in the scenario, or --bootstrap for a CSV file, lower."
        )
    retrain = msgspec.structs.replace(settings.retrain, bootstrap=bootstrap, mixture=False)
    return msgspec.structs.replace(settings, retrain=retrain)


def _measure_online(stream: Stream, system: str, settings: Settings) -> Row:
    name = system.partition(":")[2]
    if name not in baselines.ONLINE:
        raise DriftloopError(f"There is no online learner {name!r}: choose one of {', '.join(baselines.ONLINE)}.")
    retrain = settings.retrain
    correct, learnt = baselines.learn_online(stream, name, retrain.bootstrap, retrain.seed)
    return _row(stream, system, correct, settings, fits=learnt)


def _measure_loop(stream: Stream, system: str, settings: Settings, seconds: float) -> tuple[Row, dict[str, float]]:
    lag = round(seconds * stream.rate)
    began = time.process_time()
    policy, settings = _make_policy(stream, system, settings, lag)
    choosing = time.process_time() - began
    loop = Loop(stream, policy, settings, lag)
    _play(loop, settings)
    alerts: Sequence[DriftAlert] | None = loop.alerts if settings.monitor.detectors else None
    if isinstance(policy, ScriptedAlerts) and system != "oracle":
        alerts = policy.alerts
    return _row(stream, system, loop.correct, settings, alerts, loop), {
        "watch": loop.cpu["watch"],
        "retrain": loop.cpu["retrain"] + choosing,
    }


def _play(loop: Playback, settings: Settings) -> None:
    try:
        loop.run()
    except CannotFit as error:
        raise DriftloopError(
            f"The first model of {loop.stream.scenario.name} cannot be fitted on {settings.retrain.bootstrap} events "
            f"({error}): set `bootstrap` in the scenario, or --bootstrap for a CSV file, higher."
        ) from error


def _make_policy(stream: Stream, system: str, settings: Settings, lag: int) -> tuple[Policy, Settings]:
    """Return the policy of a system, and the settings with its detectors."""
    kind, _, rest = system.partition(":")
    on_drift = make_policy(msgspec.structs.replace(settings.retrain, policy="on-drift"))
    without_detectors = with_detectors(settings)
    scripts = {
        "oracle": baselines.oracle_alerts(stream.scenario),
        "always-fire": baselines.dummy_alerts(stream.scenario, settings.retrain.bootstrap),
        "never-fire": (),
    }
    if system == "never":
        return Never(), settings
    if system in ("on-drift", "cost-aware"):
        return make_policy(msgspec.structs.replace(settings.retrain, policy=kind)), settings
    if kind == "periodic" and rest.isdigit() and int(rest) > 0:
        periodic = msgspec.structs.replace(settings.retrain, policy=kind, period=int(rest))
        return make_policy(periodic), without_detectors
    if system in scripts:
        return ScriptedAlerts(on_drift, scripts[system]), without_detectors
    if system == "cara":
        rows = _counted_from(stream, settings)
        return Cara(baselines.choose_threshold(stream, settings, lag, rows)), without_detectors
    if kind in ("error", "confidence", "mix") or system.startswith("fused"):
        if not system.startswith("fused"):
            make_detector(system)  # raises if it is unknown
        return on_drift, with_detectors(settings, system)
    raise DriftloopError(
        f"There is no system {system!r}: choose of {', '.join(SYSTEMS)}, periodic:EVENTS, or a detector such as "
        "error:adwin?delta=0.01."
    )


def _counted_from(stream: Stream, settings: Settings) -> int:
    return max(min(COUNTED_FROM, len(stream) // 2), settings.retrain.bootstrap)


def _row(
    stream: Stream, system: str, correct: Flags, settings: Settings,
    alerts: Sequence[DriftAlert] | None = None, loop: Playback | None = None, fits: int = 0,
) -> Row:  # fmt: skip
    """Make the row of a system. ``alerts`` is None if nothing watched, ``loop`` if the system has no loop."""
    scenario, start = stream.scenario, _counted_from(stream, settings)
    known = scenario.drifts_known
    segments = [row.segment for row in scenario.sequence]
    return Row(
        scenario=scenario.name,
        seed=scenario.seed,
        system=system,
        events=len(stream),
        counted_from=start,
        accuracy=round(float(correct[start:].mean()), 4),
        blocks=[round(float(correct[at : at + BLOCK].mean()), 4) for at in range(0, len(correct), BLOCK)],
        drifts=list(scenario.drifts) if known else None,
        recoveries=recoveries(correct, segments, scenario.drifts, scenario.label_delay) if known else [],
        **(WITHOUT_LOOP | {"fits": fits} if loop is None else loop.counts()),
        **_detections(stream, settings, alerts),
    )


def _detections(stream: Stream, settings: Settings, alerts: Sequence[DriftAlert] | None) -> dict[str, Any]:
    """Return the fields of a row about alerts, judged by the true drifts."""
    scenario, bootstrap = stream.scenario, settings.retrain.bootstrap
    truth = Truth(scenario.name, scenario.drifts, scenario.drifts_known, bootstrap)
    found, judged = judge_alerts(alerts or (), truth, range(len(stream)))
    ends = [*scenario.drifts[1:], len(stream)][: len(scenario.drifts)]
    busy = sum(min(end - at, MAX_DELAY) for at, end in zip(scenario.drifts, ends, strict=True))
    watched = alerts is not None and scenario.drifts_known
    delays = [one.delay for one in found if one.delay is not None]
    verdicts = [one.verdict for one in judged]
    return {
        "detected": len(delays) if watched else None,
        "delays": delays if watched else [],
        "false_alarms": verdicts.count("false alarm") if watched else None,
        "repeats": verdicts.count("repeat") if watched else None,
        "quiet_events": max(0, len(stream) - bootstrap - busy),
        "alerts": [(one.position, one.signal, one.verdict) for one in judged],
    }
