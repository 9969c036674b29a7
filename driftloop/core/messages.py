"""Every message that crosses a topic, as a typed struct with its JSON codec.

Times are Unix seconds (UTC). ``position`` is the 0-based place of an event in its stream, where the producer
knows it; it is carried along so that any topic can be read on its own.

Every message says its schema. Fields are only ever added, with a default, and a reader passes over those it does not
know: that needs no new number, and old and new processes read each other. Whatever else changes (a field goes, or comes
to mean something else) raises `SCHEMA`; a reader that is older refuses such a message and says so, which makes it a
dead letter and not a wrong answer. `tests/recorded/` holds messages of every schema, and what its readers made of them.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

SCHEMA = 1
"""The newest schema that this version reads, and the one it writes. Messages without a number are of schema 1."""

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""Larger ones would neither survive other JSON readers nor fit the monitor's stored state."""
Position = Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)]
Time = Annotated[float, msgspec.Meta(ge=-62_135_596_800, le=253_402_300_799)]
"""From the year 1 to the year 9999, which is what a calendar can show."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Size = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
"""A figure whose square is still one."""
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Class = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
"""Of bounded length, so that an outcome is hardly larger than its prediction."""
Version = Annotated[str, msgspec.Meta(max_length=64)]

Kind = Literal["answer", "refresh", "search"]
"""What a retraining is: the first answer to a drift, a refresh of what was learnt since, or a search by all."""


Signal = Literal["error", "loss", "confidence", "mix", "embedding", "vocabulary"]
"""What is watched for drift."""
SIGNALS: tuple[Signal, ...] = get_args(Signal)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What every message has."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA


class Event(Message, frozen=True, kw_only=True):
    """A text to be scored."""

    event_id: EventId
    text: str
    segment: str = ""
    occurred_at: Time
    position: Position = -1


class Prediction(Message, frozen=True, kw_only=True):
    """What a model version said about an event."""

    event_id: EventId
    label: str
    probabilities: dict[str, Share]
    model_version: Version
    route: str
    latency_ms: Size
    """Milliseconds from reading the batch to the prediction."""
    text: str
    segment: str = ""
    occurred_at: Time
    predicted_at: Time
    position: Position = -1
    in_sample: bool = False
    """The model was trained on this event (the first champion scores its own first slice): not a test of it."""
    encoder: str = ""
    """Beginning of the digest of the encoder whose embedding of the text is in the store; empty: none is."""


class Label(Message, frozen=True, kw_only=True):
    """The true label, which comes late and on its own clock."""

    event_id: EventId
    label: Class
    annotator: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    labelled_at: Time
    position: Position = -1
    feedback: bool = False
    """A person's word on this very prediction: what is retrained next believes it where another label came first."""


class Outcome(Message, frozen=True, kw_only=True):
    """A prediction joined with its label: one line of the training log."""

    event_id: EventId
    text: str
    segment: str = ""
    occurred_at: Time
    position: Position = -1
    predicted: str
    confidence: Share
    label: str
    correct: bool
    model_version: Version
    latency_ms: Size
    labelled_at: Time
    in_sample: bool = False
    """Copied from the prediction: such an outcome says nothing about the model's accuracy."""
    probabilities: dict[str, Share] = {}
    """Copied from the prediction."""
    annotator: str = ""
    """Who gave the label, where that is known."""
    route: str = ""
    """Copied from the prediction."""


class DriftAlert(Message, frozen=True, kw_only=True):
    """A detector's alarm, with what moved."""

    alert_id: str
    stream: str
    detector: str
    signal: Signal
    """The one that was watched; of several fused ones the one with the strongest evidence."""
    severity: Size
    """Mean of the signal after the change minus the mean before it, for the mix the total variation distance."""
    position: Position
    """Stream position of the event at which the alarm was raised."""
    onset: Position
    """Estimated stream position at which the change began."""
    outcome_offset: Position
    """Offset in `outcomes` of the last labelled event seen, -1 before the first."""
    onset_at: Time
    """`occurred_at` of the event at the estimated onset: what came from then on belongs to the new concept."""
    window: Position
    """Observations of the signal since the estimated onset."""
    model_version: Version
    detected_at: Time
    evidence: dict[str, Any] = {}
    """What moved, each with its value before and after the onset; see `stream_processors.drift.explanation`."""
    kind: Literal["covariate", "label", "concept", "unknown"] = "unknown"
    """What likely changed: the texts, the mix of labels, or what a text's label is."""
    onset_low: Position = -1
    onset_high: Position = -1
    """Stream positions between which the change likely began; -1 where the detector does not say."""
    fired: dict[str, Size] = {}
    """The signals behind the alarm with the share of each in the evidence, largest first."""


