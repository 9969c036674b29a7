"""Scheduler of retrainings: starts them, gives them new events, and closes the superseded and finished ones."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from driftloop.core.errors import DriftloopError
from driftloop.core.messages import Command, Outcome
from retrain.labels.annotator_trust import weight_labels
from retrain.policies.base import CompletedRetraining, Retrain
from retrain.policies.on_drift import rows_since
from retrain.retraining_log import RetrainingLog
from retrain.retraining_run import RetrainingRun
from retrain.retraining_tools import RetrainingTools
from retrain.stream_state import outcomes_kept
from retrain.training_window import build_window, probabilities_given

STOPPED = "the worker was stopped"


class RunScheduler:
    """The retrainings of one worker.

    The quick candidates of a retraining are waited for. Its slow candidates run in child processes and in shadow while
    the worker's loop continues; such a retraining is open.

    Args:
        tools: Parts of the worker.
        folder: Folder for the files of the retrainings.
    """

    def __init__(self, tools: RetrainingTools, folder: Path) -> None:
        self._tools = tools
        self._settings = tools.settings
        self._state = tools.state
        self._folder = folder
        self._stopped = tools.stopped
        self._open: list[RetrainingRun] = []
        self.failure = ""
        """Reason of the newest failed retraining; empty if none has failed."""

    @property
    def idle(self) -> bool:
        """Return True if no retraining is open."""
        return not self._open

    @property
    def searching(self) -> tuple[float, ...]:
        """Onset of each open retraining."""
        return tuple(run.past.onset_at for run in self._open)

    def start(self, decision: Retrain, command: Command | None = None) -> None:
        """Run the quick candidates of a retraining to their end, and start its slow ones.

        Args:
            decision: Decision of the policy, or of the user.
            command: Command of the user; `None` for a decision of the policy.
        """
        began = time.monotonic()
        run_id = uuid.uuid4().hex[:12] if command is None else command.command_id
        run_log = self._log(run_id, decision)
        past = self._record(decision)
        run_log.write("queued", decision.reason, scores=self._inputs(past, decision, command))
        self._supersede(decision)
        run: RetrainingRun | None = None
        try:
            run = self._make_run(past, run_log, self._folder / run_id)
            run.run_quick(lambda: self._reason_to_cancel(past), self._state.outcomes)
            if decision.kind == "search" and not self._stopped():
                run.start_slow()
        except Exception as error:
            self.failure = run_log.fail(error)
        promoted = run is not None and run.promoted
        past = replace(past, promoted=promoted, seconds=round(time.monotonic() - began, 2))
        self._state.past.append(past)
        if run is not None and run.running:
            run.past = past
            self._open.append(run)
        else:
            self._close(run_log, past, self._folder / run_id)

    def advance(self, fresh: Sequence[Outcome]) -> None:
        """Give new labelled events to the open retrainings, and close the finished ones."""
        newest = self._state.alerts[-1] if self._state.alerts else None
        for run in list(self._open):
            if newest is not None and newest.onset_at > run.past.until_at:
                run.end_at(newest)
            self._step(run, partial(run.advance, fresh, self._state.outcomes))

    def stop(self) -> None:
        """End the open retrainings as failed, since the worker stops."""
        for run in self._open:
            with suppress(DriftloopError):  # a worker that has lost its lease must not write
                run.cancel(STOPPED)
                run.log.write("failed", STOPPED)

    def _log(self, run_id: str, decision: Retrain) -> RetrainingLog:
        outcomes = self._state.outcomes
        position = outcomes[-1].position if outcomes else -1
        return RetrainingLog(self._settings, self._tools.outbox, run_id, decision.trigger, position, decision.kind)

    def _record(self, decision: Retrain) -> CompletedRetraining:
        """Return the record of a retraining that begins now."""
        outcomes = self._state.outcomes
        return CompletedRetraining(
            labelled=self._state.labelled,
            onset_at=decision.onset_at,
            rows=rows_since(decision.onset_at, outcomes),
            until_at=max(outcome.occurred_at for outcome in outcomes),
            trigger=decision.trigger,
            promoted=False,
            kind=decision.kind,
        )

    def _inputs(self, past: CompletedRetraining, decision: Retrain, command: Command | None) -> dict[str, Any]:
        """Return the facts behind a decision, from which `driftloop case --replay` repeats it."""
        first, last = self._state.offsets
        chosen = msgspec.structs.replace(self._settings.retrain, mixture=self._tools.mixture is not None)
        inputs = {
            "onset_at": past.onset_at,
            "first_offset": first,
            "last_offset": last,
            "labelled": past.labelled,
            "rows": past.rows,
            "corrections": self._state.corrected,
            "asked_by": "" if command is None else command.by,
            "settings": msgspec.to_builtins(chosen),
            "kept": outcomes_kept(self._settings.retrain),
            "searching": self.searching,
        }
        return inputs | {"details": dict(decision.details)} if decision.details else inputs

    def _make_run(self, past: CompletedRetraining, run_log: RetrainingLog, scratch: Path) -> RetrainingRun:
        tools = self._tools
        numbered = self._state.outcomes_with_offsets[-self._settings.retrain.window :]
        offsets = numbered[0][0], numbered[-1][0]
        outcomes = [outcome for _, outcome in numbered]
        window = build_window(outcomes, offsets, past.onset_at, tools.store, tools.encoder, keep=True)
        if tools.mixture is not None:
            window = replace(window, given=probabilities_given(outcomes))
        window = weight_labels(window, self._settings.retrain.seed)
        return RetrainingRun(tools, window, past, run_log, scratch, self._seconds_since(past.onset_at))

    def _seconds_since(self, onset_at: float) -> float:
        """Return the seconds since the first prediction of a concept, on the clock of the predictions."""
        predicted = [
            outcome.predicted_at
            for outcome in self._state.outcomes
            if outcome.occurred_at >= onset_at and outcome.predicted_at
        ]
        return max(0.0, time.time() - min(predicted)) if predicted else 0.0

    def _supersede(self, decision: Retrain) -> None:
        """End the open retrainings before a search, which needs the processors."""
        for run in list(self._open):
            if decision.kind == "search":
                self._step(run, partial(run.conclude, f"superseded by the next retraining ({decision.trigger})"))

    def _step(self, run: RetrainingRun, action: Callable[[], None]) -> None:
        """Do a step of an open retraining, and close it if it has failed or is finished."""
        try:
            action()
        except Exception as error:
            run.cancel(str(error)[:500])
            self.failure = run.log.fail(error)
            self._open.remove(run)
            return
        if not run.running:
            self._end(run)

    def _reason_to_cancel(self, past: CompletedRetraining) -> str | None:
        """Return why the quick fits under way are pointless: the worker stops, or a new drift has begun."""
        if self._stopped():
            return STOPPED
        self._state.poll(100)
        alerts = self._state.alerts
        if alerts and alerts[-1].onset_at > past.until_at:
            return f"superseded by alert {alerts[-1].alert_id}"
        return None

    def _end(self, run: RetrainingRun) -> None:
        """Close an open retraining: its policy record and its final message carry the same facts."""
        self._open.remove(run)
        past = replace(run.past, promoted=run.promoted)
        self._state.past[self._state.past.index(run.past)] = past
        self._close(run.log, past, run.scratch)

    def _close(self, run_log: RetrainingLog, past: CompletedRetraining, scratch: Path) -> None:
        """Remove the files of a retraining, and write its final message."""
        shutil.rmtree(scratch, ignore_errors=True)
        if self._stopped():
            run_log.write("failed", STOPPED)
        else:
            outcome = "a better model was promoted" if past.promoted else "the champion stays"
            run_log.write("finished", outcome, scores={"past": asdict(past)})
