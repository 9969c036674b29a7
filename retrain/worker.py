"""The retraining worker: waits for its policy's word, lets candidates compete, promotes what is better.

One retraining at a time. Candidates are fitted in child processes with a hard limit, the quick ones first and then the
searches side by side, all on the same window and judged on the same newest held-out slice. A candidate that beats the
champion is promoted at once, so the quick linear head can take over while the longer searches go on against it; a new
drift ends searches that have become pointless.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from driftloop.classifiers.bundle import verify_bundle
from driftloop.classifiers.encoder import OnnxEncoder
from driftloop.classifiers.onnx import exported_encoder
from driftloop.errors import DriftloopError
from driftloop.kafka import Outbox
from driftloop.settings import Settings
from driftloop.store import Store
from retrain import sandbox
from retrain.bootstrap import first_champion
from retrain.competition import Competition
from retrain.feed import Feed, unfinished
from retrain.history import build_window
from retrain.policies import Now, Past, Retrain, make_policy
from retrain.promotion import Diary, Promotions

log = logging.getLogger(__name__)


class Worker:
    """The worker's life: the first champion, then one decision after the other."""

    def __init__(self, settings: Settings) -> None:
        self.progress: Callable[[], None] = lambda: None
        """Called several times a second while the worker goes on: a sign of life."""
        self._settings = settings
        self._stop = threading.Event()
        self._failure = ""
        self._outbox = Outbox(settings)
        self._promotions = Promotions(settings, self._outbox)
        self._store = Store(settings)
        self._store.check()
        self._policy = make_policy(settings.retrain)

    def stop(self) -> None:
        """End as soon as possible; a retraining under way is given up and said to have failed."""
        self._stop.set()

    def run(self, once: bool = False) -> bool:
        """Work until `stop` is called; with ``once``, until the policy waits with all read that is on the topics.

        Returns whether nothing was left undone: False where `stop` came before that with ``once``.

        Raises:
            DriftloopError: with ``once``, when a retraining failed.
        """
        with tempfile.TemporaryDirectory(prefix="driftloop-retrain-", dir=self._settings.work or None) as folder:
            self._promotions.announce_unannounced()
            self._close_cut_off()
            if self._promotions.registry.champion() is None:
                self._bootstrap(Path(folder) / "first")
            if self._stopped():
                return not once
            sandbox.prepare()
            encoder = exported_encoder(self._settings.model, threads=2)
            feed = Feed(self._settings, self._settings.retrain.window)
            try:
                feed.catch_up(self._stopped)  # or the first decision would be made on a part of what is known
                while not self._stopped():
                    decision = self._policy.decide(feed.now, tuple(feed.alerts), feed.outcomes)
                    if isinstance(decision, Retrain):
                        self._retrain(decision, feed, encoder, Path(folder))
                        sandbox.prepare()
                    elif once:
                        self._complain()
                        return True
                    if once:
                        feed.catch_up(self._stopped)
                    else:
                        feed.poll()
            finally:
                sandbox.dismiss()
                feed.close()
        return not once

    def _complain(self) -> None:
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
            diary = Diary(self._settings, self._outbox, last.run_id, last.trigger, last.position)
            diary.write("failed", "the worker ended in the middle of it", seconds=last.seconds)

    def _bootstrap(self, folder: Path) -> None:
        diary = Diary(self._settings, self._outbox, f"bootstrap-{uuid.uuid4().hex[:8]}", "bootstrap", -1)
        diary.write("queued", "the registry has no champion: the first labelled events make one")
        bundle = first_champion(self._settings, folder, self._stopped, _Changes(log.warning))
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

    def _retrain(self, decision: Retrain, feed: Feed, encoder: OnnxEncoder, folder: Path) -> None:
        """One retraining, from the decision to the word that it is finished."""
        run_id = uuid.uuid4().hex[:12]
        position = feed.outcomes[-1].position if feed.outcomes else -1
        diary = Diary(self._settings, self._outbox, run_id, decision.trigger, position)
        diary.write("queued", decision.reason)
        scratch = folder / run_id
        past = Past(
            labelled=feed.labelled,
            onset_at=decision.onset_at,
            rows=sum(outcome.occurred_at >= decision.onset_at for outcome in feed.outcomes),
            until_at=max(outcome.occurred_at for outcome in feed.outcomes),
            trigger=decision.trigger,
            promoted=False,
        )
        competition: Competition | None = None
        try:
            competition = Competition(
                self._settings,
                build_window(feed.outcomes, feed.offsets, decision.onset_at, self._store, encoder),
                past,
                encoder=encoder,
                promotions=self._promotions,
                diary=diary,
                scratch=scratch,
            )
            competition.run(partial(self._superseded, feed, past, competition), decision.search)
        except Exception as error:
            log.exception("the retraining failed")
            self._failure = str(error)[:500]
            diary.write("failed", self._failure)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        past = replace(past, promoted=competition is not None and competition.promoted)
        feed.past.append(past)
        if self._stop.is_set():
            diary.write("failed", "the worker was stopped")
            return
        verdict = "a better model was promoted" if past.promoted else "the champion stays"
        diary.write("finished", verdict, scores={"past": asdict(past)})

    def _superseded(self, feed: Feed, past: Past, competition: Competition, searching: bool) -> str | None:
        """Why the fits under way are pointless, None while they are not.

        A new drift ends all of them; a search ends as well when the policy would retrain again on what has come since.
        """
        if self._stopped():
            return "the worker was stopped"
        feed.poll(100)
        if feed.alerts and feed.alerts[-1].onset_at > past.until_at:
            return f"superseded by alert {feed.alerts[-1].alert_id}"
        if searching:
            so_far = (*feed.past, replace(past, promoted=competition.promoted))
            answer = self._policy.decide(Now(feed.labelled, so_far), tuple(feed.alerts), feed.outcomes)
            if isinstance(answer, Retrain):
                return f"superseded by the next retraining: {answer.reason}"
        return None


class _Changes:
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
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    worker = Worker(settings)
    if progress is not None:
        worker.progress = progress
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    return worker.run(once)
