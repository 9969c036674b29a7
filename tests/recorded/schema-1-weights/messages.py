"""Messages of all topics as typed structs, with their JSON codec.

Times are Unix seconds (UTC). ``position`` is the 0-based place of an event in its stream, or -1 if the producer does
not know it. Later messages about the event repeat it, so that each topic can be read alone.

Every message carries its schema number. New fields always have a default, and readers ignore unknown fields, so that
old and new processes can read each other. This needs no new number. Any other change, such as a removed field or a
field with a new meaning, raises `SCHEMA`. An older reader rejects such a message, which then becomes a dead letter and
not a wrong answer. `tests/recorded/` holds messages of every schema and the results of their readers.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

SCHEMA = 1
"""Newest schema that this version reads, and the one that it writes. Messages without a number have schema 1."""

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""Whole numbers that every JSON reader and the monitor's stored state can hold."""
Position = Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)]
Time = Annotated[float, msgspec.Meta(ge=-62_135_596_800, le=253_402_300_799)]
"""Unix seconds from year 1 to year 9999, the range of `datetime`."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Size = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
"""Number whose square is finite."""
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Class = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
"""Label of bounded length, so that an outcome is only slightly larger than its prediction."""
Version = Annotated[str, msgspec.Meta(max_length=64)]

Kind = Literal["answer", "refresh", "search"]
"""Kind of a retraining: first answer to a drift, refresh with newer labels, or search by all candidates."""

Signal = Literal["error", "loss", "confidence", "mix", "embedding", "vocabulary"]
"""Signals that the monitor watches for drift."""
SIGNALS: tuple[Signal, ...] = get_args(Signal)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA


class Event(Message, frozen=True, kw_only=True):
    """Text to be scored."""

    event_id: EventId
    text: str
    segment: str = ""
    occurred_at: Time
    position: Position = -1


class Prediction(Message, frozen=True, kw_only=True):
    """Prediction of a model version for an event."""

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
    """True if the model was trained on this event, so that it does not test the model. The first champion scores the
    events that it was trained on."""
    encoder: str = ""
    """Start of the digest of the encoder whose embedding of the text is in the store. Empty: no embedding is stored."""
    revision: Whole = 0
    """Number of the `MixtureUpdate` that changed the version last. 0: the version as it was registered."""
    reference: dict[str, Share] = {}
    """Probabilities of the version as it was registered, if labels have changed it since. Drift is looked for in these:
    the changes of a model would look like those of the stream. Empty: the version has not changed."""

    @property
    def confidence(self) -> float:
        """Largest probability. 0 without any."""
        return max(self.probabilities.values(), default=0.0)

    @property
    def watched(self) -> tuple[str, float]:
        """Label and confidence of the version as it was registered."""
        return _most_probable(self.reference, self.label, self.confidence)


class Label(Message, frozen=True, kw_only=True):
    """True label of an event, which arrives later and independently."""

    event_id: EventId
    label: Class
    annotator: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    labelled_at: Time
    position: Position = -1
    feedback: bool = False
    """True for a human label on this prediction. The next retraining uses it even if another label arrived first."""


class Outcome(Message, frozen=True, kw_only=True):
    """Prediction joined with its label: one row of the training log."""

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
    predicted_at: Time = 0.0
    """Copied from the prediction. 0: unknown."""
    in_sample: bool = False
    """Copied from the prediction. If true, the outcome does not count for the model's accuracy."""
    probabilities: dict[str, Share] = {}
    """Copied from the prediction."""
    annotator: str = ""
    """Name of the annotator. Empty if unknown."""
    route: str = ""
    """Copied from the prediction."""
    reference: dict[str, Share] = {}
    """Copied from the prediction."""

    @property
    def watched(self) -> tuple[str, float]:
        """Label and confidence of the version as it was registered."""
        return _most_probable(self.reference, self.predicted, self.confidence)


class DriftAlert(Message, frozen=True, kw_only=True):
    """Alarm of a drift detector, with the changes that it found."""

    alert_id: str
    stream: str
    detector: str
    signal: Signal
    """Signal of the detector. For several fused signals, the one with the strongest evidence."""
    severity: Size
    """Mean of the signal after the change minus the mean before it. For the mix, the total variation distance."""
    position: Position
    """Stream position of the event that raised the alarm."""
    onset: Position
    """Estimated stream position at which the change began."""
    outcome_offset: Position
    """Offset in `outcomes` of the last labelled event that was read. -1 before the first."""
    onset_at: Time
    """`occurred_at` of the event at the estimated onset. Later events belong to the new concept."""
    window: Position
    """Observations of the signal since the estimated onset."""
    model_version: Version
    detected_at: Time
    evidence: dict[str, Any] = {}
    """Changes with their values before and after the onset; see `stream_processors.drift.explanation`."""
    kind: Literal["covariate", "label", "concept", "unknown"] = "unknown"
    """Likely kind of the change: covariate (the texts), label (the mix of labels), or concept (the label of a text)."""
    onset_low: Position = -1
    onset_high: Position = -1
    """Stream positions between which the change likely began. -1 if the detector gives no interval."""
    fired: dict[str, Size] = {}
    """Signals behind the alarm with their shares of the evidence, largest first."""


