"""Console consumer for driftloop's topics: one line for each message, with filters."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import msgspec

from driftloop.core import messages, topics
from driftloop.core.coordination.fencing import FencingFilter
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.messages import Message
from driftloop.core.settings import Settings
from driftloop.core.terminal_text import escape_control_chars

VOID = "ignored, from a retrainer that had lost its lease: "
"""Prefix of a model update that a fence refuses."""


@dataclass(frozen=True)
class Filters:
    """Conditions for a message to be shown; all must hold."""

    where: tuple[tuple[str, str], ...] = ()
    """Pairs of field and value. A dot leads into a nested object, as in `evidence.before`."""
    wrong: bool = False
    """Show only outcomes whose prediction was wrong."""

    @classmethod
    def parse(cls, where: Sequence[str] = (), segment: str | None = None, wrong: bool = False) -> Filters:
        """Return the filters of a command line.

        Args:
            where: Texts of the form `field=value`.
            segment: Segment to show; `None` for all.
            wrong: Show only outcomes whose prediction was wrong.

        Raises:
            DriftloopError: A text has no `=`.
        """
        pairs: list[tuple[str, str]] = [] if segment is None else [("segment", segment)]
        for text in where:
            name, sign, value = text.partition("=")
            if not sign or not name:
                raise DriftloopError(
                    f"The filter {text!r} is not of the form field=value. Write it as in `--where label=negative`."
                )
            pairs.append((name.strip(), value))
        if wrong:
            pairs.append(("correct", "false"))
        return cls(tuple(pairs), wrong)

    def check(self, topic: topics.Topic) -> None:
        """Check that the messages of a topic have the fields.

        Raises:
            DriftloopError: A field does not exist; the message lists the fields of the topic.
        """
        fields = set(topic.message.__struct_fields__)
        if self.wrong and "correct" not in fields:
            raise DriftloopError(
                f"--wrong works on the topic outcomes only. Messages on {topic.name} have no field 'correct'."
            )
        for name, _ in self.where:
            if name.partition(".")[0] not in fields:
                known = ", ".join(sorted(fields))
                raise DriftloopError(f"The messages on {topic.name} have no field {name!r}. Their fields are {known}.")

    def accept(self, message: Message) -> bool:
        """Return True if the message is to be shown."""
        fields = msgspec.to_builtins(message) if self.where else {}
        return all(_equal(_get(fields, name), value) for name, value in self.where)


@dataclass(frozen=True)
class View:
    """Options of `watch`."""

    filters: Filters = field(default_factory=Filters)
    from_beginning: bool = False
    """Start with the oldest message; otherwise with the next one."""
    most: int | None = None
    """Messages to show; `None` for no limit."""
    as_json: bool = False
    """Print JSON, one message per line."""


def watch(settings: Settings, topic_name: str, view: View, out: TextIO) -> int:
    """Print the messages of a topic as they arrive, and return their number.

    Args:
        settings: Settings of the stream.
        topic_name: Name of the topic, without its prefix.
        view: What to read and how to print it.
        out: Stream to write to.

    Raises:
        DriftloopError: The topic does not exist, or a filter does not fit it.
    """
    topic = find_topic(topic_name)
    view.filters.check(topic)
    if view.most == 0:
        return 0
    fence = FencingFilter()
    if topic.is_compacted and not view.from_beginning:
        # The fence must know the tokens of the updates before the first one that is printed.
        for update in clients.read_all(settings, topics.name(settings, topic), topic.message):
            fence.admits(update)
    shown = 0
    for key, value in _records(settings, topics.name(settings, topic), view.from_beginning):
        line = _line(topic, view, fence, key, value)
        if line is None:
            continue
        out.write(line + "\n")
        out.flush()
        shown += 1
        if shown == view.most:
            break
    return shown


def _line(topic: topics.Topic, view: View, fence: FencingFilter, key: bytes | None, value: bytes) -> str | None:
    """Return the line of one record; `None` if the filters leave it out, or if it deletes a key."""
    if topic.is_compacted and not value:
        return None
    try:
        message = messages.decode(topic.message, value)
    except ValueError as error:
        return None if view.filters.where else _undecodable(key, value, error, view.as_json)
    admitted = fence.admits(message)
    if not view.filters.accept(message):
        return None
    if view.as_json:
        return _ascii_json(messages.encode(message).decode())
    return ("" if admitted else VOID) + describe(message)


def find_topic(name: str) -> topics.Topic:
    """Return the topic with a name.

    Raises:
        DriftloopError: There is no such topic.
    """
    for topic in topics.ALL:
        if topic.name == name:
            return topic
    raise DriftloopError(f"There is no topic {name!r}: choose one of {', '.join(topic.name for topic in topics.ALL)}.")


def describe(message: Message) -> str:
    """Return the message as one line of text, with escaped control characters."""
    line = _DESCRIBE[type(message)](message)
    return escape_control_chars(line)


def _event(m: messages.Event) -> str:
    return f"{_clock(m.occurred_at)} {_at(m.position)} {m.segment or '-'}  {_text(m.text)}"


def _prediction(m: messages.Prediction) -> str:
    top = m.probabilities.get(m.label, math.nan)
    revision = f"+{m.revision}" if m.revision else ""
    return (
        f"{_clock(m.predicted_at)} {_at(m.position)} {m.label} {top:.2f}  v{m.model_version}{revision} {m.route} "
        f"{m.latency_ms:.0f} ms  {m.segment or '-'}  {_text(m.text)}"
    )


def _label(m: messages.Label) -> str:
    annotator = f"{m.annotator or 'unknown'}{' (feedback on the prediction)' if m.feedback else ''}"
    return f"{_clock(m.labelled_at)} {_at(m.position)} {m.label}  by {annotator}  {m.event_id}"


def _outcome(m: messages.Outcome) -> str:
    verdict = f"✓ {m.label}" if m.correct else f"✗ {m.predicted}, is {m.label}"
    sample = "  in sample" if m.in_sample else ""
    return (
        f"{_clock(m.labelled_at)} {_at(m.position)} {verdict} {m.confidence:.2f}  v{m.model_version}{sample}  "
        f"{m.segment or '-'}  {_text(m.text)}"
    )


def _alert(m: messages.DriftAlert) -> str:
    evidence = f"  {json.dumps(m.evidence, ensure_ascii=False)[:300]}" if m.evidence else ""
    return (
        f"{_clock(m.detected_at)} {_at(m.position)} ▲ {m.signal} moved by {m.severity:+.3f}  {m.detector}  "
        f"began about #{m.onset}, {m.window} seen since  v{m.model_version}{evidence}"
    )


def _update(m: messages.ModelUpdate) -> str:
    mark = "●" if m.action == "promote" else "○"
    return f"{_clock(m.published_at)} {mark} {m.action} v{m.version}  {m.reason}  {m.digest[:12]}"


def _mixture_update(m: messages.MixtureUpdate) -> str:
    shares = ", ".join(f"{name} {weight:.2f}" for name, weight in sorted(m.weights.items(), key=lambda one: -one[1]))
    changed = f"new {m.expert}" if m.expert else "sample"
    return (
        f"{_clock(m.published_at)} v{m.version}+{m.revision}  {changed}  {shares[:300]}  to outcome {m.outcome_offset}"
    )


def _retraining(m: messages.Retraining) -> str:
    parts = [_clock(m.at), m.run_id, m.state, m.candidate, f"v{m.version}" if m.version else ""]
    parts += [f"{m.seconds:.1f} s" if m.seconds else "", m.reason]
    parts += [json.dumps(m.scores, ensure_ascii=False)[:300] if m.scores else ""]
    return "  ".join(part for part in parts if part)


def _command(m: messages.Command) -> str:
    version = f" v{m.version}" if m.version else ""
    return f"{_clock(m.at)} {m.command_id}  {m.action}{version}  by {m.by}: {m.reason}"


def _dead_letter(m: messages.DeadLetter) -> str:
    return f"{_clock(m.at)} † {m.topic}[{m.partition}] offset {m.offset}, {m.size} bytes, by {m.where}: {m.error}"


_DESCRIBE: dict[type[Message], Callable[[Any], str]] = {
    messages.Event: _event,
    messages.Prediction: _prediction,
    messages.Label: _label,
    messages.Outcome: _outcome,
    messages.DriftAlert: _alert,
    messages.ModelUpdate: _update,
    messages.MixtureUpdate: _mixture_update,
    messages.Retraining: _retraining,
    messages.Command: _command,
    messages.DeadLetter: _dead_letter,
}


def _records(settings: Settings, topic: str, from_beginning: bool) -> Iterator[tuple[bytes | None, bytes]]:
    """Yield key and value of each record, without end.

    Raises:
        DriftloopError: The topic does not exist.
    """
    with clients.assigned_consumer(settings, topic) as client:
        if not client.assignment():
            raise DriftloopError(
                f"The topic {topic} does not exist at {settings.kafka}: create it with `driftloop topics`, or correct "
                "DRIFTLOOP_TOPIC_PREFIX."
            )
        if not from_beginning:
            client.seek_to_end()
        while True:
            for records in client.poll(timeout_ms=500).values():
                for record in records:
                    yield record.key, record.value or b""


def _undecodable(key: bytes | None, value: bytes, error: ValueError, as_json: bool) -> str:
    """Return the line of a record that is no message of the topic."""
    head = value[:80].decode("utf-8", "replace")
    if as_json:
        return json.dumps({"undecodable": str(error), "size": len(value), "head": head})
    name = (key or b"").decode("utf-8", "replace")
    return escape_control_chars(f"! key {name!r}, {len(value)} bytes, cannot be read ({error}): {head}")


def _ascii_json(line: str) -> str:
    """Return equivalent JSON without characters that could control a terminal."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] if ord(c) > 0x7F else f"\\u{ord(c):04x}" for c in line)


def _get(fields: Any, name: str) -> Any:
    """Return a field; a dot in its name leads into a nested object. `None` if it does not exist."""
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, dict) else None
    return fields


def _equal(found: Any, wanted: str) -> bool:
    """Return True if a value equals a text of the command line, compared as the value's type."""
    if isinstance(found, bool):
        return wanted.lower() == str(found).lower()
    if isinstance(found, int | float):
        try:
            return float(found) == float(wanted)
        except ValueError:
            return False
    return str(found) == wanted if found is not None else wanted == ""


def _clock(at: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "--:--:--"


def _at(position: int) -> str:
    return f"#{position}" if position >= 0 else "#-"


def _text(text: str) -> str:
    return escape_control_chars(text, 160)
