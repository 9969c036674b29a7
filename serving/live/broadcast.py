"""Messages handed on to whoever listens now: from the thread that follows the topics to the server's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import HTTPException

from driftloop.core.messages import Message, encode

KEPT = 1000
"""Messages that wait for a slow listener; older ones are left out, and it is told how many."""
MOST = 100
"""Listeners at a time."""


class Listener:
    """One who listens to one kind of message."""

    def __init__(self, kind: type[Message]) -> None:
        self.kind = kind
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(KEPT)
        self._left_out = 0

    def offer(self, body: bytes | None) -> None:
        """Called from any thread; None is the end."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, body)

    async def messages(self) -> AsyncIterator[tuple[bytes, int]]:
        """Each message as JSON, and how many were left out before it."""
        while (body := await self._queue.get()) is not None:
            left_out, self._left_out = self._left_out, 0
            yield body, left_out

    def _take(self, body: bytes | None) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self._left_out += 1
        self._queue.put_nowait(body)


class Broadcast:
    """All who listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._closed = False

    def publish(self, message: Message) -> None:
        """Hand a message to those who listen to its kind."""
        with self._lock:
            wanted = [one for one in self._listeners if isinstance(message, one.kind)]
        if wanted:
            body = encode(message)
            for one in wanted:
                one.offer(body)

    def listen(self, kind: type[Message]) -> Listener:
        """A new listener; give it back with `leave`.

        Raises:
            HTTPException: 503 where there are too many, or no more messages will come.
        """
        listener = Listener(kind)
        with self._lock:
            if self._closed or len(self._listeners) >= MOST:
                raise HTTPException(503, f"{MOST} listen already: try again later.", headers={"Retry-After": "10"})
            self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """It listens no more."""
        with self._lock:
            self._listeners.discard(listener)

    def close(self) -> None:
        """Tell all that nothing more will come. A signal's handler may call it in the middle of anything: no lock."""
        self._closed = True
        for one in tuple(self._listeners):
            one.offer(None)
