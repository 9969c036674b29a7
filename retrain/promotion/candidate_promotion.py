"""Registration of the judged candidates of a retraining, and promotion of the better ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from threadpoolctl import threadpool_limits

from driftloop.core.models.bundle import BundleClassifier, BundleDraft, verify_bundle
from driftloop.core.models.classifier import Predictions
from retrain.evaluation.gate import Verdict
from retrain.evaluation.quantisation_check import check_quantisation
from retrain.mixture.champion_learner import GuestChange
from retrain.promotion.first_stage import make_cascade
from retrain.retraining_log import RetrainingLog
from retrain.retraining_tools import RetrainingTools
from retrain.training_window import TrainingWindow

PARTS = ("shadow", "quantisation", "first_stage")
"""Scores that have figures of their own."""


Predict = Callable[[TrainingWindow], Predictions]


@dataclass(frozen=True)
class FittedCandidate:
    """A candidate whose fit has produced a bundle."""

    name: str
    bundle: Path
    """Bundle to register: the fitted one, or the one refitted with the held-out slices."""
    model: BundleClassifier
    """The fitted model, which is judged."""
    note: str
    """Remark about the fit; empty if it ended as planned."""
    seconds: float
    """Wall-clock seconds of the fit."""
    guests: GuestChange | None = None
    """Change of the champion's guests that makes the model; `None` for a model that is no mixture."""


