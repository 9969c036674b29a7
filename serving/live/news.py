"""Newest events of a loop as lines of text. Of a long reason only the first sentence is shown."""

from __future__ import annotations

from collections import Counter, deque

from driftloop.core.messages import DeadLetter, DriftAlert, Message, ModelUpdate, Retraining
from driftloop.core.terminal_text import escape_control_chars
from serving.cases.reasons import first_sentence
from serving.live.status import LoopStatus

KEPT = 200
"""Lines that are kept."""
DEAD_LETTERS = 5
"""Dead letters that get a line; later ones are only counted."""


class News:
    """Lines about alerts, promotions, retrainings, dead letters and restarts. They are safe to print."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT)
        self.total = 0
        """Lines so far; readers compare it to find the new ones."""
        self._dead_letters = 0
        self._notes = 0
        self._restarts: Counter[str] = Counter()

    def take(self, message: Message) -> None:
        """Add the line of a message, if its kind has one."""
        match message:
            case DriftAlert():
                self._add(
                    f"▲ drift: {message.signal} moved by {message.severity:+.3f} at event {message.position} "
                    f"(began about {message.onset}; {message.detector}, v{message.model_version})"
                )
            case ModelUpdate():
                sign = "●" if message.action == "promote" else "○"
                self._add(f"{sign} {describe_update(message)}: {first_sentence(message.reason)}")
            case Retraining() if message.state != "promoted":  # a promotion has its line from the model update
                self._add(f"retraining {describe_step(message)}")
            case DeadLetter():
                self._dead_letters += 1
                if self._dead_letters <= DEAD_LETTERS:
                    self._add(f"† dead letter from {message.topic}: {message.error}")
            case _:
                pass

    def take_status(self, status: LoopStatus) -> None:
        """Add the notes and restarts that are new since the previous call."""
        for note in status.notes[self._notes :]:
            self._add(note)
        self._notes = len(status.notes)
        for process in status.processes.values():
            if process.restarts > self._restarts[process.name]:
                self._restarts[process.name] = process.restarts
                reason = process.last_log_line or "its log is empty"
                self._add(f"! {process.name} ended and was started again: {reason}")

    def _add(self, line: str) -> None:
        self.lines.append(escape_control_chars(line, 400))
        self.total += 1


def describe_update(update: ModelUpdate) -> str:
    """Return a change of the champion as text."""
    return f"{'promoted' if update.action == 'promote' else 'rolled back to'} v{update.version}"


def describe_step(step: Retraining) -> str:
    """Return one step of a retraining as text."""
    reason = first_sentence(step.reason)
    return {
        "queued": f"queued: {reason}",
        "searching": f"fitting {step.candidate}: {reason}",
        "gated": f"{step.candidate} compared with the champion: {reason}",
        "shadow": f"{step.candidate} {reason}",
        "waiting": f"{step.candidate} {reason}",
        "rolled-back": f"version {step.version} put back: {reason}",
        "promoted": f"{step.candidate} promoted as v{step.version}",
        "rejected": f"{step.candidate} rejected: {reason}",
        "failed": f"{step.candidate or 'the retraining'} failed: {reason}",
        "finished": f"finished after {step.seconds:.1f} s: {reason}",
    }[step.state]
