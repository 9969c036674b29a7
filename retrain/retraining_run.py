"""One retraining: quick candidates first, then slow ones in shadow; each is promoted if it proves better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
from threadpoolctl import threadpool_limits

from driftloop.core.messages import DriftAlert, Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage
from driftloop.core.topics import OUTCOMES, name
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.evaluation.shadow import Shadow, as_predictions
from retrain.fitting import sandbox
from retrain.fitting.fit_pool import FitPool
from retrain.fitting.sandbox import FitResult
from retrain.mixture.champion_learner import GuestChange, VersionLearner, as_guest
from retrain.mixture.stack import Stack
from retrain.policies.base import ALWAYS, CompletedRetraining
from retrain.promotion.candidate_promotion import CandidatePromotion, FittedCandidate, scores_of
from retrain.retraining_log import RetrainingLog
from retrain.retraining_tools import RetrainingTools
from retrain.training_window import MIN_HOLDOUT, TrainingWindow

LAST_LABELS = 10.0
"""Seconds for the last labels of a concept that has ended, before a shadow is judged."""

MIXTURE = "mixture"
EXPERTS = (MIXTURE, "linear")
"""Candidates that a mixture has among its experts already."""
OWN_ENCODER = "a head on an encoder of its own cannot join the mixture"

Cancelled = Callable[[], str | None]
"""Called often, always in the worker's thread. Returns the reason to cancel the fit, or `None` to continue."""


