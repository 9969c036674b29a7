"""Every message that crosses a topic, as a typed struct with its JSON codec.

Times are Unix seconds (UTC). ``position`` is the 0-based place of an event in its stream, where the producer
knows it; it is carried along so that any topic can be read on its own.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, TypeVar

import msgspec

Position = Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)]
"""Larger ones would neither survive other JSON readers nor fit the monitor's stored state."""


Kind = Literal["answer", "refresh", "search"]
"""What a retraining is: the first answer to a drift, a refresh of what was learnt since, or a search by all."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message; unknown fields are ignored, so that a newer producer does not break an older reader."""


class Event(Message, frozen=True, kw_only=True):
    """A text to be scored."""

    event_id: str
    text: str
    segment: str = ""
    occurred_at: float
    position: Position = -1


class Prediction(Message, frozen=True, kw_only=True):
    """What a model version said about an event."""

    event_id: str
    label: str
    probabilities: dict[str, float]
    model_version: str
    route: str
    latency_ms: float
    """Milliseconds from reading the batch to the prediction."""
    text: str
    segment: str = ""
    occurred_at: float
    predicted_at: float
    position: Position = -1
    in_sample: bool = False
    """The model was trained on this event (the first champion scores its own first slice): not a test of it."""
    encoder: str = ""
    """Beginning of the digest of the encoder whose embedding of the text is in the store; empty: none is."""


class Label(Message, frozen=True, kw_only=True):
    """The true label, which comes late and on its own clock."""

    event_id: str
    label: str
    annotator: str = ""
    labelled_at: float
    position: Position = -1


class Outcome(Message, frozen=True, kw_only=True):
    """A prediction joined with its label: one line of the training log."""

    event_id: str
    text: str
    segment: str = ""
    occurred_at: float
    position: Position = -1
    predicted: str
    confidence: float
    label: str
    correct: bool
    model_version: str
    latency_ms: float
    labelled_at: float
    in_sample: bool = False
    """Copied from the prediction: such an outcome says nothing about the model's accuracy."""
    probabilities: dict[str, float] = {}
    """Copied from the prediction."""
    annotator: str = ""
    """Who gave the label, where that is known."""


class DriftAlert(Message, frozen=True, kw_only=True):
    """A detector's alarm, with what moved."""

    alert_id: str
    stream: str
    detector: str
    signal: Literal["error", "loss", "confidence", "mix", "embedding", "vocabulary"]
    """The one that was watched; of several fused ones the one with the strongest evidence."""
    severity: float
    """Mean of the signal after the change minus the mean before it, for the mix the total variation distance."""
    position: int
    """Stream position of the event at which the alarm was raised."""
    onset: int
    """Estimated stream position at which the change began."""
    outcome_offset: int
    """Offset in `outcomes` of the last labelled event seen, -1 before the first."""
    onset_at: float
    """`occurred_at` of the event at the estimated onset: what came from then on belongs to the new concept."""
    window: int
    """Observations of the signal since the estimated onset."""
    model_version: str
    detected_at: float
    evidence: dict[str, Any] = {}
    """What moved, each with its value before and after the onset; see `stream_processors.drift.evidence`."""
    kind: Literal["covariate", "label", "concept", "unknown"] = "unknown"
    """What likely changed: the texts, the mix of labels, or what a text's label is."""
    onset_low: int = -1
    onset_high: int = -1
    """Stream positions between which the change likely began; -1 where the detector does not say."""
    fired: dict[str, float] = {}
    """The signals behind the alarm with the share of each in the evidence, largest first."""


class ModelUpdate(Message, frozen=True, kw_only=True):
    """The version that the stream is to be scored with from now on."""

    stream: str
    version: str
    digest: str
    """SHA-256 of the bundle's manifest."""
    action: Literal["promote", "rollback"]
    reason: str
    trigger: str = ""
    published_at: float
    fence: int = 0
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
    at: float
    position: int = -1
    candidate: str = ""
    version: str = ""
    seconds: float = 0.0
    scores: dict[str, Any] = {}
    kind: Kind = "search"

    @property
    def ends(self) -> bool:
        """Whether the whole retraining is over with this, well or not; a candidate's own failure is not its end."""
        return self.state == "finished" or (self.state == "failed" and not self.candidate)


class DeadLetter(Message, frozen=True, kw_only=True):
    """A message that could not be processed, kept byte for byte."""

    key: str | None
    value_base64: str
    size: int
    """Bytes of the original; a value over 256 KiB is cut, and `topic`, `partition`, `offset` say where all of it is."""
    error: str
    where: str
    topic: str
    partition: int
    offset: int
    at: float


M = TypeVar("M", bound=Message)
_encoder = msgspec.json.Encoder()
_decoders: dict[type[Message], msgspec.json.Decoder[Any]] = {}


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return _encoder.encode(message)


def decode(kind: type[M], data: bytes) -> M:
    """Read a message of type ``kind``.

    Raises:
        ValueError: not JSON, or a field is missing or of the wrong type; the text names the field.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        message: M = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:  # an unknown field is skipped, however deep it goes, on the interpreter's stack
        raise ValueError("JSON is nested too deeply") from error
    return message


def dead_letter(
    key: bytes | None, value: bytes | None, error: str, where: str, source: tuple[str, int, int], at: float
) -> DeadLetter:
    """A dead letter for the message at ``source`` (topic, partition, offset)."""
    body = value or b""
    return DeadLetter(
        key=None if key is None else key.decode("utf-8", "replace"),
        value_base64=base64.b64encode(body[: 256 * 1024]).decode("ascii"),
        size=len(body),
        error=error,
        where=where,
        topic=source[0],
        partition=source[1],
        offset=source[2],
        at=at,
    )
