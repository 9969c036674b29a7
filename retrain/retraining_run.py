"""One retraining: quick candidates first, then slow ones in shadow; each is promoted if it proves better."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage
from driftloop.core.topics import OUTCOMES, name
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.evaluation.shadow import Shadow
from retrain.fitting import sandbox
from retrain.fitting.fit_pool import FitPool
from retrain.fitting.sandbox import FitResult
from retrain.policies.base import ALWAYS, CompletedRetraining
from retrain.promotion.candidate_promotion import CandidatePromotion, FittedCandidate
from retrain.retraining_log import RetrainingLog
from retrain.retraining_tools import RetrainingTools
from retrain.training_window import MIN_HOLDOUT, TrainingWindow

IDLE = 10.0
"""Seconds without a new labelled event after which a shadow is judged on the events so far."""

Cancelled = Callable[[], str | None]
"""Called often, always in the worker's thread. Returns the reason to cancel the fit, or `None` to continue."""


@dataclass
class ShadowCandidate:
    """A slow candidate whose model predicts live events in shadow of the champion."""

    candidate: FittedCandidate
    shadow: Shadow
    last_event: float = field(default_factory=time.monotonic)
    """Time of its newest labelled event, on the monotonic clock."""


class RetrainingRun:
    """The candidates of one retraining against the current champion.

    No candidate learns a slice that it is judged on. A quick winner is refitted with the held-out slices included,
    under the settings that it won with. A slow candidate is judged on the held-out slice and on all later events.

    Args:
        tools: Parts of the worker.
        window: Labelled events that the candidates learn from.
        past: Record of this retraining for the policy.
        log: Log of its state changes.
        scratch: Folder for its files.
    """

    def __init__(
        self,
        tools: RetrainingTools,
        window: TrainingWindow,
        past: CompletedRetraining,
        log: RetrainingLog,
        scratch: Path,
    ) -> None:
        self._tools = tools
        self._chosen = tools.settings.retrain
        self._window = window
        self._train, self._held, self._before = window.hold_out(self._chosen.holdout)
        self.past = past
        self.log = log
        self.scratch = scratch
        self._promotion = CandidatePromotion(tools, past.trigger, self._train, self._held, log)
        self._fits: FitPool | None = None
        self._shadows: list[ShadowCandidate] = []

    @property
    def running(self) -> bool:
        """Return True if a slow candidate is being fitted, or is in shadow."""
        return self._fits is not None or bool(self._shadows)

    @property
    def promoted(self) -> bool:
        """Return True if a model was promoted so far."""
        return self._promotion.promoted

    def run_quick(self, cancelled: Cancelled) -> None:
        """Judge the archived models and then the quick candidates; this takes seconds."""
        models = self._tools.models
        new_concept = models.origin(models.champion().version).trigger != self.past.trigger
        if new_concept and self.past.onset_at > ALWAYS:
            self._try_archived_models()
        for candidate in filter(catalogue.is_quick, self._chosen.candidates):
            reason = cancelled()
            if reason is not None:
                self.log.write("rejected", reason, candidate=candidate)
                continue
            self._run_quick_candidate(candidate, cancelled)

    def start_slow(self) -> None:
        """Start the slow candidates, each in a process of its own; `advance` continues with them."""
        names = [one for one in self._chosen.candidates if not catalogue.is_quick(one)]
        for candidate in names:
            self.log.write("searching", f"{candidate} on {len(self._train)} events", candidate=candidate)
        if names:
            self._fits = FitPool(names, self._train, self._task, self.scratch, self._chosen.parallel_fits)

    def advance(self, fresh: Sequence[Outcome], known: Sequence[Outcome]) -> None:
        """Collect finished fits, and give new labelled events to the models in shadow.

        Args:
            fresh: Labelled events since the previous call.
            known: All labelled events that are kept, for a candidate that begins its shadow.
        """
        for shadowed in self._shadows:
            shadowed.shadow.offer(fresh)
            if fresh:
                shadowed.last_event = time.monotonic()
        if self._fits is not None:
            for candidate, fitted in self._fits.collect():
                self._start_shadow(candidate, fitted, known)
            if not self._fits.running:
                self._fits.close()
                self._fits = None
        for shadowed in list(self._shadows):
            self._advance_shadow(shadowed, known)

    def cancel(self, reason: str) -> None:
        """End the fits and the shadows, each rejected with this reason."""
        for shadowed in self._shadows:
            self.log.write("rejected", reason, candidate=shadowed.candidate.name)
        self._shadows.clear()
        if self._fits is not None:
            self._fits.cancel(reason)
            self._fits.close()
            for candidate, fitted in self._fits.collect():
                self.log.write("rejected", fitted.reason or reason, candidate=candidate)
            self._fits = None

    def _try_archived_models(self) -> None:
        """Judge the champions of earlier concepts on the rows since the onset, which none of them has learnt."""
        models = self._tools.models
        since = self._window.take(slice(self._window.onset, None), 0)
        found = self._tools.evaluator.recall(since, models.champion(), models.archived())
        if found is not None:
            self._promotion.restore_archived(*found)

    def _run_quick_candidate(self, candidate: str, cancelled: Cancelled) -> None:
        """Fit a quick candidate, judge it on the held-out slices, and register it."""
        self.log.write("searching", f"{candidate} on {len(self._train)} events", candidate=candidate)
        task, folder = self._task(candidate), self.scratch / candidate
        fitted = self._load(candidate, sandbox.run(candidate, self._train, task, folder, cancel=cancelled))
        if fitted is None:
            return
        champion = self._tools.models.champion()
        origin = self._tools.models.origin(champion.version)
        verdict = self._tools.evaluator.verdict(
            self._held,
            champion,
            fitted.model,
            before=self._before if origin.trigger != self.past.trigger else None,
            refresh=(origin.trigger, origin.candidate) == (self.past.trigger, candidate),
        )
        if verdict.better:
            fitted = replace(fitted, bundle=self._refitted(candidate, fitted.bundle))
        self._promotion.register_and_promote(fitted, verdict)

    def _start_shadow(self, candidate: str, result: FitResult, known: Sequence[Outcome]) -> None:
        """Put the model of a finished fit in shadow of the champion."""
        if result.bundle is not None:
            self._tools.warm_starts.keep(candidate, result.bundle)
        fitted = self._load(candidate, result)
        if fitted is None:
            return
        self.log.write("shadow", "predicts live events beside the champion", candidate=candidate)
        self._shadows.append(ShadowCandidate(fitted, self._shadow(fitted.model, known)))

    def _advance_shadow(self, shadowed: ShadowCandidate, known: Sequence[Outcome]) -> None:
        """Compare a model in shadow on the next events, and judge it when the comparison ends."""
        champion, evaluator = self._tools.models.champion(), self._tools.evaluator
        candidate = shadowed.candidate
        if shadowed.shadow.champion != champion.version:  # another opponent: begin anew
            shadowed.shadow = self._shadow(candidate.model, known)
        shadow = shadowed.shadow
        decision = shadow.advance(evaluator.predict_outcomes)
        if decision == "undecided" and (shadow.waiting or time.monotonic() - shadowed.last_event < IDLE):
            return
        self._shadows.remove(shadowed)
        compared = shadow.test.as_json()
        if decision == "champion":
            self._promotion.reject(candidate, f"in shadow, {shadow.test.summary()}", {"shadow": compared})
            return
        if len(shadow.rows) >= MIN_HOLDOUT:
            predictions = shadow.predictions()
            rows = evaluator.window(shadow.rows)
            verdict = evaluator.verdict(rows, champion, candidate.model, predictions=predictions)
        elif champion.trained_until < self.past.until_at:  # the champion has not learnt the held-out slice
            verdict = evaluator.verdict(self._held, champion, candidate.model)
        else:
            few = f"the champion has learnt the held-out events, and only {len(shadow.rows)} have come since"
            self._promotion.reject(candidate, few, {"shadow": compared})
            return
        self._promotion.register_and_promote(candidate, verdict, compared)

    def _shadow(self, model: BundleClassifier, known: Sequence[Outcome]) -> Shadow:
        champion = self._tools.models.champion()
        since = max(champion.trained_until, self.past.until_at)
        shadow = Shadow(model, champion.version, since, self._chosen.shadow, 1 - self._chosen.confidence)
        shadow.offer(known)
        return shadow

    def _load(self, candidate: str, result: FitResult) -> FittedCandidate | None:
        """Return the loaded model of a fit; log a rejection and return `None` if the fit has failed."""
        if result.bundle is None:
            self.log.write("rejected", result.reason, candidate=candidate, seconds=round(result.seconds, 2))
            return None
        model = self._tools.models.load(result.bundle)
        return FittedCandidate(candidate, result.bundle, model, note=result.reason, seconds=result.seconds)

    def _refitted(self, candidate: str, bundle: Path) -> Path:
        """Refit the winner with the held-out slices; return its own bundle if a refit would take long."""
        out = self.scratch / f"{candidate}-refitted"
        task = self._task(candidate, rows=len(self._window))
        with threadpool_limits(1):  # threads of a BLAS spin, and cost more than they give
            return out if catalogue.find(candidate).refit(self._window, bundle, task, out) else bundle

    def _task(self, candidate: str, rows: int | None = None) -> Task:
        settings, chosen = self._tools.settings, self._chosen
        seconds = {"linear": chosen.linear_seconds, "tpot": chosen.tpot_seconds, "finetune": chosen.finetune_seconds}
        lineage = Lineage(
            candidate=candidate,
            trigger=self.past.trigger,
            dataset_revision=settings.dataset,
            topic=name(settings, OUTCOMES),
            first_offset=self._window.first_offset,
            last_offset=self._window.last_offset,
            rows=len(self._train) if rows is None else rows,
            trained_until=self.past.until_at,
            parent_version=self._tools.models.champion().version,
        )
        return Task(
            budget=Budget(seconds.get(candidate, chosen.finetune_seconds), seed=chosen.seed),
            model=settings.model,
            lineage=lineage,
            signing_key=settings.signing_key,
            scratch=self.scratch / candidate / "scratch",
            device=chosen.device,
            dask=chosen.dask,
            warm_start=self._tools.warm_starts.of(candidate),
        )