class CandidatePromotion:
    """Registers judged candidates, and promotes the better ones or marks them as waiting for approval.

    Args:
        tools: Parts of the worker.
        trigger: Trigger of the retraining.
        train: Rows that the candidates have learnt.
        held: Rows that they have not learnt.
        log: Log of the retraining.
    """

    def __init__(
        self, tools: RetrainingTools, trigger: str, train: TrainingWindow, held: TrainingWindow, log: RetrainingLog
    ) -> None:
        self._tools = tools
        self._trigger = trigger
        self._train = train
        self._held = held
        self._log = log
        self.promoted = False
        """`True` if a model was promoted so far."""

    def register_and_promote(
        self, candidate: FittedCandidate, verdict: Verdict, shadow: Mapping[str, Any] | None = None
    ) -> None:
        """Register a candidate, and promote it if the verdict is better.

        Args:
            candidate: Judged candidate.
            verdict: Verdict of the gate.
            shadow: Result of its comparison in shadow as plain data; `None` without one.
        """
        scores = scores_of(verdict)
        if shadow is not None:
            scores["shadow"] = dict(shadow)
        if candidate.note:
            scores["fit"] = candidate.note
        if verdict.better:
            scores |= self._finish_bundle(candidate)
        seconds = round(candidate.seconds, 2)
        note = verdict.reason
        self._log.write("gated", note, candidate=candidate.name, seconds=seconds, scores=scores)
        if not verdict.better:
            self.reject(candidate, note, scores)
            return
        version = self._register(candidate, note, scores)
        details = {"candidate": candidate.name, "version": version, "scores": scores, "seconds": seconds}
        if self._tools.settings.retrain.approval == "manual":
            self._tools.promoter.mark_pending(version, note)
            self._log.write("waiting", f"waits for `driftloop approve {version}`: {note}", **details)
            return
        self._promote(candidate, note, details)

    def promote_mixture(self, candidate: FittedCandidate, verdict: Verdict | None, answers: Predict) -> None:
        """Register and promote a mixture as it answers already.

        Args:
            candidate: The mixture.
            verdict: Comparison of its answers with the champion as it was registered. `None`: too few labels for one.
            answers: Returns the predictions that were made for rows, before their labels came.
        """
        scores = {} if verdict is None else scores_of(verdict)
        draft = BundleDraft.open(candidate.bundle)
        scores |= self._add_first_stage(candidate.model, draft, answers)
        draft.sign(self._tools.settings.signing_key)
        note = f"what the mixture has learnt since version {self._tools.models.champion().version}"
        if verdict is not None:
            figures = f"{verdict.challenger_accuracy:.3f} against {verdict.champion_accuracy:.3f}"
            note = f"{note}: accuracy {figures} without it, on the newest {verdict.rows} events"
        seconds = round(candidate.seconds, 2)
        self._log.write("gated", note, candidate=candidate.name, seconds=seconds, scores=scores)
        version = self._register(candidate, note, scores)
        details = {"candidate": candidate.name, "version": version, "scores": scores, "seconds": seconds}
        self._promote(candidate, note, details)

    def reject(self, candidate: FittedCandidate, note: str, scores: dict[str, Any]) -> None:
        """Register a candidate as rejected.

        Args:
            candidate: Judged candidate.
            note: Reason of the rejection.
            scores: Scores of the verdict; empty without one.
        """
        version = self._register(candidate, note, scores)
        self._tools.promoter.reject(version, note)
        seconds = round(candidate.seconds, 2)
        self._log.write("rejected", note, candidate=candidate.name, version=version, scores=scores, seconds=seconds)

    def restore_archived(self, version: str, verdict: Verdict) -> None:
        """Restore an archived model if its verdict is better.

        Args:
            version: Version of the archived model.
            verdict: Verdict of the gate.
        """
        scores = scores_of(verdict)
        note = f"version {version} of an earlier concept is {verdict.reason}"
        self._log.write("gated", note, candidate="archive", scores=scores)
        if not verdict.better:
            self._log.write("rejected", note, candidate="archive", scores=scores)
            return
        predecessor = self._tools.models.champion()
        restored = self._tools.promoter.restore(version, note, "promote", self._trigger)
        self._tools.probation.begin(predecessor, restored)
        self.promoted = True
        self._log.write("promoted", note, candidate="archive", version=restored, scores=scores)

    def _promote(self, candidate: FittedCandidate, note: str, details: Mapping[str, Any]) -> None:
        """Promote a registered candidate, and write it into the log with these details.

        A mixture goes on learning under its new version.
        """
        version = details["version"]
        predecessor = self._tools.models.champion()
        self._tools.promoter.promote(version, note, self._trigger)
        if candidate.guests is not None and self._tools.learner is not None:
            self._tools.learner.renew(version, candidate.guests)
        self._tools.probation.begin(predecessor, version)
        self.promoted = True
        self._log.write("promoted", note, **details)

    def _register(self, candidate: FittedCandidate, note: str, scores: dict[str, Any]) -> str:
        lineage = verify_bundle(candidate.bundle, self._tools.settings.signing_key).lineage
        metrics = metrics_of(scores) | {"seconds": candidate.seconds}
        tags = {"reason": note} | ({"checks": list_checks(scores["checks"])} if scores.get("checks") else {})
        return self._tools.promoter.register(candidate.name, candidate.bundle, lineage, metrics, tags)

    def _finish_bundle(self, candidate: FittedCandidate) -> dict[str, Any]:
        """Check the quantisation, add a first stage, and sign the bundle once; return the scores of both."""
        settings, model = self._tools.settings, candidate.model
        predict = partial(self._tools.evaluator.predict, model)
        draft = BundleDraft.open(candidate.bundle)
        quantisation = None
        if candidate.guests is None:  # the encoder of a mixture stays: the labels before were embedded by it
            with threadpool_limits(1):
                quantisation = check_quantisation(model, draft, self._held, predict, settings)
        parts = self._add_first_stage(model, draft, predict)
        draft.sign(settings.signing_key)
        if quantisation is not None:
            parts["quantisation"] = _rounded(quantisation._asdict())
        return parts

    def _add_first_stage(self, model: BundleClassifier, draft: BundleDraft, predict: Predict) -> dict[str, Any]:
        """Make the model a cascade if that costs little; return the scores of the first stage."""
        with threadpool_limits(1):
            cascade = make_cascade(model, draft, self._train, self._held, predict, self._tools.settings)
        return {} if cascade is None else {"first_stage": _rounded(asdict(cascade))}


def scores_of(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict under the names that MLflow and the topic `retraining` use, with its checks and groups."""
    return {
        "champion_accuracy": round(verdict.champion_accuracy, 4),
        "accuracy": round(verdict.challenger_accuracy, 4),
        "difference_low": round(verdict.low, 4),
        "difference_high": round(verdict.high, 4),
        "brier_gain_low": round(verdict.brier_low, 4),
        "brier_gain_high": round(verdict.brier_high, 4),
        "brier_gain": round(verdict.brier_gain, 4),
        "held_out": float(verdict.rows),
        "refresh": verdict.refresh,
        **{key: part for key, part in verdict.as_json().items() if key in ("checks", "segments", "classes")},
    }


def metrics_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures among the scores as metrics for MLflow, such as `accuracy` and `shadow_accuracy_gain`."""
    metrics = {name: value for name, value in scores.items() if isinstance(value, float)}
    for part in PARTS:
        for name, value in scores.get(part, {}).items():
            if isinstance(value, int | float):
                metrics[f"{part}_{name}"] = float(value)
    return metrics


def list_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each check of the gate, as a tag for MLflow."""
    results = ("excused" if check["excused"] else "passed" if check["passed"] else "failed" for check in checks)
    return "\n".join(
        f"{check['name']} {result}: {check['words']}" for check, result in zip(checks, results, strict=True)
    )


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