class ModelUpdate(Message, frozen=True, kw_only=True):
    """Model version that scores the stream from now on."""

    stream: str
    version: Version
    digest: str
    """SHA-256 of the bundle's manifest."""
    action: Literal["promote", "rollback"]
    reason: str
    trigger: str = ""
    published_at: Time
    fence: Whole = 0
    """Fencing token, greater for each new retrainer. An update with a smaller token than an earlier one is void."""


class MixtureUpdate(Message, frozen=True, kw_only=True):
    """Weights of a mixture of experts from now on, and one expert that has changed.

    A message without an expert is a sample of the weights over time. It changes nothing.
    """

    stream: str
    version: Version
    """Registered model whose mixture it changes. It is void for any other model."""
    revision: Whole
    """Number of the update since that model, from 1 on."""
    outcome_offset: Position
    """Offset in `outcomes` of the last label that it has learnt. -1 before the first."""
    onset_at: Time | None = None
    """`occurred_at` of the first event after the last drift that it knows of. `null` before the first."""
    weights: dict[str, Share]
    """Weight of each expert; they sum to 1."""
    expert: str = ""
    """Name of the expert that has changed. Empty: a sample."""
    classes: list[Class] = []
    """The k classes of the expert."""
    body: str = ""
    """Parameters of the expert; see `driftloop.core.models.mixture_update`. Base64 of a safetensors file."""
    published_at: Time
    fence: Whole = 0
    """Fencing token, as in `ModelUpdate`."""
    signature: str = ""
    """HMAC-SHA256 of the message without this field, by the signing key."""

    @property
    def is_sample(self) -> bool:
        """Return True if the message changes nothing."""
        return not self.expert


class Retraining(Message, frozen=True, kw_only=True):
    """State change of one retraining."""

    run_id: str
    stream: str
    state: Literal[
        "queued", "searching", "gated", "shadow", "waiting", "promoted", "rejected", "rolled-back", "failed", "finished"
    ]
    trigger: str
    """Alert id, `bootstrap`, or a reason of the policy."""
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
        """Return True if this ends the whole retraining. The failure of a single candidate does not."""
        return self.state == "finished" or (self.state == "failed" and not self.candidate)


class Command(Message, frozen=True, kw_only=True):
    """Command of a user to the retrainer. The response is on `retraining`, with ``command_id`` as the run id."""

    command_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    stream: str
    action: Literal["promote", "reject", "rollback", "retrain"]
    version: Version = ""
    """Version of the model. Empty for a retraining, and for a rollback to the champion's predecessor."""
    by: Annotated[str, msgspec.Meta(max_length=200)]
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    at: Time


class DeadLetter(Message, frozen=True, kw_only=True):
    """Message that could not be processed, kept byte for byte."""

    key: str | None
    """First KiB of the message's key."""
    value_base64: str
    size: int
    """Bytes of the original. A value over 256 KiB is cut; `topic`, `partition` and `offset` locate all of it."""
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
    """Return a message as UTF-8 JSON."""
    return _encoder.encode(message)


def decode(kind: type[M], data: bytes) -> M:
    """Decode a message.

    Args:
        kind: Type of the message.
        data: UTF-8 JSON.

    Raises:
        ValueError: The data are not JSON, a field is missing or has a wrong type, or the schema is newer. The message
            names the field.
    """
    try:
        message: M = _decoder(kind).decode(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"text that is not UTF-8: {error}") from error
    except msgspec.DecodeError as error:
        _refuse_newer(_schema_of(data))
        raise ValueError(str(error)) from error
    except RecursionError as error:  # msgspec skips unknown fields recursively
        raise ValueError("JSON is nested too deeply") from error
    _refuse_newer(message.schema)
    return message


def _most_probable(probabilities: dict[str, Share], label: str, confidence: float) -> tuple[str, float]:
    """Return the most probable class and its probability, or the label and confidence given if there are none."""
    if not probabilities:
        return label, confidence
    return max(probabilities.items(), key=lambda item: item[1])


def _decoder(kind: type[Message]) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = msgspec.json.Decoder(kind)
    return found


def _schema_of(data: bytes) -> int:
    """Return the schema of a message that does not fit: a newer one may lack fields of this version."""
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
    """Create a dead letter that fits into any topic.

    Args:
        key: Key of the message.
        value: Value of the message.
        error: Reason why it could not be processed.
        where: Role of the process that read it.
        source: Topic, partition and offset of the message.
        at: Current time in Unix seconds.
    """
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
