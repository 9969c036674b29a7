"""Updates of a mixture between two registered versions: small signed messages, each with one expert and all weights.

The parameters of an expert travel in half precision.
"""

from __future__ import annotations

import base64
import binascii
import hmac

import numpy as np
from msgspec.structs import replace
from safetensors import SafetensorError
from safetensors.numpy import load, save

from driftloop.core import messages
from driftloop.core.messages import MixtureUpdate
from driftloop.core.models.expert_features import COLUMNS
from driftloop.core.models.first_stage import are_columns
from driftloop.core.models.manifest import sign
from driftloop.core.models.mixture import LinearWeights, Mixture

MAX_BODY = 8 * 1024 * 1024
"""Maximum characters of a body."""


def encode_expert(weights: LinearWeights) -> str:
    """Return the parameters of an expert as the body of a message."""
    used = np.flatnonzero(weights.words.any(axis=1)).astype(np.int32)
    parts = {"embedding": weights.embedding, "words": weights.words[used], "bias": weights.bias}
    halves = {name: np.ascontiguousarray(part, dtype=np.float16) for name, part in parts.items()}
    return base64.b64encode(save(halves | {"columns": used})).decode("ascii")


def decode_expert(update: MixtureUpdate, dimension: int) -> LinearWeights:
    """Return the parameters in a message.

    Args:
        update: The message.
        dimension: Dimension of a widened embedding, d.

    Raises:
        ValueError: The body is damaged, or does not fit the classes and the dimension.
    """
    if len(update.body) > MAX_BODY:
        raise ValueError(f"an expert of more than {MAX_BODY:,} characters")
    try:
        found = load(base64.b64decode(update.body, validate=True))
    except (SafetensorError, binascii.Error) as error:
        raise ValueError(f"the expert cannot be read ({error})") from error
    k, columns = len(update.classes), found.get("columns", np.zeros(0))
    expected = {"embedding": (dimension, k), "words": (len(columns), k), "bias": (k,), "columns": (len(columns),)}
    if not k or len(set(update.classes)) < k or {name: part.shape for name, part in found.items()} != expected:
        raise ValueError(f"the expert is not one for {k} classes and {dimension} dimensions")
    if not are_columns(columns, COLUMNS):
        raise ValueError("the columns of the expert are not increasing numbers, or are out of range")
    numbers = {name: part.astype(np.float32) for name, part in found.items() if name != "columns"}
    if not all(found[name].dtype.kind == "f" and np.isfinite(part).all() for name, part in numbers.items()):
        raise ValueError("the expert has numbers that are not finite")
    words = np.zeros((COLUMNS, k), dtype=np.float32)
    words[columns] = numbers["words"]
    return LinearWeights(tuple(update.classes), numbers["embedding"], words, numbers["bias"])


class UpdateSeries:
    """Maker of the updates after one registered version.

    Args:
        stream: Stream id.
        version: Registered version.
        key: Signing key.
        revision: Number of the newest update of that version so far.
    """

    def __init__(self, stream: str, version: str, key: str, revision: int = 0) -> None:
        self._stream = stream
        self._version = version
        self._key = key
        self.revision = revision
        """Number of the newest update."""

    def make(
        self,
        mixture: Mixture,
        expert: str,
        outcome_offset: int,
        now: float,
        fence: int = 0,
        onset_at: float | None = None,
    ) -> MixtureUpdate:
        """Return the next update, signed.

        Args:
            mixture: Mixture with the changed expert.
            expert: Name of that expert.
            outcome_offset: Offset in `outcomes` of the last label that the mixture has learnt.
            now: Current time in Unix seconds.
            fence: Fencing token of the retrainer.
            onset_at: `occurred_at` of the first event after the last known drift; `None` without one.
        """
        self.revision += 1
        weights = mixture.expert(expert)
        update = replace(
            self.sample(mixture, outcome_offset, now, fence),
            onset_at=onset_at,
            expert=expert,
            classes=list(weights.classes),
            body=encode_expert(weights),
        )
        return signed(update, self._key)

    def sample(self, mixture: Mixture, outcome_offset: int, now: float, fence: int = 0) -> MixtureUpdate:
        """Return the weights after the newest update, for a chart of them over time.

        Args:
            mixture: The mixture.
            outcome_offset: Offset in `outcomes` of the last label that the mixture has learnt.
            now: Current time in Unix seconds.
            fence: Fencing token of the retrainer.
        """
        return MixtureUpdate(
            stream=self._stream,
            version=self._version,
            revision=self.revision,
            outcome_offset=outcome_offset,
            weights={name: float(weight) for name, weight in zip(mixture.names, mixture.weights, strict=True)},
            published_at=now,
            fence=fence,
        )


def signed(update: MixtureUpdate, key: str) -> MixtureUpdate:
    """Return a message with its signature.

    Args:
        update: The message.
        key: Signing key.
    """
    return replace(update, signature=_signature(update, key))


def check_signature(update: MixtureUpdate, key: str) -> None:
    """Check the signature of a message.

    Args:
        update: The message.
        key: Signing key.

    Raises:
        ValueError: The message was not signed with this key.
    """
    if not hmac.compare_digest(update.signature, _signature(update, key)):
        raise ValueError("an update of the mixture that is not signed with this key")


def apply_update(mixture: Mixture, update: MixtureUpdate) -> None:
    """Change a mixture as an update says.

    Args:
        mixture: Mixture of the version that the update names. It stays as it is if the update does not fit.
        update: The update.

    Raises:
        ValueError: The update does not fit the mixture.
    """
    if set(update.weights) != set(mixture.names) or update.expert not in set(mixture.names) - set(mixture.guests):
        raise ValueError(f"an update of the experts {', '.join(sorted(update.weights))[:200]}, which are others here")
    total = sum(update.weights.values())
    if abs(total - 1) > 1e-3:
        raise ValueError(f"weights of experts that sum to {total:.3f}")
    expert = decode_expert(update, len(mixture.embedding))
    mixture.set_expert(update.expert, expert)
    mixture.weights = np.asarray([update.weights[name] / total for name in mixture.names])


def _signature(update: MixtureUpdate, key: str) -> str:
    return sign(messages.encode(replace(update, signature="")), key)
