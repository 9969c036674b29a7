"""Fencing of `model-updates`: messages of a retrainer that has lost its lease are dropped.

See `driftloop.core.coordination.leader_lease`.
"""

from __future__ import annotations

from driftloop.core.messages import Message, ModelUpdate


class FencingFilter:
    """Filter for the messages of `model-updates`, which must be passed in their order."""

    def __init__(self) -> None:
        self._greatest: dict[str, int] = {}

    def admits(self, message: Message) -> bool:
        """Return False if an update has a smaller fencing token than an earlier update of the same stream."""
        if not isinstance(message, ModelUpdate):
            return True
        if message.fence < self._greatest.get(message.stream, 0):
            return False
        self._greatest[message.stream] = message.fence
        return True
