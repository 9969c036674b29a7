"""Retraining worker: asks its policy, lets candidates compete, and promotes the better model.

The quick part of a retraining (an archived model or a linear head) takes seconds and is waited for. The slow candidates
are fitted in child processes, and then predict live events in shadow of the champion while the loop continues. A
replaced champion stays in shadow of its successor for a while, and is restored if it is better. A new drift ends the
retrainings that it makes pointless.
"""

from __future__ import annotations

import logging
import math
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace
from threadpoolctl import threadpool_limits

from driftloop.core.coordination.leader_lease import LeaderLease
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka.clients import ConfirmedProducer
from driftloop.core.messages import Command
from driftloop.core.models.bundle import verify_bundle
from driftloop.core.models.onnx_export import exported_encoder
from driftloop.core.online_store import OnlineStore
from driftloop.core.settings import Settings
from retrain.evaluation.evaluator import Evaluator
from retrain.fitting import sandbox
from retrain.fitting.warm_start import WarmStartStore
from retrain.mixture.champion_learner import ChampionLearner, LearnerTools
from retrain.policies.base import ALWAYS, PolicyContext, Retrain
from retrain.policies.catalogue import make_policy
from retrain.policies.on_drift import newest_episode
from retrain.promotion import manual_actions
from retrain.promotion.first_champion import first_champion
from retrain.promotion.model_loader import ModelLoader
from retrain.promotion.probation import Probation
from retrain.promotion.promoter import Promoter
from retrain.retraining_log import RetrainingLog
from retrain.retraining_tools import RetrainingTools
from retrain.run_scheduler import RunScheduler
from retrain.stream_state import StreamState, outcomes_kept, unfinished

log = logging.getLogger(__name__)

SCORER_FIRST = 10.0
"""Seconds after the first promotion in which a waiting scorer has the cores to load the model."""


