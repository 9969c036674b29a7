"""Which word on `model-updates` counts, where a retrainer that was replaced still had one on its way (see `lease`)."""

from __future__ import annotations

from driftloop.core.messages import Message, ModelUpdate


class FencingFilter:
    """Sees the messages of `model-updates` in their order, and lets those through that are not void."""

    def __init__(self) -> None:
        self._greatest: dict[str, int] = {}

    def admits(self, message: Message) -> bool:
        """False for an update whose fencing token is smaller than that of one seen before it on the same stream."""
        if not isinstance(message, ModelUpdate):
            return True
        if message.fence < self._greatest.get(message.stream, 0):
            return False
        self._greatest[message.stream] = message.fence
        return True
