"""Fencing of `model-updates` and `mixture-updates`: messages of a retrainer that has lost its lease are dropped.

See `driftloop.core.coordination.leader_lease`.
"""

from __future__ import annotations

from driftloop.core.messages import Message, MixtureUpdate, ModelUpdate


class FencingFilter:
    """Filter for the messages of both topics, each of which must be passed in its order."""

    def __init__(self) -> None:
        self._greatest: dict[tuple[type[Message], str], int] = {}

    def admits(self, message: Message) -> bool:
        """Return False if an update has a smaller fencing token than an earlier update of the same stream."""
        if not isinstance(message, ModelUpdate | MixtureUpdate):
            return True
        key = (type(message), message.stream)
        if message.fence < self._greatest.get(key, 0):
            return False
        self._greatest[key] = message.fence
        return True