class ModelUpdate(Message, frozen=True, kw_only=True):
    """The version that the stream is to be scored with from now on."""

    stream: str
    version: Version
    digest: str
    """SHA-256 of the bundle's manifest."""
    action: Literal["promote", "rollback"]
    reason: str
    trigger: str = ""
    published_at: Time
    fence: Whole = 0
    """Greater for every retrainer that takes office: an update with a smaller one than another's is void."""


class Retraining(Message, frozen=True, kw_only=True):
    """A state change of one retraining."""

    run_id: str
    stream: str
    state: Literal[
        "queued", "searching", "gated", "shadow", "waiting", "promoted", "rejected", "rolled-back", "failed", "finished"
    ]
    trigger: str
    """Alert id, `bootstrap`, or the policy's own word."""
    reason: str
    at: Time
    position: Position = -1
    candidate: str = ""
    version: Version = ""
    seconds: Size = 0.0
    scores: dict[str, Any] = {}
    kind: Kind = "search"

    @property
    def is_final(self) -> bool:
        """Whether the whole retraining is over with this, well or not; a candidate's own failure is not its end."""
        return self.state == "finished" or (self.state == "failed" and not self.candidate)


class Command(Message, frozen=True, kw_only=True):
    """What a person asks of the retrainer; it answers on `retraining`, with ``command_id`` as the run's id."""

    command_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    stream: str
    action: Literal["promote", "reject", "rollback", "retrain"]
    version: Version = ""
    """Of the model that is meant; empty for a retraining, and for a rollback to the champion's predecessor."""
    by: Annotated[str, msgspec.Meta(max_length=200)]
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    at: Time


class DeadLetter(Message, frozen=True, kw_only=True):
    """A message that could not be processed, kept byte for byte."""

    key: str | None
    """The first KiB of it."""
    value_base64: str
    size: int
    """Bytes of the original; a value over 256 KiB is cut, and `topic`, `partition`, `offset` say where all of it is."""
    error: str
    where: str
    topic: str
    partition: int
    offset: int
    at: Time


M = TypeVar("M", bound=Message)
_encoder = msgspec.json.Encoder()
_decoders: dict[type[Message], msgspec.json.Decoder[Any]] = {}


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return _encoder.encode(message)


def decode(kind: type[M], data: bytes) -> M:
    """Read a message of type ``kind``.

    Raises:
        ValueError: not JSON, a field is missing or of the wrong type (the text names it), or a newer schema.
    """
    try:
        message: M = _decoder(kind).decode(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"text that is not UTF-8: {error}") from error
    except msgspec.DecodeError as error:
        _refuse_newer(_schema_of(data))
        raise ValueError(str(error)) from error
    except RecursionError as error:  # an unknown field is skipped, however deep it goes, on the interpreter's stack
        raise ValueError("JSON is nested too deeply") from error
    _refuse_newer(message.schema)
    return message


def _decoder(kind: type[Message]) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = msgspec.json.Decoder(kind)
    return found


def _schema_of(data: bytes) -> int:
    """What a message that does not fit says of itself: one of a newer schema may lack what this version asks for."""
    try:
        return int(_decoder(Message).decode(data).schema)
    except (ValueError, RecursionError):
        return SCHEMA


def _refuse_newer(schema: int) -> None:
    if schema > SCHEMA:
        raise ValueError(f"its schema {schema} is newer than {SCHEMA}, the newest that is read here: upgrade driftloop")


def dead_letter(
    key: bytes | None, value: bytes | None, error: str, where: str, source: tuple[str, int, int], at: float
) -> DeadLetter:
    """A dead letter for the message at ``source`` (topic, partition, offset); it fits into any topic."""
    body = value or b""
    return DeadLetter(
        key=None if key is None else key[:1024].decode("utf-8", "replace"),
        value_base64=base64.b64encode(body[: 256 * 1024]).decode("ascii"),
        size=len(body),
        error=error[:2000],
        where=where,
        topic=source[0],
        partition=source[1],
        offset=source[2],
        at=at,
    )