class Worker:
    """The retraining worker of one stream.

    Args:
        settings: Settings of the stream.
    """

    def __init__(self, settings: Settings) -> None:
        self.progress: Callable[[], None] = lambda: None
        """Called several times a second while the worker makes progress, for the health check."""
        self._settings = settings
        self._stop = threading.Event()
        self._store = OnlineStore(settings)
        self._store.check()
        self._lease = LeaderLease(self._store, "retrainer", settings.retrain.lease)
        self._outbox = ConfirmedProducer(settings, self._lease.check)
        self._promoter = Promoter(settings, self._outbox, self._lease)
        # By whether the champion is a mixture that learns.
        self._policies = {learns: make_policy(replace(settings.retrain, mixture=learns)) for learns in (False, True)}
        self._fork_server_due = math.inf  # when the fork server is to load its libraries, on the monotonic clock

    def stop(self) -> None:
        """End as soon as possible; a retraining under way is cancelled and marked as failed."""
        self._stop.set()

    def run(self, once: bool = False) -> bool:
        """Wait for the lease, and work until `stop` is called.

        Args:
            once: Also end when all messages on the topics are read and the policy waits.

        Returns:
            `False` if `stop` ended a worker with ``once`` before it had finished.

        Raises:
            DriftloopError: With ``once``, a retraining has failed. Without it, the lease was lost.
        """
        with tempfile.TemporaryDirectory(prefix="driftloop-retrain-", dir=self._settings.scratch_dir or None) as folder:
            if not self._lease.acquire(self._stopped, log.warning, self._promoter.newest_fence):
                return not once
            try:
                return self._lead(Path(folder), once)
            finally:
                self._lease.release()

    def _lead(self, folder: Path, once: bool) -> bool:
        """With the lease held: finish interrupted work, train the first champion if there is none, run the loop."""
        self._promoter.finish_interrupted_promotion()
        self._fail_interrupted_retrainings()
        if self._promoter.registry.champion() is None:
            self._train_first_champion(folder / "first")
            self._fork_server_due = time.monotonic() + SCORER_FIRST
        else:
            sandbox.start_fork_server()
        if self._stopped():
            return not once
        state = StreamState(self._settings, outcomes_kept(self._settings.retrain), self._outbox)
        tools = self._make_tools(folder, state)
        self._promoter.registry.keep_busy(tools.learn)
        runs = RunScheduler(tools, folder)
        try:
            state.catch_up(self._stopped)  # the first decision needs all messages, not those of one poll
            state.take_fresh()
            return self._loop(runs, tools, once)
        finally:
            state.close()
            runs.stop()
            if tools.learner is not None:
                tools.learner.close()

    def _make_tools(self, folder: Path, state: StreamState) -> RetrainingTools:
        settings, promoter = self._settings, self._promoter
        encoder = exported_encoder(settings.model, threads=1)  # the scorer's encoder has the other cores
        models = ModelLoader(settings, promoter.registry, encoder, folder / "versions")
        evaluator = Evaluator(settings, encoder, self._store)
        return RetrainingTools(
            settings=settings,
            state=state,
            stopped=self._stopped,
            outbox=self._outbox,
            store=self._store,
            encoder=encoder,
            models=models,
            evaluator=evaluator,
            promoter=promoter,
            probation=Probation(settings, self._outbox, promoter=promoter, models=models, evaluator=evaluator),
            warm_starts=WarmStartStore(folder / "earlier"),
            learner=self._make_learner(models, evaluator) if settings.retrain.learns_from_every_label else None,
        )

    def _make_learner(self, models: ModelLoader, evaluator: Evaluator) -> ChampionLearner:
        tools = LearnerTools(
            settings=self._settings,
            outbox=self._outbox,
            lease=self._lease,
            models=models,
            embed=evaluator.embeddings,
            stopped=self._stopped,
        )
        return ChampionLearner(tools)

    def _loop(self, runs: RunScheduler, tools: RetrainingTools, once: bool) -> bool:
        """Learn, decide, retrain and compare until stopped; returns as `run` does."""
        state = tools.state
        while not self._stopped():
            self._lease.check()
            self._prepare_fork_server()
            if tools.learner is not None:
                tools.learner.advance(state)
            while state.commands:
                self._execute(state.commands.popleft(), state, runs)
            policy = self._policies[tools.mixture is not None]
            now = PolicyContext(state.labelled, tuple(state.past), runs.searching)
            decision = policy.decide(now, tuple(state.alerts), state.outcomes)
            if isinstance(decision, Retrain):
                runs.start(decision)
            elif once and runs.idle and not (tools.learner and tools.learner.busy):
                self._raise_if_failed(runs)
                return True
            if once and runs.idle:
                state.catch_up(self._stopped)
            else:
                state.poll()
            fresh = state.take_fresh()
            runs.advance(fresh)
            tools.probation.advance(fresh, state.outcomes)
        return not once

    def _raise_if_failed(self, runs: RunScheduler) -> None:
        """Raise if a retraining failed, so that `--once` exits non-zero."""
        if runs.failure:
            raise DriftloopError(
                f"A retraining failed ({runs.failure}): correct that and run the same command again. The topic "
                "`retraining` has the details."
            )

    def _stopped(self) -> bool:
        """Return True if the worker was asked to stop; every wait calls this often."""
        self.progress()
        return self._stop.is_set()

    def _prepare_fork_server(self) -> None:
        """Let the fork server load its libraries once the scorer has had time to load the first model."""
        if time.monotonic() >= self._fork_server_due:
            sandbox.start_fork_server()
            self._fork_server_due = math.inf

    def _fail_interrupted_retrainings(self) -> None:
        """Mark retrainings that a previous worker left unfinished as failed; the policy decides on them anew."""
        for last in unfinished(self._settings):
            run_log = RetrainingLog(self._settings, self._outbox, last.run_id, last.trigger, last.position)
            run_log.write("failed", "the worker ended in the middle of it", seconds=last.seconds)

    def _train_first_champion(self, folder: Path) -> None:
        run_log = RetrainingLog(self._settings, self._outbox, f"bootstrap-{uuid.uuid4().hex[:8]}", "bootstrap", -1)
        run_log.write("queued", "the registry has no champion: the first labelled events train one")
        bundle = first_champion(self._settings, folder, self._stopped, log.warning)
        if bundle is None:
            run_log.write("failed", "the worker was stopped before the first model was trained")
            return
        lineage = verify_bundle(bundle, self._settings.signing_key).lineage
        reason = f"the first model, from {lineage.rows} labelled events"
        version = self._promoter.register(lineage.candidate, bundle, lineage, {"seconds": 0.0}, {"reason": reason})
        self._promoter.promote(version, reason, "bootstrap")
        run_log.write("promoted", reason, candidate=lineage.candidate, version=version)
        run_log.write("finished", reason, version=version)

    def _execute(self, command: Command, state: StreamState, runs: RunScheduler) -> None:
        """Execute a user's command, or log why it failed."""
        if command.action == "retrain":
            state.catch_up(self._stopped)  # labels that were sent before the command count
        if command.action == "retrain" and state.outcomes:
            reason = f"asked for by {command.by}: {command.reason or 'no reason was given'}"
            newest = newest_episode(tuple(state.alerts), tuple(state.past))
            onset_at = ALWAYS if newest is None else newest.onset_at
            trigger = manual_actions.MANUAL if newest is None else newest.trigger
            runs.start(Retrain(reason, trigger, onset_at), command)
            return
        try:
            if command.action == "retrain":
                raise DriftloopError("There is no labelled event yet to learn from: wait for the first labels.")
            manual_actions.execute_command(self._settings, command)
        except DriftloopError as error:
            run_log = RetrainingLog(self._settings, self._outbox, command.command_id, manual_actions.MANUAL, -1)
            run_log.write("failed", str(error)[:500])


def run(settings: Settings, once: bool = False, progress: Callable[[], None] | None = None) -> bool:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        settings: Settings of the stream.
        once: Also end when all messages on the topics are read and the policy waits.
        progress: Called several times a second while the worker makes progress; `None` for no calls.

    Returns:
        See `Worker.run`.

    Raises:
        DriftloopError: Kafka, Redis or MLflow do not answer, or the configured model cannot be loaded.
    """
    worker = Worker(replace(settings, retrain=settings.retrain.until_labels_end) if once else settings)
    if progress is not None:
        worker.progress = progress
    threadpool_limits(1, user_api="blas")  # the other cores are the scorer's, and threads of a BLAS spin
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    return worker.run(once)
