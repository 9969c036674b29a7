"""One retraining: quick candidates first, then the slow ones in shadow; each is promoted where it proves better."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from driftloop.core.messages import Outcome
from driftloop.core.models.bundle import BundleClassifier, Lineage, verify_bundle
from driftloop.core.settings import Settings
from driftloop.core.topics import OUTCOMES, name
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.evaluation.evaluator import Evaluator
from retrain.evaluation.gate import Verdict
from retrain.evaluation.quantisation_check import compare_precision
from retrain.evaluation.shadow import Answer, Shadow
from retrain.fitting import sandbox
from retrain.fitting.fit_pool import FitPool
from retrain.fitting.warm_start import WarmStartStore
from retrain.policies.policies import ALWAYS, CompletedRetraining
from retrain.promotion.champions import Champions
from retrain.promotion.first_stage import make_cascade
from retrain.promotion.promoter import RetrainingLog
from retrain.training_window import MIN_HOLDOUT, TrainingWindow

IDLE = 10.0
"""Seconds without a new labelled event after which a shadow is decided on with what it has."""
UNDECIDED = "undecided"

Ended = Callable[[], str | None]
"""Asked often, always in the worker's thread: the reason to end what is under way, None while there is none."""


@dataclass
class ShadowCandidate:
    """A slow candidate that is fitted and answers live events in shadow."""

    candidate: str
    fitted: sandbox.FitResult
    bundle: Path
    model: BundleClassifier
    shadow: Shadow
    heard: float = field(default_factory=time.monotonic)
    """When it was last given an event."""