@dataclass
class ShadowCandidate:
    """A slow candidate whose model predicts live events in shadow of the champion."""

    candidate: FittedCandidate
    shadow: Shadow
    last_event: float = field(default_factory=time.monotonic)
    """Time of the newest labelled event that it can wait for, on the monotonic clock."""


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
        lasted: Seconds that the concept has lasted.
    """

    def __init__(
        self,
        tools: RetrainingTools,
        window: TrainingWindow,
        past: CompletedRetraining,
        log: RetrainingLog,
        scratch: Path,
        lasted: float = 0.0,
    ) -> None:
        self._tools = tools
        self._chosen = tools.settings.retrain
        self._window = window
        self._train, self._held, self._before = window.hold_out(self._chosen.holdout)
        self.past = past
        self.log = log
        self._began = time.time()
        self._lasted = lasted
        self.scratch = scratch
        self._promotion = CandidatePromotion(tools, past.trigger, self._train, self._held, log)
        self._fits: FitPool | None = None
        self._shadows: list[ShadowCandidate] = []
        # `occurred_at` of the first event after the next drift, and the alert of it.
        self._until, self._next_alert = math.inf, ""

    @property
    def running(self) -> bool:
        """Return True if a slow candidate is being fitted, or is in shadow."""
        return self._fits is not None or bool(self._shadows)

    @property
    def promoted(self) -> bool:
        """Return True if a model was promoted so far."""
        return self._promotion.promoted

    def run_quick(self, cancelled: Cancelled, known: Sequence[Outcome]) -> None:
        """Judge the archived models and then the quick candidates, or register a mixture as it has become.

        This takes seconds.

        Args:
            cancelled: Returns why the fits are pointless, or `None`.
            known: All labelled events that are kept.
        """
        if self._tools.mixture is not None:
            self._register_mixture(self._tools.mixture, known)
            return
        models = self._tools.models
        new_concept = models.origin(models.champion().version).trigger != self.past.trigger
        if new_concept and self.past.onset_at > ALWAYS:
            self._try_archived_models()
        quick = ("mixture",) if self._tools.learner else filter(catalogue.is_quick, self._chosen.candidates)
        for candidate in quick:
            reason = cancelled()
            if reason is not None:
                self.log.write("rejected", reason, candidate=candidate)
                continue
            self._run_quick_candidate(candidate, cancelled)

    def start_slow(self) -> None:
        """Start the slow candidates, each in a process of its own; `advance` continues with them.

        Beside a mixture all candidates that are not among its experts already are fitted, on all rows: they are judged
        on later ones.
        """
        if self._tools.mixture is None:
            rows, names = self._train, [one for one in self._chosen.candidates if not catalogue.is_quick(one)]
        else:
            rows, names = self._window, [one for one in self._chosen.candidates if one not in EXPERTS]
        for candidate in names:
            self.log.write("searching", f"{candidate} on {len(rows)} events", candidate=candidate)
        if names:
            make_task = partial(self._task, rows=len(rows))
            self._fits = FitPool(names, rows, make_task, self.scratch, self._chosen.parallel_fits)

    def advance(self, fresh: Sequence[Outcome], known: Sequence[Outcome]) -> None:
        """Collect finished fits, and give new labelled events to the models in shadow.

        Args:
            fresh: Labelled events since the previous call.
            known: All labelled events that are kept, for a candidate that begins its shadow.
        """
        for shadowed in self._shadows:
            waiting = len(shadowed.shadow.waiting)
            shadowed.shadow.offer(fresh)
            if len(shadowed.shadow.waiting) > waiting or (fresh and not self._next_alert):
                shadowed.last_event = time.monotonic()
        if self._fits is not None:
            for candidate, fitted in self._fits.collect():
                self._start_shadow(candidate, fitted, known)
            if not self._fits.running:
                self._fits.close()
                self._fits = None
        for shadowed in list(self._shadows):
            self._advance_shadow(shadowed, known)

    def end_at(self, alert: DriftAlert) -> None:
        """Take note of a later drift: candidates are still judged on the events before it, but not promoted.

        Args:
            alert: Alert of the later drift.
        """
        if alert.onset_at >= self._until:
            return
        self._until, self._next_alert = alert.onset_at, alert.alert_id
        for shadowed in self._shadows:
            shadowed.shadow.end_at(self._until)

    def conclude(self, reason: str) -> None:
        """Judge the shadows on their events so far, and cancel the fits that are not finished.

        Args:
            reason: Reason to cancel the fits.
        """
        champion, opponent = self._tools.models.champion(), self._opponent()
        for shadowed in [one for one in self._shadows if one.shadow.champion == opponent]:
            decision = shadowed.shadow.advance_all(self._tools.evaluator.predict_outcomes)
            self._end_shadow(shadowed, champion, refused=decision == "champion")
        self.cancel(reason)

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

    def _register_mixture(self, learner: VersionLearner, known: Sequence[Outcome]) -> None:
        """Register the mixture as it answers now, compared with the champion as it was registered.

        It answers already, so no verdict keeps it out.
        """
        began = time.monotonic()
        bundle = self.scratch / MIXTURE
        task = self._task(MIXTURE)
        change = GuestChange(leaving=learner.idle_guests)
        learner.write_bundle(bundle, self._tools.encoder, task.lineage, change)
        models = self._tools.models
        champion, model = models.champion(), models.load(bundle)
        fitted = FittedCandidate(MIXTURE, bundle, model, note="", seconds=time.monotonic() - began, guests=change)
        rows = [
            outcome
            for outcome in known
            if outcome.model_version == champion.version
            and outcome.occurred_at >= self.past.onset_at
            and outcome.reference
            and not outcome.in_sample
        ]
        verdict = None
        if len(rows) >= MIN_HOLDOUT:
            rows.sort(key=lambda outcome: outcome.occurred_at)
            predictions = (
                as_predictions([outcome.reference for outcome in rows]),
                as_predictions([outcome.probabilities for outcome in rows]),
            )
            window = self._tools.evaluator.window(rows)
            verdict = self._tools.evaluator.verdict(window, champion, model, predictions=predictions)
        answers = {outcome.event_id: outcome.probabilities for outcome in known}
        self._promotion.promote_mixture(
            fitted, verdict, lambda part: as_predictions([answers[one] for one in part.event_ids], model.labels)
        )

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
        if shadowed.shadow.champion != self._opponent():  # another one: begin anew
            shadowed.shadow = self._shadow(shadowed.candidate.model, known)
        shadow = shadowed.shadow
        decision = shadow.advance(self._tools.evaluator.predict_outcomes)
        patience = LAST_LABELS if self._next_alert else self._chosen.shadow_idle
        if decision == "undecided" and (shadow.waiting or time.monotonic() - shadowed.last_event < patience):
            return
        self._end_shadow(shadowed, self._tools.models.champion(), refused=decision == "champion")

    def _end_shadow(self, shadowed: ShadowCandidate, champion: BundleClassifier, *, refused: bool) -> None:
        """Judge a candidate after its shadow, on the events of it or else on the held-out slice.

        Args:
            shadowed: The candidate. It leaves the shadow.
            champion: The champion.
            refused: True if the champion has proved better.
        """
        self._shadows.remove(shadowed)
        candidate, shadow = shadowed.candidate, shadowed.shadow
        evaluator, compared = self._tools.evaluator, shadow.test.as_json()
        entered = candidate
        if len(shadow.rows) >= MIN_HOLDOUT:
            predictions = shadow.predictions()
            rows = evaluator.window(shadow.rows)
            if shadow.stack is not None and self._tools.mixture is not None:
                joined = self._join(self._tools.mixture, candidate, shadow.stack)
                if joined is None:
                    self._promotion.reject(candidate, OWN_ENCODER, {"shadow": compared})
                    return
                entered = joined
            verdict = evaluator.verdict(rows, champion, entered.model, predictions=predictions)
            if refused or self._next_alert:
                ended = f"{verdict.reason}; alert {self._next_alert} has ended its concept"
                reason = f"in shadow, {shadow.test.summary()}" if refused else ended
                self._promotion.reject(candidate, reason, scores_of(verdict) | {"shadow": compared})
                return
        elif refused:
            self._promotion.reject(candidate, f"in shadow, {shadow.test.summary()}", {"shadow": compared})
            return
        elif champion.trained_until < self.past.until_at and not self._next_alert and shadow.stack is None:
            # Neither of the two has learnt the held-out slice.
            verdict = evaluator.verdict(self._held, champion, candidate.model)
        else:
            ended = f" before alert {self._next_alert}" if self._next_alert else ""
            few = f"the champion has learnt the held-out events, and only {len(shadow.rows)} have come since{ended}"
            self._promotion.reject(candidate, few, {"shadow": compared})
            return
        self._promotion.register_and_promote(entered if verdict.better else candidate, verdict, compared)

    def _shadow(self, model: BundleClassifier, known: Sequence[Outcome]) -> Shadow:
        chosen, until = self._chosen, self._until
        if self._tools.mixture is not None:
            rows, since = self.past.rows, self.past.until_at
            shadow = Shadow.beside_mixture(model, chosen, rows=rows, since=since, began=self._began, until=until)
        else:
            champion = self._tools.models.champion()
            since = max(champion.trained_until, self.past.until_at)
            shadow = Shadow(model, champion.version, since, chosen.shadow, 1 - chosen.confidence, until=until)
        shadow.offer(known)
        return shadow

    def _join(self, mixture: VersionLearner, candidate: FittedCandidate, stack: Stack) -> FittedCandidate | None:
        """Return the mixture with a candidate as its guest; `None` if it cannot be one."""
        guest = as_guest(candidate.name, candidate.model, self._tools.encoder.digest)
        if guest is None:
            return None
        bundle = self.scratch / f"{candidate.name}-joined"
        parameters = {} if candidate.model.lineage is None else candidate.model.lineage.parameters
        lineage = msgspec.structs.replace(self._task(candidate.name).lineage, parameters=parameters)
        change = GuestChange(guest, stack.weight)
        mixture.write_bundle(bundle, self._tools.encoder, lineage, change)
        return replace(candidate, bundle=bundle, model=self._tools.models.load(bundle), guests=change)

    def _opponent(self) -> str:
        """Return the version whose predictions count in a shadow; empty for a mixture, where all of them do.

        Beside a mixture MLflow is not asked, so that a comparison goes on while it is away.
        """
        return "" if self._tools.mixture is not None else self._tools.models.champion().version

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
            budget=Budget(catalogue.budget_seconds(candidate, chosen, self._lasted), seed=chosen.seed),
            model=settings.model,
            lineage=lineage,
            signing_key=settings.signing_key,
            scratch=self.scratch / candidate / "scratch",
            device=chosen.device,
            dask=chosen.dask,
            warm_start=self._tools.warm_starts.of(candidate),
        )
