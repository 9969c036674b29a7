"""Broadcast of new messages, from the thread that follows the topics to the listeners in the server's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import HTTPException

from driftloop.core.messages import Message, encode

KEPT = 1000
"""Messages that wait for a slow listener. Older ones are dropped and counted."""
MOST = 100
"""Most listeners at the same time."""


class Listener:
    """Listener to one kind of message."""

    def __init__(self, kind: type[Message]) -> None:
        self.kind = kind
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(KEPT)
        self._left_out = 0

    def offer(self, body: bytes | None) -> None:
        """Queue an encoded message; `None` ends the stream. Any thread may call it."""
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._put, body)

    async def messages(self) -> AsyncIterator[tuple[bytes, int]]:
        """Yield each message as JSON, with the number of messages that were dropped before it."""
        while (body := await self._queue.get()) is not None:
            left_out, self._left_out = self._left_out, 0
            yield body, left_out

    def _put(self, body: bytes | None) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self._left_out += 1
        self._queue.put_nowait(body)


class Broadcast:
    """All listeners."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._closed = False

    def publish(self, message: Message) -> None:
        """Give a message to the listeners of its kind."""
        with self._lock:
            interested = [one for one in self._listeners if isinstance(message, one.kind)]
        if interested:
            body = encode(message)
            for one in interested:
                one.offer(body)

    def add_listener(self, kind: type[Message]) -> Listener:
        """Return a new listener to a kind of message. Give it back with `remove`.

        Raises:
            HTTPException: 503 if there are too many listeners, or the server is shutting down.
        """
        listener = Listener(kind)
        with self._lock:
            if self._closed or len(self._listeners) >= MOST:
                raise HTTPException(
                    503, f"There are already {MOST} listeners. Try again later.", headers={"Retry-After": "10"}
                )
            self._listeners.add(listener)
        return listener

    def remove(self, listener: Listener) -> None:
        """Remove a listener."""
        with self._lock:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End the streams of all listeners. It takes no lock, because a signal handler calls it."""
        self._closed = True
        for one in tuple(self._listeners):
            one.offer(None)