class RetrainingRun:
    """The candidates of one retraining against the champion of the moment.

    No candidate sees a slice that it is judged on. A quick winner is fitted once more with the held-out slices
    included, under the settings it won with; a slow one is judged on the held-out slice and on all that came after it.
    """

    def __init__(
        self,
        settings: Settings,
        window: TrainingWindow,
        past: CompletedRetraining,
        *,
        evaluation: Evaluator,
        champions: Champions,
        diary: RetrainingLog,
        scratch: Path,
        earlier: WarmStartStore,
    ) -> None:
        self._settings = settings
        self._earlier = earlier
        self._evaluation = evaluation
        self._whole = window
        self._train, self._held, self._before = window.hold_out(settings.retrain.holdout)
        self.past = past
        self._champions = champions
        self.diary = diary
        self.scratch = scratch
        self._search: FitPool | None = None
        self._contenders: list[ShadowCandidate] = []
        self.promoted = False
        """Whether a candidate has been promoted so far."""

    @property
    def running(self) -> bool:
        """Whether a slow candidate is still being fitted, or in shadow."""
        return self._search is not None or bool(self._contenders)

    def answer(self, ended: Ended) -> None:
        """What can be said within seconds: a model of the memory, then the quick candidates."""
        champion = self._champions.current()
        known = self._champions.known(champion.version)
        first = known.trigger != self.past.trigger
        if first and self.past.onset_at > ALWAYS:
            self._try_archived_models()
        for candidate in filter(catalogue.is_quick, self._settings.retrain.candidates):
            reason = ended()
            if reason is not None:
                self.diary.write("rejected", reason, candidate=candidate)
                continue
            self.diary.write("searching", f"{candidate} on {len(self._train)} events", candidate=candidate)
            task = self._task(candidate)
            fitted = sandbox.run(candidate, self._train, task, self.scratch / candidate, cancel=ended)
            if fitted.bundle is None:
                self.diary.write("rejected", fitted.reason, candidate=candidate, seconds=round(fitted.seconds, 2))
                continue
            champion = self._champions.current()
            known = self._champions.known(champion.version)
            model = self._champions.load(fitted.bundle)
            verdict = self._evaluation.verdict(
                self._held,
                champion,
                model,
                before=self._before if known.trigger != self.past.trigger else None,
                refresh=(known.trigger, known.candidate) == (self.past.trigger, candidate),
            )
            bundle = self._refitted(candidate, fitted.bundle) if verdict.better else fitted.bundle
            self._register_and_promote(candidate, bundle, verdict, fitted, model)

    def search(self) -> None:
        """Start the slow candidates, each in a process of its own; `follow` goes on with them."""
        names = [one for one in self._settings.retrain.candidates if not catalogue.is_quick(one)]
        for candidate in names:
            self.diary.write("searching", f"{candidate} on {len(self._train)} events", candidate=candidate)
        if names:
            self._search = FitPool(names, self._train, self._task, self.scratch, self._settings.retrain.at_once)

    def follow(self, fresh: Sequence[Outcome], known: Sequence[Outcome], answer: Answer) -> None:
        """Take what has come since the last call: fits that have ended, and labelled events for those in shadow.

        ``known`` are all labelled events that are kept, for a candidate that begins.
        """
        for contender in self._contenders:
            contender.shadow.offer(fresh)
            if fresh:
                contender.heard = time.monotonic()
        if self._search is not None:
            for candidate, fitted in self._search.collect():
                self._start_shadow(candidate, fitted, known)
            if not self._search.running:
                self._search.close()
                self._search = None
        for contender in list(self._contenders):
            self._advance_shadow(contender, known, answer)

    def cancel(self, reason: str) -> None:
        """End the fits and the shadows: each is rejected with this reason."""
        for contender in self._contenders:
            self.diary.write("rejected", reason, candidate=contender.candidate)
        self._contenders.clear()
        if self._search is not None:
            self._search.cancel(reason)
            self._search.close()
            for candidate, fitted in self._search.collect():
                self.diary.write("rejected", fitted.reason or reason, candidate=candidate)
            self._search = None

    def _try_archived_models(self) -> None:
        """Try the champions of concepts seen before on the rows since the onset, which none of them has seen."""
        since = self._whole.take(slice(self._whole.onset, None), 0)
        found = self._evaluation.recall(since, self._champions.current(), self._champions.archived())
        if found is None:
            return
        version, verdict = found
        scores = scores_of(verdict)
        said = f"version {version} of an earlier concept: {verdict.reason}"
        self.diary.write("gated", said, candidate="archive", scores=scores)
        if verdict.better:
            restored = self._champions.restore(version, said, "promote", self.past.trigger)
            self.promoted = True
            self.diary.write("promoted", said, candidate="archive", version=restored, scores=scores)
        else:
            self.diary.write("rejected", said, candidate="archive", scores=scores)

    def _start_shadow(self, candidate: str, fitted: sandbox.FitResult, known: Sequence[Outcome]) -> None:
        """A fit has ended: put its model in shadow of the champion."""
        if fitted.bundle is None:
            self.diary.write("rejected", fitted.reason, candidate=candidate, seconds=round(fitted.seconds, 2))
            return
        self._earlier.keep(candidate, fitted.bundle)
        model = self._champions.load(fitted.bundle)
        self.diary.write("shadow", "answers live events beside the champion", candidate=candidate)
        self._contenders.append(ShadowCandidate(candidate, fitted, fitted.bundle, model, self._shadow(model, known)))

    def _shadow(self, model: BundleClassifier, known: Sequence[Outcome]) -> Shadow:
        champion = self._champions.current()
        chosen = self._settings.retrain
        since = max(champion.trained_until, self.past.until_at)
        shadow = Shadow(model, champion.version, since, chosen.shadow, 1 - chosen.confidence)
        shadow.offer(known)
        return shadow

    def _advance_shadow(self, contender: ShadowCandidate, known: Sequence[Outcome], answer: Answer) -> None:
        """Go on with one in shadow, and decide on it where that can be done."""
        champion = self._champions.current()
        if contender.shadow.champion != champion.version:  # another opponent: from the beginning
            contender.shadow = self._shadow(contender.model, known)
        shadow = contender.shadow
        found = shadow.work(answer)
        if found == UNDECIDED and (shadow.waiting or time.monotonic() - contender.heard < IDLE):
            return
        self._contenders.remove(contender)
        words = shadow.test.words()
        if found == "champion":
            self._reject(contender.candidate, contender.bundle, f"in shadow, {words}", {}, contender.fitted)
            return
        if len(shadow.rows) >= MIN_HOLDOUT:
            said = shadow.answers()
            rows = self._champions.window(shadow.rows)
            verdict = self._evaluation.verdict(rows, champion, contender.model, said=said)
        elif champion.trained_until < self.past.until_at:  # the slice that was kept aside decides
            verdict = self._evaluation.verdict(self._held, champion, contender.model)
        else:
            few = f"the champion has learnt the held-out events, and only {len(shadow.rows)} have come since"
            self._reject(contender.candidate, contender.bundle, few, {}, contender.fitted)
            return
        model, shadowed = contender.model, f"in shadow, {words}"
        self._register_and_promote(contender.candidate, contender.bundle, verdict, contender.fitted, model, shadowed)

    def _register_and_promote(
        self,
        candidate: str,
        bundle: Path,
        verdict: Verdict,
        fitted: sandbox.FitResult,
        model: BundleClassifier,
        before: str = "",
    ) -> None:
        """Register, and promote where better; ``model`` is what was judged, ``bundle`` what is to be promoted."""
        scores = scores_of(verdict)
        seconds = round(fitted.seconds, 2)
        made = self._make_ready(model, bundle) if verdict.better else []
        note = "; ".join(part for part in (verdict.reason, before, fitted.reason, *made) if part)
        self.diary.write("gated", note, candidate=candidate, seconds=seconds, scores=scores)
        if not verdict.better:
            self._reject(candidate, bundle, note, scores, fitted)
            return
        version = self._register(candidate, bundle, note, scores, fitted)
        details = {"candidate": candidate, "version": version, "scores": scores, "seconds": seconds}
        if self._settings.retrain.approval == "manual":
            self._champions.wait(version, note)
            self.diary.write("waiting", f"waits for `driftloop approve {version}`: {note}", **details)
            return
        self._champions.promote(version, note, self.past.trigger)
        self.promoted = True
        self.diary.write("promoted", note, **details)

    def _make_ready(self, model: BundleClassifier, bundle: Path) -> list[str]:
        """Compare a model that is to be promoted with itself in full precision, give it a first stage, and say so."""
        answers = partial(self._evaluation.answers, model)
        with threadpool_limits(1):
            compared = compare_precision(model, bundle, self._held, answers, self._settings)
            worth = make_cascade(model, bundle, self._train, self._held, answers, self._settings)
        said = [] if compared is None else [compared.words()]
        if worth is not None:
            said.append(
                f"its first stage may answer {worth.share:.0%} of the events: accuracy {-worth.loss:+.3f} on "
                f"{worth.rows} held-out ones, no less than {-worth.loss_high:+.3f} beyond chance"
            )
        return said

    def _reject(
        self, candidate: str, bundle: Path, note: str, scores: dict[str, Any], fitted: sandbox.FitResult
    ) -> None:
        version = self._register(candidate, bundle, note, scores, fitted)
        self._champions.reject(version, note)
        seconds = round(fitted.seconds, 2)
        self.diary.write("rejected", note, candidate=candidate, version=version, scores=scores, seconds=seconds)

    def _register(
        self, candidate: str, bundle: Path, note: str, scores: dict[str, Any], fitted: sandbox.FitResult
    ) -> str:
        lineage = verify_bundle(bundle, self._settings.signing_key).lineage
        numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
        return self._champions.register(
            candidate, bundle, lineage, {**numbers, "seconds": fitted.seconds}, {"reason": note}
        )

    def _refitted(self, candidate: str, bundle: Path) -> Path:
        """The winner with the held-out slices included, or as it is where that would take long."""
        out = self.scratch / f"{candidate}-refitted"
        task = self._task(candidate, rows=len(self._whole))
        with threadpool_limits(1):  # threads of a BLAS spin, and cost more than they give
            return out if catalogue.find(candidate).refit(self._whole, bundle, task, out) else bundle

    def _task(self, candidate: str, rows: int | None = None) -> Task:
        chosen = self._settings.retrain
        seconds = {"linear": chosen.linear_seconds, "tpot": chosen.tpot_seconds, "finetune": chosen.finetune_seconds}
        lineage = Lineage(
            candidate=candidate,
            trigger=self.past.trigger,
            dataset_revision=self._settings.dataset,
            topic=name(self._settings, OUTCOMES),
            first_offset=self._whole.first_offset,
            last_offset=self._whole.last_offset,
            rows=len(self._train) if rows is None else rows,
            trained_until=self.past.until_at,
            parent_version=self._champions.current().version,
        )
        budget = Budget(seconds.get(candidate, chosen.finetune_seconds), seed=chosen.seed)
        return Task(
            budget,
            self._settings.model,
            lineage,
            self._settings.signing_key,
            self.scratch / candidate / "scratch",
            chosen.device,
            chosen.dask,
            self._earlier.of(candidate),
        )


def scores_of(verdict: Verdict) -> dict[str, Any]:
    """The verdict under the names that MLflow and the topic `retraining` use, its checks and groups included."""
    return {
        "champion_accuracy": round(verdict.champion_accuracy, 4),
        "accuracy": round(verdict.challenger_accuracy, 4),
        "difference_low": round(verdict.low, 4),
        "difference_high": round(verdict.high, 4),
        "brier_gain_low": round(verdict.brier_low, 4),
        "brier_gain_high": round(verdict.brier_high, 4),
        "held_out": float(verdict.rows),
        **{key: part for key, part in verdict.as_json().items() if key in ("checks", "segments", "classes")},
    }
