"""The retraining worker: waits for its policy's word, lets candidates compete, promotes what is better.

A retraining's quick part, an archived model or a linear head, takes seconds and is waited for. The slow candidates are
fitted in child processes beside the loop and then answer live events in shadow of the champion, while the policy's next
rounds go on. A replaced champion stays in shadow of its successor for a while and comes back where it was better. A
new drift ends what has become pointless.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command, Outcome
from driftloop.core.models.bundle import verify_bundle
from driftloop.core.models.encoder import OnnxEncoder
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from retrain.evaluation.evaluator import Evaluator
from retrain.evaluation.shadow import Shadow
from retrain.fitting import sandbox
from retrain.fitting.warm_start import WarmStartStore
from retrain.labels.annotator_trust import weigh
from retrain.policies.policies import ALWAYS, CompletedRetraining, Retrain, make_policy, newest_episode
from retrain.promotion import manual_actions
from retrain.promotion.champions import Champions
from retrain.promotion.first_champion import first_champion
from retrain.promotion.promoter import Promotions, RetrainingLog
from retrain.retraining_run import RetrainingRun
from retrain.stream_state import StreamState, unfinished
from retrain.training_window import build_window

log = logging.getLogger(__name__)

SCORER_FIRST = 10.0
"""Seconds in which whoever waits for the first model has the cores to load it."""


@dataclass
class WorkerContext:
    """What a worker works with once there is a first champion."""

    feed: StreamState
    encoder: OnnxEncoder
    champions: Champions
    evaluation: Evaluator
    folder: Path
    earlier: WarmStartStore


class Worker:
    """The worker's life: the first champion, then one decision after the other."""

    def __init__(self, settings: Settings) -> None:
        self.progress: Callable[[], None] = lambda: None
        """Called several times a second while the worker goes on: a sign of life."""
        self._settings = settings
        self._stop = threading.Event()
        self._failure = ""
        self._store = OnlineStore(settings)
        self._store.check()
        self._office = LeaderLease(self._store, "retrainer", settings.retrain.lease)
        self._outbox = ConfirmedProducer(settings, self._office.check)
        self._promotions = Promotions(settings, self._outbox, self._office)
        self._policy = make_policy(settings.retrain)
        self._open: list[RetrainingRun] = []
        """Retrainings whose slow candidates are at work or in shadow."""
        self._probation: Shadow | None = None
        self._prepare_from = math.inf
        """When the server that candidates are forked from is to load its libraries, on the monotonic clock."""

    def stop(self) -> None:
        """End as soon as possible; a retraining under way is given up and said to have failed."""
        self._stop.set()

    def run(self, once: bool = False) -> bool:
        """Work until `stop` is called; with ``once``, until the policy waits with all read that is on the topics.

        Returns whether nothing was left undone: False where `stop` came before that with ``once``.

        Raises:
            DriftloopError: with ``once``, when a retraining failed; another retrainer may be at work by now.
        """
        with tempfile.TemporaryDirectory(prefix="driftloop-retrain-", dir=self._settings.work or None) as folder:
            if not self._office.acquire(self._stopped, log.warning, self._promotions.newest_fence):
                return not once
            try:
                done = self._serve(Path(folder), once)
            finally:
                self._office.release()
        if once and done:
            self._raise_if_failed()
        return done

    def _serve(self, folder: Path, once: bool) -> bool:
        """In office: what a predecessor left, the first champion, then the loop; returns as `run` does."""
        self._promotions.finish_promotion()
        self._close_cut_off()
        if self._promotions.registry.champion() is None:
            self._bootstrap(folder / "first")
            self._prepare_from = time.monotonic() + SCORER_FIRST
        else:
            sandbox.prepare()
        if self._stopped():
            return not once
        encoder = exported_encoder(self._settings.model, threads=1)  # the events' own comes first
        feed = StreamState(self._settings, self._settings.retrain.window, self._outbox)
        champions = Champions(self._settings, self._promotions, encoder, self._store, folder / "versions")
        desk = WorkerContext(
            feed, encoder, champions, Evaluator(self._settings, encoder), folder, WarmStartStore(folder / "earlier")
        )
        try:
            feed.catch_up(self._stopped)  # or the first decision would be made on a part of what is known
            feed.take_fresh()
            return self._work(desk, once)
        finally:
            feed.close()
            for competition in self._open:
                with suppress(DriftloopError):  # out of office, it has nothing to say any more
                    competition.cancel("the worker was stopped")
                    competition.diary.write("failed", "the worker was stopped")

    def _work(self, desk: WorkerContext, once: bool) -> bool:
        """The loop; True where nothing was left undone, which only ``once`` can say."""
        feed = desk.feed
        while not self._stopped():
            self._office.check()
            if time.monotonic() >= self._prepare_from:
                sandbox.prepare()
                self._prepare_from = math.inf
            while feed.commands:
                self._obey(feed.commands.popleft(), desk)
            decision = self._policy.decide(feed.now, tuple(feed.alerts), feed.outcomes)
            if isinstance(decision, Retrain):
                self._retrain(decision, desk)
            elif once and not self._open:
                return True
            if once and not self._open:
                feed.catch_up(self._stopped)
            else:
                feed.poll()
            self._advance_open_runs(desk)
        return not once

    def _raise_if_failed(self) -> None:
        """Raise `DriftloopError` where a retraining failed: who runs one batch job shall hear of it."""
        if self._failure:
            raise DriftloopError(
                f"A retraining failed ({self._failure}): mend that and run the same command again; the topic "
                "`retraining` has the rest."
            )

    def _stopped(self) -> bool:
        """Whether to end; whoever goes on asks often."""
        self.progress()
        return self._stop.is_set()

    def _close_cut_off(self) -> None:
        """Say of what an earlier worker left half done that it failed; the policy decides on it anew."""
        for last in unfinished(self._settings):
            diary = RetrainingLog(self._settings, self._outbox, last.run_id, last.trigger, last.position)
            diary.write("failed", "the worker ended in the middle of it", seconds=last.seconds)

    def _bootstrap(self, folder: Path) -> None:
        diary = RetrainingLog(self._settings, self._outbox, f"bootstrap-{uuid.uuid4().hex[:8]}", "bootstrap", -1)
        diary.write("queued", "the registry has no champion: the first labelled events make one")
        bundle = first_champion(self._settings, folder, self._stopped, _OnChange(log.warning))
        if bundle is None:
            diary.write("failed", "stopped before there was a first model")
            return
        manifest = verify_bundle(bundle, self._settings.signing_key)
        reason = f"the first model, from {manifest.lineage.rows} labelled events"
        version = self._promotions.register(
            manifest.lineage.candidate, bundle, manifest.lineage, {"seconds": 0.0}, {"reason": reason}
        )
        self._promotions.promote(version, reason, "bootstrap")
        diary.write("promoted", reason, candidate=manifest.lineage.candidate, version=version)
        diary.write("finished", reason, version=version)

    def _obey(self, command: Command, desk: WorkerContext) -> None:
        """What a person asked for: done, or said why it cannot be."""
        if command.action == "retrain" and desk.feed.outcomes:
            words = f"asked for by {command.by}: {command.reason or 'no reason was given'}"
            newest = newest_episode(tuple(desk.feed.alerts), tuple(desk.feed.past))
            since = ALWAYS if newest is None else newest.onset_at
            trigger = manual_actions.MANUAL if newest is None else newest.trigger
            self._retrain(Retrain(words, trigger, since), desk, command)
            return
        try:
            if command.action == "retrain":
                raise DriftloopError("There is no labelled event yet to learn from: wait for the first labels.")
            manual_actions.execute_command(self._settings, command)
        except DriftloopError as error:
            diary = RetrainingLog(self._settings, self._outbox, command.command_id, manual_actions.MANUAL, -1)
            diary.write("failed", str(error)[:500])

    def _retrain(self, decision: Retrain, desk: WorkerContext, asked: Command | None = None) -> None:
        """One retraining: its quick part from beginning to end, and the start of its slow one."""
        feed = desk.feed
        began = time.monotonic()
        run_id = uuid.uuid4().hex[:12] if asked is None else asked.command_id
        position = feed.outcomes[-1].position if feed.outcomes else -1
        diary = RetrainingLog(self._settings, self._outbox, run_id, decision.trigger, position, decision.kind)
        past = CompletedRetraining(
            labelled=feed.labelled,
            onset_at=decision.onset_at,
            rows=sum(outcome.occurred_at >= decision.onset_at for outcome in feed.outcomes),
            until_at=max(outcome.occurred_at for outcome in feed.outcomes),
            trigger=decision.trigger,
            promoted=False,
            kind=decision.kind,
        )
        first, last = feed.offsets
        inputs = {
            "onset_at": past.onset_at,
            "first_offset": first,
            "last_offset": last,
            "labelled": past.labelled,
            "rows": past.rows,
            "corrections": feed.corrected,
            "asked_by": "" if asked is None else asked.by,
            "settings": msgspec.to_builtins(self._settings.retrain),
        }
        diary.write("queued", decision.reason, scores=inputs)
        self._supersede(decision, feed)
        competition: RetrainingRun | None = None
        try:
            since = decision.onset_at
            window = build_window(feed.outcomes, feed.offsets, since, self._store, desk.encoder, keep=True)
            competition = RetrainingRun(
                self._settings,
                weigh(window, self._settings.retrain.seed),
                past,
                evaluation=desk.evaluation,
                champions=desk.champions,
                diary=diary,
                scratch=desk.folder / run_id,
                earlier=desk.earlier,
            )
            competition.answer(lambda: self._superseded(feed, past))
            if decision.kind == "search" and not self._stop.is_set():
                competition.search()
        except Exception as error:
            self._failure = diary.fail(error)
        promoted = competition is not None and competition.promoted
        past = replace(past, promoted=promoted, seconds=round(time.monotonic() - began, 2))
        feed.past.append(past)
        if competition is not None and competition.running:
            competition.past = past
            self._open.append(competition)
        else:
            self._close(diary, past, desk.folder / run_id)

    def _end(self, competition: RetrainingRun, feed: StreamState) -> None:
        """A retraining with slow candidates is over: the policy's memory of it, and its last word, are the same."""
        self._open.remove(competition)
        past = replace(competition.past, promoted=competition.promoted)
        feed.past[feed.past.index(competition.past)] = past
        self._close(competition.diary, past, competition.scratch)

    def _close(self, diary: RetrainingLog, past: CompletedRetraining, scratch: Path) -> None:
        """Say how a retraining ended, and remove its files."""
        shutil.rmtree(scratch, ignore_errors=True)
        if self._stop.is_set():
            diary.write("failed", "the worker was stopped")
        else:
            verdict = "a better model was promoted" if past.promoted else "the champion stays"
            diary.write("finished", verdict, scores={"past": asdict(past)})

    def _advance_open_runs(self, desk: WorkerContext) -> None:
        """Give what has come to the searches and to all in shadow, and close what has ended."""
        fresh = desk.feed.take_fresh()
        newest = desk.feed.alerts[-1] if desk.feed.alerts else None
        for competition in list(self._open):
            if newest is not None and newest.onset_at > competition.past.until_at:
                self._give_up(competition, desk.feed, f"superseded by alert {newest.alert_id}")
                continue
            try:
                competition.follow(fresh, desk.feed.outcomes, desk.champions.answers)
            except Exception as error:
                competition.cancel(str(error)[:500])
                self._failure = competition.diary.fail(error)
                self._open.remove(competition)
                continue
            if not competition.running:
                self._end(competition, desk.feed)
        self._watch_promotion(desk, fresh)

    def _watch_promotion(self, desk: WorkerContext, fresh: list[Outcome]) -> None:
        """The predecessor of a new champion answers in its shadow, and comes back where it is better beyond chance."""
        champions = desk.champions
        chosen = self._settings.retrain
        if champions.replaced is not None:
            replaced, champions.replaced = champions.replaced, None
            since = champions.current().trained_until
            self._probation = Shadow(
                replaced.predecessor, replaced.version, since, chosen.probation, 1 - chosen.confidence
            )
            fresh = desk.feed.outcomes
        if self._probation is None or not chosen.probation:
            return
        self._probation.offer(fresh)
        found = self._probation.work(champions.answers)
        if found == "challenger" and self._probation.champion == champions.current().version:
            version = self._probation.model.version
            reason = self._probation.test.words("the promoted model", f"its predecessor {version}")
            diary = RetrainingLog(
                self._settings,
                self._outbox,
                f"probation-{uuid.uuid4().hex[:8]}",
                "probation",
                fresh[-1].position if fresh else -1,
            )
            restored = champions.restore(version, reason, "rollback", champions.known(version).trigger)
            diary.write("rolled-back", reason, version=restored)
            diary.write("finished", reason, version=restored)
        if found != "undecided":
            self._probation = None

    def _supersede(self, decision: Retrain, feed: StreamState) -> None:
        """End the searches and shadows of another drift; a search ends those before it too."""
        for competition in list(self._open):
            if decision.kind == "search" or decision.trigger != competition.past.trigger:
                self._give_up(competition, feed, f"superseded by the next retraining ({decision.trigger})")

    def _give_up(self, competition: RetrainingRun, feed: StreamState, reason: str) -> None:
        competition.cancel(reason)
        self._end(competition, feed)

    def _superseded(self, feed: StreamState, past: CompletedRetraining) -> str | None:
        """Why the quick fits under way are pointless, None while they are not: an end, or a new drift."""
        if self._stopped():
            return "the worker was stopped"
        feed.poll(100)
        if feed.alerts and feed.alerts[-1].onset_at > past.until_at:
            return f"superseded by alert {feed.alerts[-1].alert_id}"
        return None


class _OnChange:
    """Passes a line on only when it says something new."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""

    def __call__(self, line: str) -> None:
        if line != self._last:
            self._last = line
            self._say(line)


def run(settings: Settings, once: bool = False, progress: Callable[[], None] | None = None) -> bool:
    """Run a worker until SIGTERM or SIGINT, or with ``once`` until nothing is owed; see `Worker.run`.

    ``progress`` is called several times a second while the worker goes on.

    Raises:
        DriftloopError: Kafka, Redis or MLflow do not answer, or the configured model cannot be loaded.
    """
    worker = Worker(settings)
    if progress is not None:
        worker.progress = progress
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    return worker.run(once)
