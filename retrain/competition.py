"""Where candidates compete: fitted on one window, judged on one held-out slice, promoted where better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from threadpoolctl import threadpool_limits

from driftloop.classifiers.base import Predictions
from driftloop.classifiers.bundle import BundleClassifier, Lineage, load_bundle, verify_bundle
from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.settings import Settings
from driftloop.topics import OUTCOMES, name
from retrain import sandbox
from retrain.candidates import catalogue
from retrain.candidates.base import Budget, Task
from retrain.gate import Verdict, compare
from retrain.policies import Past
from retrain.promotion import Diary, Promotions
from retrain.window import Window


@dataclass(frozen=True)
class Standing:
    """The champion of the moment and what it says about the held-out slice."""

    version: str
    answers: Predictions


class Competition:
    """One retraining's candidates against the champion.

    A candidate never sees the held-out slice before it is judged on it. A winner that can be refitted cheaply is
    then fitted once more with the slice included, under the settings it won with.
    """

    def __init__(
        self,
        settings: Settings,
        window: Window,
        past: Past,
        *,
        encoder: OnnxEncoder,
        promotions: Promotions,
        diary: Diary,
        scratch: Path,
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._whole = window
        self._train, self._held = window.hold_out(settings.retrain.holdout)
        self._past = past
        self._promotions = promotions
        self._diary = diary
        self._scratch = scratch
        self.promoted = False
        """Whether a candidate has been promoted so far."""

    def run(self, superseded: Callable[[bool], str | None], search: bool = True) -> None:
        """Let the quick candidates compete, then, if ``search``, the slow ones.

        ``superseded`` is asked several times a second, always in this thread, with whether the searches are under way;
        its reason ends what is.
        """
        self._standing = self._champion()
        quick = {name: catalogue.find(name).quick for name in self._settings.retrain.candidates}
        self._side_by_side([name for name in quick if quick[name]], lambda: superseded(False))
        if search:
            self._side_by_side([name for name in quick if not quick[name]], lambda: superseded(True))

    def _side_by_side(self, names: Sequence[str], superseded: Callable[[], str | None]) -> None:
        """Fit candidates at the same time, a process for each, and judge each as soon as it is fitted."""
        ended = superseded() if names else None
        if ended is not None:
            for name in names:
                self._diary.write("rejected", ended, candidate=name)
            return
        with ThreadPoolExecutor(max(len(names), 1), thread_name_prefix="fit") as pool:
            running = {}
            for name in names:
                self._diary.write("searching", f"{name} on {len(self._train)} events", candidate=name)
                fit = partial(sandbox.run, name, self._train, self._task(name), self._scratch / name)
                running[pool.submit(fit, cancel=lambda: ended)] = name
            try:
                while running:
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._judge(running.pop(future), future.result())
                    ended = ended or superseded()
            except BaseException:
                ended = "the retraining failed"  # or the pool would wait for the fits' full time
                raise

    def _champion(self) -> Standing:
        """The champion, loaded from the registry, and its answers on the held-out slice."""
        version = self._promotions.registry.champion() or ""
        bundle = self._promotions.registry.download(version, self._scratch / "champion")
        model = load_bundle(bundle, self._settings.signing_key, version=version, encoder=self._encoder)
        return Standing(version, self._answers(model))

    def _judge(self, candidate: str, fitted: sandbox.Fitted) -> None:
        """Compare, register, and promote where better; the standing then is the candidate's."""
        standing = self._standing
        if fitted.bundle is None:
            self._diary.write("rejected", fitted.reason, candidate=candidate, seconds=round(fitted.seconds, 2))
            return
        model = load_bundle(fitted.bundle, self._settings.signing_key, encoder=self._encoder)
        answers = self._answers(model)
        chosen = self._settings.retrain
        verdict = compare(self._held.labels, standing.answers, answers, confidence=chosen.confidence, seed=chosen.seed)
        scores = scores_of(verdict)
        self._diary.write("gated", verdict.reason, candidate=candidate, seconds=round(fitted.seconds, 2), scores=scores)
        bundle = self._refitted(candidate, fitted.bundle) if verdict.better else fitted.bundle
        lineage = verify_bundle(bundle, self._settings.signing_key).lineage
        note = f"{verdict.reason}{'; ' + fitted.reason if fitted.reason else ''}"
        version = self._promotions.register(
            candidate, bundle, lineage, {**scores, "seconds": fitted.seconds}, {"reason": note}
        )
        details = {"candidate": candidate, "version": version, "scores": scores, "seconds": round(fitted.seconds, 2)}
        if verdict.better:
            self._promotions.promote(version, note, self._past.trigger)
            self._standing = Standing(version, answers)
            self.promoted = True
            self._diary.write("promoted", note, **details)
        else:
            self._promotions.registry.reject(version, note)
            self._diary.write("rejected", note, **details)

    def _refitted(self, candidate: str, bundle: Path) -> Path:
        """The winner with the held-out slice included, or as it is where that would take long."""
        out = self._scratch / f"{candidate}-refitted"
        task = self._task(candidate, rows=len(self._whole))
        with threadpool_limits(1):  # threads of a BLAS spin, and cost more than they give
            return out if catalogue.find(candidate).refit(self._whole, bundle, task, out) else bundle

    def _answers(self, model: BundleClassifier) -> Predictions:
        same = model.head is not None and model.encoder.digest == self._encoder.digest
        return model.predict(self._held.texts, self._held.embeddings if same else None)

    def _task(self, candidate: str, rows: int | None = None) -> Task:
        chosen = self._settings.retrain
        seconds = {"linear": chosen.linear_seconds, "tpot": chosen.tpot_seconds, "finetune": chosen.finetune_seconds}
        lineage = Lineage(
            candidate=candidate,
            trigger=self._past.trigger,
            dataset_revision=self._settings.dataset,
            topic=name(self._settings, OUTCOMES),
            first_offset=self._whole.first_offset,
            last_offset=self._whole.last_offset,
            rows=len(self._train) if rows is None else rows,
            trained_until=self._past.until_at,
            parent_version=self._standing.version,
        )
        budget = Budget(seconds.get(candidate, chosen.finetune_seconds), seed=chosen.seed)
        return Task(
            budget,
            self._settings.model,
            lineage,
            self._settings.signing_key,
            self._scratch / candidate / "scratch",
            chosen.device,
            chosen.dask,
        )


def scores_of(verdict: Verdict) -> dict[str, float]:
    """The verdict's numbers under the names that MLflow and the topic `retraining` use."""
    return {
        "champion_accuracy": round(verdict.champion_accuracy, 4),
        "accuracy": round(verdict.challenger_accuracy, 4),
        "difference_low": round(verdict.low, 4),
        "difference_high": round(verdict.high, 4),
        "brier_gain_low": round(verdict.brier_low, 4),
        "brier_gain_high": round(verdict.brier_high, 4),
        "held_out": float(verdict.rows),
    }
